"""Int8 programs from a reference: an export, a calibrated or float checkpoint, or an untrained network."""

from dataclasses import dataclass, replace
from pathlib import Path

from carkp.config.schema import ExperimentConfig
from carkp.deploy.int8_onnx import load_program
from carkp.model.pose_net import PoseNet
from carkp.quant.convert import convert
from carkp.quant.program import QProgram
from carkp.quant.target import Target
from carkp.tracking.runs import LATEST
from carkp.tracking.store import TrackingError
from carkp.training.checkpoint import load_checkpoint, load_net
from carkp.workflow.build import build_model
from carkp.workflow.calibrating import Calibrator, build_calibrator
from carkp.workflow.quantising import load_prepared
from carkp.workflow.references import ModelFile, find_export

FROM_CONFIG = "config"


@dataclass(frozen=True)
class FoundProgram:
    """A program, its reference, and its file and run, if any."""

    program: QProgram
    reference: str
    path: Path | None = None
    run_id: str = ""

    def describe(self, target: Target) -> str:
        """Describe where the program comes from, and its arithmetic if that is not ``target``'s."""
        own = self.program.target
        foreign = "" if own == target else f"; its arithmetic is that of {own.name}, not of {target.name}"
        return f"{self.reference}{foreign}"


def find_program(config: ExperimentConfig, reference: str, target: Target) -> FoundProgram:
    """Return the program that ``reference`` names; a checkpoint is converted to one.

    For a network that was not calibrated, scales mean nothing, but layers, shapes and sizes are right.

    Raises:
        TrackingError: the model does not exist.
        CheckpointError, Int8OnnxError: the model cannot be used.
        ConfigError: the network cannot be built or folded.
    """
    if reference == FROM_CONFIG:
        untrained = config.model_copy(update={"model": config.model.model_copy(update={"pretrained": "none"})})
        net = build_model(untrained).net.eval()
        what = f"{config.model.backbone} of the configuration, untrained"
        return FoundProgram(uncalibrated_program(build_calibrator(config, target), net), what)
    model = _find_file(config, reference, target)
    if model.path.suffix != ".pt":
        return FoundProgram(load_program(model.path), model.reference, model.path, model.run_id)
    return FoundProgram(_program_of_checkpoint(config, model.path, target), model.reference, model.path, model.run_id)


def uncalibrated_program(calibrator: Calibrator, net: PoseNet) -> QProgram:
    """Return the program of a float network, with every threshold set to 1.

    Raises:
        ConfigError: the network cannot be folded.
    """
    prepared = calibrator.quantise(net)
    prepared.set_thresholds(dict.fromkeys(prepared.num_levels, 1.0))
    return convert(prepared, {"calibrated": "no"})


def _find_file(config: ExperimentConfig, reference: str, target: Target) -> ModelFile:
    try:
        return find_export(config, reference, target)
    except TrackingError as error:
        if reference != LATEST:
            raise
        hint = "or give model=config for the untrained network, or the path of a model"
        raise TrackingError(f"{error} -P target={target.name}; {hint}") from error


def _program_of_checkpoint(config: ExperimentConfig, path: Path, target: Target) -> QProgram:
    checkpoint = load_checkpoint(path)
    if "fake_quant" in checkpoint.architecture:
        prepared = load_prepared(path)
        return convert(prepared.net, prepared.origin)
    calibrator = replace(build_calibrator(config, target), input_size=tuple(checkpoint.architecture["input_size"]))
    return uncalibrated_program(calibrator, load_net(checkpoint))
