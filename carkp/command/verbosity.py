"""The amount of output of a command."""

import logging
import os

import click

from carkp.entry_points import VERBOSE_VARIABLE
from carkp.progress import TQDM_DISABLE


def set_verbosity(verbose: bool, quiet: bool) -> None:
    """Set the amount of output for this process and its children.

    Raises:
        click.UsageError: both options are given.
    """
    if verbose and quiet:
        raise click.UsageError("--verbose and --quiet exclude each other")
    if verbose:
        os.environ[VERBOSE_VARIABLE] = "1"
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "DEBUG")
        logging.basicConfig(level=logging.DEBUG)
    if quiet:
        os.environ[TQDM_DISABLE] = "1"
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        logging.basicConfig(level=logging.ERROR)
