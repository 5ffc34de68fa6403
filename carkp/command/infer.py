"""``carkp infer`` without a tracked run: if the model is a file, it needs neither torch nor MLflow."""

from collections.abc import Mapping

import click

from carkp.command.errors import show_traceback
from carkp.shipped import is_shipped

LATEST = "latest"
TRACKED_PREFIXES = ("runs:", "models:")
"""Prefixes of references that only the tracking server can resolve."""


def needs_tracking(model: str) -> bool:
    """Return whether a model must be looked up among the runs."""
    return model == LATEST or model.startswith(TRACKED_PREFIXES)


def infer(values: Mapping[str, str]) -> int:
    """Find keypoints in the pictures, draw them and write JSON; return the exit status.

    Errors of carkp become a message.
    """
    from carkp.cores import num_usable_cores
    from carkp.data.files import expand_path
    from carkp.predictor import Predictor
    from carkp.workflow.own_pictures import infer_own, read_request, show

    try:
        request = read_request(values)
        model = values["model"]
        predictor = Predictor.load(model if is_shipped(model) else expand_path(model), num_usable_cores())
        inputs = request.inputs(predictor, model)
        show(inputs, infer_own(inputs, request.out_dir), request.out_dir)
    except Exception as error:
        if not (isinstance(error, OSError) or type(error).__module__.startswith("carkp.")):
            raise
        show_traceback()
        click.echo(f"error: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return 130
    return 0
