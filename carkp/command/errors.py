"""Errors of commands that are no stages: a message, and the exit status."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def user_errors() -> Iterator[None]:
    """Those that a user can act on become one message and exit status 1."""
    from carkp.config.loading import ConfigError

    try:
        yield
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
