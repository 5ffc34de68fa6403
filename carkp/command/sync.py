"""``carkp sync``: sending of reports that wait for the tracking server."""

import sys
from pathlib import Path

import click

from carkp.command.errors import user_errors


@click.command("sync")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--uri", default="", help="tracking server to send to; empty: the server of each run")
def command(folder: Path | None, uri: str) -> None:
    """Send reports of runs that were kept during an outage of the tracking server.

    FOLDER is one that a stage has named, or one that holds such folders; left out: runs/spool of the project.
    """
    with user_errors():
        from carkp.workflow.cli import guarded

        sys.exit(guarded(lambda: _sync(folder, uri)))


def _sync(folder: Path | None, uri: str) -> int:
    """Send the reports; return 1 if the server refused some."""
    from carkp.tracking.delivery import spool_root
    from carkp.tracking.store import TrackingError
    from carkp.tracking.sync import describe, sync

    place = folder or spool_root()
    if folder is not None and not folder.is_dir():
        raise TrackingError(f"{folder}: no such folder: give the folder that a stage printed, or none for runs/spool")
    num_runs = num_refused = 0
    for sent in sync(place, uri):
        click.echo(describe(sent))
        num_runs, num_refused = num_runs + 1, num_refused + sent.num_refused
    if num_runs == 0:
        click.echo(f"{place}: there are no reports to send")
    return 1 if num_refused else 0
