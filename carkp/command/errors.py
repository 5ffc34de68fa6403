"""Errors of commands: a message, and the exit status."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from carkp.entry_points import INSTALL_TRAIN, VERBOSE_VARIABLE


def show_traceback() -> None:
    """Print the traceback of the current exception if ``carkp -v`` asked for it."""
    if os.environ.get(VERBOSE_VARIABLE):
        traceback.print_exc()


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors that a user can act on into one message and exit status 1."""
    from carkp.config.loading import ConfigError

    try:
        yield
    except ConfigError as error:
        show_traceback()
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "carkp":
            raise
        click.echo(f"error: this needs {error.name}, which is not installed: {INSTALL_TRAIN}", err=True)
        sys.exit(1)
