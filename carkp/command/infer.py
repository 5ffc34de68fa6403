"""``carkp infer`` without a tracked run: it needs neither torch nor MLflow where the model is a file."""

from collections.abc import Mapping

import click

from carkp.command.errors import show_traceback
from carkp.shipped import is_shipped

LATEST = "latest"
TRACKED_PREFIXES = ("runs:", "models:")
"""What references begin with that only the tracking server can follow."""


def needs_tracking(model: str) -> bool:
    """Whether a model has to be looked for among the runs."""
    return model == LATEST or model.startswith(TRACKED_PREFIXES)


def infer(values: Mapping[str, str]) -> int:
    """Keypoints of the pictures, drawn and as JSON; the exit status. carkp's own errors have a message for the user."""
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
