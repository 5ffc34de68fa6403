"""Which model a reference names, and the network in a checkpoint."""

from pathlib import Path

from carkp.config.schema import ExperimentConfig
from carkp.model.pose_net import PoseNet, pose_net_from_architecture
from carkp.tracking import (
    LATEST,
    TrackingError,
    fetch_artifact,
    fetch_reference,
    find_latest_run,
    find_unfinished_run,
    run_id_of,
)
from carkp.training.checkpoint import Checkpoint, CheckpointError

BEST = "checkpoints/best.pt"
LAST = "checkpoints/last.pt"


def resolve_float_checkpoint(reference: str, config: ExperimentConfig, data_digest: str) -> Path:
    """The checkpoint file that ``reference`` names; ``latest`` is the newest finished float run on the same data.

    Raises:
        TrackingError: there is none.
    """
    if reference == LATEST:
        run = find_latest_run("float", {"carkp.experiment": config.name, "carkp.data_digest": data_digest})
        if run is None:
            raise TrackingError(
                f"no finished float run of the experiment {config.name!r} on these data: "
                "run `mlflow run . -e float` first"
            )
        return fetch_artifact(run.run_id, BEST)
    if reference.startswith(("runs:", "models:")):
        path = fetch_reference(reference if not _is_bare_run(reference) else f"{reference.rstrip('/')}/{BEST}")
    else:
        path = Path(reference).expanduser()
    if not path.is_file():
        raise TrackingError(f"{reference}: no such file; give a checkpoint, latest, or runs:/<id>")
    return path


def resolve_resume(reference: str, config: ExperimentConfig, data_digest: str) -> Path | None:
    """The ``last.pt`` to go on from; None for an empty reference.

    ``latest`` is the newest float run on the same data that has a checkpoint and did not finish; anything else is a run
    id, ``runs:/<id>`` or a file. ``best.pt`` lies beside the result.

    Raises:
        TrackingError: there is none.
    """
    if not reference:
        return None
    local = Path(reference).expanduser()
    if local.is_file():
        return local
    run_id = run_id_of(reference) or reference
    if reference == LATEST:
        tags = {"carkp.experiment": config.name, "carkp.data_digest": data_digest}
        run = find_unfinished_run("float", tags, LAST)
        if run is None:
            raise TrackingError(
                f"no unfinished float run of the experiment {config.name!r} on these data has a checkpoint "
                "to go on from"
            )
        run_id = run.run_id
    return fetch_artifact(run_id, str(Path(LAST).parent)) / Path(LAST).name


def load_net(checkpoint: Checkpoint) -> PoseNet:
    """The network of a checkpoint in evaluation mode.

    Raises:
        CheckpointError: weights and architecture do not fit.
    """
    try:
        net = pose_net_from_architecture(checkpoint.architecture)
        net.load_state_dict(checkpoint.weights)
    except (ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"the checkpoint holds no network of this architecture: {error}") from error
    return net.eval()


def check_input_size(checkpoint: Checkpoint, config: ExperimentConfig, path: Path) -> None:
    """Refuse a checkpoint whose network takes another size than the configuration prepares.

    Raises:
        CheckpointError: the sizes differ.
    """
    trained = tuple(checkpoint.architecture.get("input_size", ()))
    if trained != config.model.input_size:
        raise CheckpointError(
            f"{path}: the network takes {trained} (height, width), the configuration says {config.model.input_size}: "
            "give the configuration that it was trained with, or set model.input_size"
        )


def _is_bare_run(reference: str) -> bool:
    run_id = run_id_of(reference)
    return run_id is not None and reference.rstrip("/").endswith(run_id)
