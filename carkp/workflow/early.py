"""Checks of settings at the start of a stage: a bad setting is refused in seconds instead of hours."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from carkp.config.loading import ConfigError
from carkp.config.schema import DataConfig, ExperimentConfig
from carkp.config.sources import by_source, choosing
from carkp.data.carfusion import is_scene_dir, split_dirs
from carkp.data.files import expand_path, list_directory
from carkp.data.issues import DataError, Issues
from carkp.data.source import SourceKind, detect_source_kind
from carkp.deploy.float_ops import UnsupportedOperatorError
from carkp.deploy.int8_onnx import Int8OnnxError, save_program
from carkp.model.pose_net import PoseNet
from carkp.model.pretrained import require_published
from carkp.quant.convert import convert
from carkp.quant.program import ProgramError
from carkp.synthetic.layout import TRAIN_SCENES
from carkp.workflow.build import build_model
from carkp.workflow.calibrating import build_calibrator
from carkp.workflow.targets import load_target

UNLOADED = ("auto", "timm")
"""Kinds of pretrained weights that may need a download, which should not happen twice."""


def refuse_early(stage: str, config: ExperimentConfig) -> None:
    """Check the settings that ``stage`` will need, before it starts.

    Raises:
        ConfigError: a setting cannot be used.
    """
    for check in CHECKS.get(stage, ()):
        check(config)


def check_scenes(config: ExperimentConfig) -> None:
    """Check that validation gets a scene, if the scenes are known before cars are drawn or cropped.

    With several sources, each source that chooses the epoch must have one.
    """
    parts = by_source(config)
    for name in choosing(config.data) or parts:
        data = parts[name].data
        known = _train_scenes(data)
        if known and not set(data.val_scenes) & set(known):
            raise ConfigError(
                f"data.val_scenes={list(data.val_scenes)}: {data.source} has no such training scenes, so validation "
                f"would be empty; there are {', '.join(known)}"
            )


def _train_scenes(data: DataConfig) -> tuple[str, ...]:
    """Return the scenes of generated data or CarFusion's layout; () if they are unknown or a val split exists."""
    if data.is_generated:
        return TRAIN_SCENES
    source = expand_path(data.source)
    try:
        splits = split_dirs(source) if detect_source_kind(source) is SourceKind.RAW else {}
    except DataError:  # preparation will report it
        return ()
    if "train" not in splits or "val" in splits:
        return ()
    return tuple(path.name for path in list_directory(splits["train"], Issues()) if is_scene_dir(path))


def check_network(config: ExperimentConfig) -> None:
    """Check that the network can be built, and that its first weights are available."""
    _build(config)


def check_quantisation(config: ExperimentConfig) -> None:
    """Check that the network can be quantised with the observers of the configuration, and exported."""
    target = load_target(config.quant.target).arithmetic
    calibrator = build_calibrator(config, target)
    try:
        quantised = calibrator.quantise(build_model(_untrained(config)).net.eval())
        calibrator.observers(quantised)
        quantised.set_thresholds(dict.fromkeys(quantised.num_levels, 1.0))
        with tempfile.TemporaryDirectory() as folder:
            save_program(convert(quantised, {}), Path(folder) / "program.onnx")
    except (UnsupportedOperatorError, ProgramError, Int8OnnxError) as error:
        raise ConfigError(
            f"model.backbone={config.model.backbone} cannot be quantised for {target.name}: {error}"
        ) from error


def _build(config: ExperimentConfig) -> PoseNet:
    """Build the network with its first weights, except those that may need a download."""
    model = config.model
    if model.pretrained not in UNLOADED:
        return build_model(config).net
    net = build_model(_untrained(config)).net
    try:
        require_published(model.backbone, model.pretrained)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"model: {error}") from error
    return net


def _untrained(config: ExperimentConfig) -> ExperimentConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"pretrained": "none"})})


CHECKS: Mapping[str, tuple[Callable[[ExperimentConfig], None], ...]] = {
    "float": (check_scenes, check_network),
    "tune": (check_scenes, check_network, check_quantisation),
    "main": (check_scenes, check_network, check_quantisation),
}
"""Checks by entry point."""
