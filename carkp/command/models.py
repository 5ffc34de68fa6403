"""``carkp models``: the models that can be named in commands."""

import importlib.util

import click

from carkp.entry_points import INSTALL_TRAIN
from carkp.shipped import ShippedModelError, find_shipped, shipped_names

MIB = 2**20


@click.command("models")
def command() -> None:
    """List the models that you can give to a command: those that come with carkp, and the newest of each stage."""
    for name in shipped_names():
        try:
            model = find_shipped(name)
        except ShippedModelError as error:
            click.echo(f"{name}: not in this installation ({error})")
            continue
        click.echo(f"{name}: comes with carkp; card: {model.card}")
        for path in (model.onnx, model.weights):
            click.echo(f"  {name}/{path.name}  {path.stat().st_size / MIB:.1f} MiB")
    if importlib.util.find_spec("mlflow") is None:
        click.echo(f"models of runs need the installation for training: {INSTALL_TRAIN}")
        return
    from carkp.project import has_no_runs

    if has_no_runs():
        click.echo("there are no runs yet")
        return
    _list_runs()


def _list_runs() -> None:
    from carkp.tracking.runs import EXPERIMENT_TAG, STAGE_TAG, TARGET_TAG, find_runs

    for stage in ("float", "adapt", "qat", "calibration", "precision", "export"):
        seen: set[tuple[str, str]] = set()
        for run in find_runs({STAGE_TAG: stage}, max_results=200):
            key = run.tags.get(EXPERIMENT_TAG, ""), run.tags.get(TARGET_TAG, "")
            if key in seen:
                continue
            seen.add(key)
            of = " ".join(part for part in key if part)
            click.echo(f"runs:/{run.run_id}  {stage} {of}, {run.started:%Y-%m-%d %H:%M} UTC")
    click.echo("latest is the newest model of the stage that a command needs, with the experiment's data and target.")
