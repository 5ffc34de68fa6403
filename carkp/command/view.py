"""``carkp view``: a local page that shows the keypoints of a picture or a video frame."""

import contextlib
import importlib.util
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from carkp.shipped import DEFAULT_MODEL, WEIGHTS_FILE, is_shipped

if TYPE_CHECKING:
    from carkp.view.models import ViewedModel

DEFAULT_PORT = 8765
INSTALL = 'pip install "carkp[view]"'
NEEDED = ("starlette", "uvicorn", "PIL")
NOT_COMPARED = 'The float network is not shown: it needs torch and timm (pip install "carkp[train]").'

MODEL_HELP = "carkp-car12 (comes with carkp), a local file, runs:/<id>/<path>, or models:/…"
AGAINST_HELP = (
    "a second model, shown beside the first; empty: the float weights of a model that comes with carkp, if torch is "
    "installed; none: no second model"
)


@click.command("view")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help=MODEL_HELP)
@click.option("--against", default="", help=AGAINST_HELP)
@click.option(
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="port on 127.0.0.1; 0: any free port",
)
@click.option("--no-browser", is_flag=True, help="Print the address; do not open a browser.")
def command(model: str, against: str, port: int, no_browser: bool) -> None:
    """Show keypoints of your own pictures and videos on a local page, which only this machine can open."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        _fail(f"carkp view needs {', '.join(missing)}: {INSTALL}")
    from carkp.view.server import create_app
    from carkp.view.serving import PortError, address, listen, serve

    try:
        server = listen(port)
    except PortError as error:
        _fail(str(error))
    with server:
        models, note = _open_models(model, against)
        click.echo(f"{', '.join(f'{opened.name} ({opened.kind})' for opened in models)} at {address(server)}")
        click.echo("Ctrl-C stops it.")
        with contextlib.suppress(KeyboardInterrupt):
            serve(create_app(models, note), server, not no_browser)


def _open_models(model: str, against: str) -> tuple[list["ViewedModel"], str]:
    """Open one or two models; also return a note if the second is missing."""
    note = ""
    if not against and is_shipped(model) and "/" not in model:
        has_torch = all(importlib.util.find_spec(name) is not None for name in ("torch", "timm"))
        against, note = (f"{model}/{WEIGHTS_FILE}", "") if has_torch else ("", NOT_COMPARED)
    return [_open(reference) for reference in (model, against) if reference not in ("", "none")], note


def _open(reference: str) -> "ViewedModel":
    from carkp.cores import num_usable_cores
    from carkp.predictor import Predictor
    from carkp.view.models import ViewedModel

    try:
        path = _fetched(reference) if reference.startswith(("runs:", "models:")) else reference
        return ViewedModel(reference, Predictor.load(path, num_usable_cores()))
    except _errors_of_models() as error:
        _fail(str(error))


def _errors_of_models() -> tuple[type[Exception], ...]:
    """Return the errors whose message says what to do, as far as their modules are loaded."""
    from carkp.data.issues import DataError
    from carkp.predictor import ModelError

    found: list[type[Exception]] = [FileNotFoundError, ModelError, DataError]
    if "carkp.training.checkpoint" in sys.modules:
        from carkp.training.checkpoint import CheckpointError

        found.append(CheckpointError)
    if "carkp.tracking.store" in sys.modules:
        from carkp.tracking.store import TrackingError

        found.append(TrackingError)
    return tuple(found)


def _fetched(reference: str) -> str:
    """Return the local copy of a model from a run or the registry."""
    if importlib.util.find_spec("mlflow") is None:
        _fail(f'{reference}: models of runs need the installation for training: pip install "carkp[train]"')
    from carkp.config.schema import ExperimentConfig
    from carkp.workflow.references import find_predicting_model

    return str(find_predicting_model(ExperimentConfig(), reference).path)


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(1)
