"""Which model a reference names, and the networks in checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carkp.config.schema import ExperimentConfig
from carkp.model.pose_net import pose_net_from_architecture
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.fold import fold
from carkp.quant.target import Target
from carkp.tracking.runs import LATEST, fetch_artifact, fetch_reference, find_latest_run, find_unfinished_run, run_id_of
from carkp.tracking.store import TrackingError
from carkp.training.checkpoint import CheckpointError, load_checkpoint
from carkp.training.checkpoint import load_net as load_net

BEST = "checkpoints/best.pt"
LAST = "checkpoints/last.pt"
CALIBRATED = "calibration/model.pt"
FLOAT_ONNX = "onnx/float.onnx"


@dataclass(frozen=True)
class ModelFile:
    """A model on this machine, the run that it comes from ("" for a file alone), and what names it elsewhere."""

    path: Path
    run_id: str
    reference: str


@dataclass(frozen=True)
class ModelKind:
    """Where models of a kind are found: the stage that makes them and its artifact."""

    stage: str
    artifact: str


FLOAT = ModelKind("float", BEST)
CALIBRATION = ModelKind("calibration", CALIBRATED)
QAT = ModelKind("qat", BEST)


def resolve_model(reference: str, kind: ModelKind, tags: Mapping[str, str]) -> ModelFile:
    """The file that ``reference`` names; ``latest`` is that of the newest finished run of the stage with these tags.

    Raises:
        TrackingError: there is none.
    """
    if reference == LATEST:
        run = find_latest_run(kind.stage, tags)
        if run is None:
            wanted = ", ".join(f"{name.removeprefix('carkp.')} {value[:20]}" for name, value in tags.items())
            raise TrackingError(f"no finished {kind.stage} run ({wanted}): run `mlflow run . -e {kind.stage}` first")
        path = fetch_artifact(run.run_id, kind.artifact)
        return ModelFile(path, run.run_id, f"runs:/{run.run_id}/{kind.artifact}")
    if not reference.startswith(("runs:", "models:")):
        path = Path(reference).expanduser().resolve()
        reference = str(path)
    elif _is_bare_run(reference):
        path = fetch_artifact(str(run_id_of(reference)), kind.artifact)
        reference = f"{reference.rstrip('/')}/{kind.artifact}"
    else:
        path = fetch_reference(reference)
    if not path.is_file():
        raise TrackingError(
            f"{reference}: no such file; give a file, latest, runs:/<id>, or models:/<name>@<alias>/<path>"
        )
    return ModelFile(path, run_id_of(reference) or "", reference)


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


@dataclass(frozen=True)
class Prepared:
    """A calibrated network: fake-quantised, and in float as ``net.graph``.

    ``origin`` says where it comes from, as strings: the float model, its scores, the data.
    """

    net: FakeQuantNet
    origin: Mapping[str, str]
    architecture: Mapping[str, Any]


def prepared_architecture(
    float_architecture: Mapping[str, Any], target: Target, per_channel_weights: bool, origin: Mapping[str, str]
) -> dict[str, Any]:
    """What a checkpoint keeps of a calibrated network."""
    return {
        "float": dict(float_architecture),
        "input_size": list(float_architecture["input_size"]),
        "fake_quant": {"target": target.model_dump(), "per_channel_weights": per_channel_weights},
        "origin": dict(origin),
    }


def load_prepared(path: Path) -> Prepared:
    """The calibrated network of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: a float checkpoint, or weights and architecture that do not fit.
    """
    checkpoint = load_checkpoint(path)
    architecture = checkpoint.architecture
    if "fake_quant" not in architecture:
        raise CheckpointError(f"{path}: holds a float network, here a calibrated one is wanted: calibrate it first")
    try:
        settings = architecture["fake_quant"]
        float_net = pose_net_from_architecture(architecture["float"]).eval()
        graph = fold(float_net, tuple(architecture["input_size"]))
        net = FakeQuantNet(graph, Target.model_validate(settings["target"]), settings["per_channel_weights"])
        net.load_state_dict(checkpoint.weights)
    except (ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: holds no calibrated network of its architecture: {error}") from error
    return Prepared(net.eval(), architecture["origin"], architecture)


def check_input_size(architecture: Mapping[str, Any], config: ExperimentConfig, path: Path) -> None:
    """Refuse a checkpoint whose network takes another size than the configuration prepares.

    Raises:
        CheckpointError: the sizes differ.
    """
    trained = tuple(architecture.get("input_size", ()))
    if trained != config.model.input_size:
        raise CheckpointError(
            f"{path}: the network takes {trained} (height, width), the configuration says {config.model.input_size}: "
            "give the configuration that it was trained with, or set model.input_size"
        )


def _is_bare_run(reference: str) -> bool:
    run_id = run_id_of(reference)
    return run_id is not None and reference.rstrip("/").endswith(run_id)
