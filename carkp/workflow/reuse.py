"""Declaration of everything that decides a stage's result, for the stage and the pipeline.

Equal inputs give equal results.

Settings that change no result (loader processes, threads, what a run keeps) are left out. The commit is left out, too:
code is compared by its content. Data and models are compared by content, whatever run or file they come from.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnxruntime
from pydantic import BaseModel

from carkp.config.loading import flatten
from carkp.config.schema import RENDERED, SYNTHETIC, ExperimentConfig
from carkp.config.sources import by_source, choosing, shares
from carkp.data.files import expand_path
from carkp.deploy.cpu import cpu_features
from carkp.disk import file_digest
from carkp.model.pretrained import PRETRAINED_NAMES, resolve_pretrained
from carkp.quant.target import Target
from carkp.shipped import WEIGHTS_FILE as SHIPPED_WEIGHTS
from carkp.shipped import ShippedModelError, find_shipped_file, is_shipped
from carkp.tracking.tracker import Tracker
from carkp.training.distributed import training_device
from carkp.workflow.build import resolve_precision
from carkp.workflow.meshes import mesh_digests
from carkp.workflow.source_code import SourceCode, source_code

TEACHER = "teacher"
"""Name of the digest of the teacher's weights among the inputs of a stage; "none" without a teacher."""

INPUTS_TAG = "carkp.inputs"
INPUTS_FILE = "inputs.json"

PRESENTING = (
    "carkp.measurements",
    "carkp.report",
    "carkp.serving",
    "carkp.tracking",
    "carkp.tuning",
    "carkp.workflow.cli",
    "carkp.workflow.meshes",
    "carkp.workflow.pictures",
    "carkp.workflow.process",
    "carkp.workflow.recording",
    "carkp.workflow.registering",
    "carkp.workflow.reuse",
    "carkp.workflow.source_code",
    "carkp.workflow.tables",
)
"""Code that draws, prints, logs or searches; it affects no number."""

UPSTREAM = (
    "carkp.workflow.preparation",
    "carkp.workflow.references",
    "carkp.workflow.resuming",
    "carkp.workflow.target_cars",
)
"""Code that finds or makes the inputs of a stage; those are compared by content."""


GENERATOR_CODE: Mapping[str, str] = {SYNTHETIC: "carkp.synthetic.generate", RENDERED: "carkp.rendered.generate"}
"""The module that generates the data, by the value of ``data.source``."""


@dataclass(frozen=True)
class Deciding:
    """Everything that the result of a stage depends on.

    Attributes:
        sections: sections of the configuration.
        given: names of the stage's other inputs, each a digest or a number.
        code: modules that count, with everything that they import from carkp.
        left_out: imported modules and packages that do not count.
    """

    sections: tuple[str, ...]
    given: tuple[str, ...]
    code: tuple[str, ...]
    left_out: tuple[str, ...] = (*PRESENTING, *UPSTREAM)


DECIDING: Mapping[str, Deciding] = {
    "data": Deciding(
        ("data", *GENERATOR_CODE), ("source",), ("carkp.data.prepare", *GENERATOR_CODE.values()), left_out=()
    ),
    "float": Deciding(
        ("seed", "model", "heatmap", "augment", "train", "eval"), ("data", "nproc", TEACHER), ("carkp.stages.float",)
    ),
    "calibration": Deciding(
        ("seed", "heatmap", "eval", "quant"), ("data", "model", "target"), ("carkp.stages.calibration",)
    ),
    "qat": Deciding(
        ("seed", "heatmap", "augment", "train", "eval", "qat"), ("data", "model", "nproc"), ("carkp.stages.qat",)
    ),
    "adapt": Deciding(
        ("seed", "heatmap", "train", "eval", "adapt"),
        ("data", "model", "unlabelled", "labelled"),
        ("carkp.stages.adapt",),
    ),
    "export": Deciding(("heatmap", "eval"), ("model", "target"), ("carkp.stages.export",)),
    "align": Deciding(("heatmap", "eval", "align"), ("data", "model", "target", "host"), ("carkp.stages.align",)),
    "check": Deciding((), ("model", "target", "hardware"), ("carkp.stages.check",)),
    "compile": Deciding((), ("model", "target", "hardware", "host"), ("carkp.stages.compile",)),
    "report": Deciding(
        (),
        ("runs", "check", "compile"),
        ("carkp.stages.report",),
        tuple({*PRESENTING, *UPSTREAM, "carkp.workflow.steps"} - {"carkp.report"}),
    ),
}
"""Declarations by stage."""

IGNORED = frozenset(
    {
        "data.root",
        "data.num_workers",
        "train.num_workers",
        "train.num_threads",
        "train.nproc",  # a parameter of the stage may override it: it is among the given inputs
        "train.nnodes",  # counts together with train.nproc
        "train.rdzv_endpoint",
        "train.rdzv_id",
        "train.max_restarts",
        "train.process_timeout_s",
        "train.teacher",  # its content is among the given inputs
        "eval.batch_size",
        "quant.target",  # its content is among the given inputs
        "quant.max_loss",  # for the search of 16-bit tensors, whose result is quant.int16
        "quant.loss_alpha",
    }
)
"""Settings that change no result, or that are compared in another form."""

WEIGHTS_FILE = "file "
"""Prefix of the value for first weights from a file, which are compared by content."""

MAX_NAMED = 4
_SHORT = 48


@dataclass(frozen=True)
class Inputs:
    """Everything that decides a result, by name and as text.

    Attributes:
        stage: name of the stage.
        settings: settings by dotted name; ``auto`` is resolved.
        given: other inputs of the stage.
        code: modules that it runs, and versions of the packages that compute.
    """

    stage: str
    settings: Mapping[str, Any]
    given: Mapping[str, str]
    code: SourceCode

    @cached_property
    def digest(self) -> str:
        return _digest_of(asdict(self))

    @property
    def code_digest(self) -> str:
        """Digest of only the code and the versions."""
        return _digest_of(asdict(self.code))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Inputs":
        """Parse the text of ``to_json``.

        Raises:
            ValueError: the text has another format.
        """
        try:
            content = json.loads(text)
            return Inputs(content["stage"], content["settings"], content["given"], SourceCode(**content["code"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"no record of inputs: {error}") from error


def stage_inputs(
    stage: str,
    config: ExperimentConfig,
    given: Mapping[str, str],
    decided: Mapping[str, str] = MappingProxyType({}),
) -> Inputs:
    """Return the inputs that decide the result of ``stage``.

    Args:
        stage: name of the stage.
        config: configuration of the run.
        given: inputs with the names that the stage's declaration lists.
        decided: final values of settings that are only known while the stage runs.
    """
    deciding = DECIDING[stage]
    if set(given) != set(deciding.given):
        raise ValueError(f"{stage}: its result is declared to depend on {deciding.given}, got {tuple(given)}")
    return Inputs(stage, {**stage_settings(stage, config), **decided}, dict(given), stage_code(stage, config))


def log_inputs(tracker: Tracker, inputs: Inputs) -> None:
    """Log the digest as a tag, to find the run by, and all inputs as a file, to compare them."""
    tracker.set_tags({INPUTS_TAG: inputs.digest})
    tracker.log_text(inputs.to_json(), INPUTS_FILE)


def stage_code(stage: str, config: ExperimentConfig) -> SourceCode:
    """Return the code of a stage; a generator's code is included only if it makes data."""
    deciding = DECIDING[stage]
    used = {GENERATOR_CODE.get(part.data.source) for part in by_source(config).values()}
    unused = set(GENERATOR_CODE.values()) - used
    return source_code([name for name in deciding.code if name not in unused], deciding.left_out)


def keep_code(stage: str, config: ExperimentConfig) -> None:
    """Read the code of a stage when it begins, so that its record does not show later edits."""
    if stage in DECIDING:
        stage_code(stage, config)


def stage_settings(stage: str, config: ExperimentConfig) -> dict[str, Any]:
    """Return the settings that decide the result of a stage, by dotted name, with ``auto`` resolved.

    A file of weights is compared by its content.
    """
    if stage == "data":
        return _data_settings(config)
    settings = _settings_in(DECIDING[stage].sections, config)
    if TEACHER not in DECIDING[stage].given or not config.train.teacher:
        settings.pop("train.teacher_weight", None)
    if config.data.sources and "data" in DECIDING[stage].given:
        settings |= _mixing_settings(stage, config)
    if "model.pretrained" in settings:
        settings["model.pretrained"] = _weights_of(config)
    if "train.precision" in settings:
        device = training_device()
        settings["train.precision"] = f"{resolve_precision(config.train.precision, device)} on {device.type}"
    return settings


def _settings_in(sections: Sequence[str], config: ExperimentConfig) -> dict[str, Any]:
    tree = config.model_dump(mode="json", include=set(sections))
    settings = {name.removeprefix("config."): value for name, value in flatten(tree, "config").items()}
    return {name: value for name, value in settings.items() if name not in IGNORED}


def _mixing_settings(stage: str, config: ExperimentConfig) -> dict[str, Any]:
    """Return how a stage uses the sources of a mixture; their content is among the given inputs."""
    settings: dict[str, Any] = {"sources that val/pck is of": list(choosing(config.data))}
    if "train" in DECIDING[stage].sections:
        settings |= {f"share of {name}": share for name, share in shares(config.data).items()}
    return settings


def _data_settings(config: ExperimentConfig) -> dict[str, Any]:
    """Return the preparation settings of each source alone. Meshes are compared by content."""
    parts = by_source(config)
    if config.data.sources:
        own = {
            f"{setting} of {name}": value
            for name, part in parts.items()
            for setting, value in _data_settings(part).items()
        }
        return {"data.sources": list(parts), **own}
    settings = _settings_in(("data",), config)
    del settings["data.sources"]
    if config.data.is_generated:
        settings |= _settings_in((config.data.source,), config)
    else:
        settings["data.source"] = str(expand_path(config.data.source).resolve())
    return settings | (mesh_digests(config.rendered) if config.data.source == RENDERED else {})


def _weights_of(config: ExperimentConfig) -> str:
    """Return the source of the first weights, or the digest of their file."""
    pretrained = config.model.pretrained
    weights = _weights_file(pretrained)
    if weights is not None and weights.is_file():
        return f"{WEIGHTS_FILE}{file_digest(weights)}"
    return resolve_pretrained(config.model.backbone, pretrained)


def _weights_file(pretrained: str) -> Path | None:
    """Return the file of the first weights; None if they are not in a file, or not in this installation."""
    if is_shipped(pretrained):
        with contextlib.suppress(ShippedModelError):
            return find_shipped_file(pretrained, SHIPPED_WEIGHTS)
        return None
    return None if pretrained in PRETRAINED_NAMES else expand_path(pretrained)


def differences(before: Inputs, now: Inputs) -> list[str]:
    """Return one phrase for each difference: settings, other inputs, versions, modules."""
    found = _differing_settings(before.settings, now.settings)
    found += [_given_difference(name, before.given, now.given) for name in _changed(before.given, now.given)]
    found += [
        f"{name} {before.code.versions.get(name, 'unused')} -> {now.code.versions.get(name, 'unused')}"
        for name in _changed(before.code.versions, now.code.versions)
    ]
    if modules := list(_changed(before.code.modules, now.code.modules)):
        found.append(f"code of {name_some(modules)}")
    return found


def setting_differences(before: ExperimentConfig, now: ExperimentConfig) -> list[str]:
    """Return one phrase for each setting that differs between two configurations."""
    return _differing_settings(flatten(before.model_dump(mode="json")), flatten(now.model_dump(mode="json")))


def _differing_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{name} {_shown(before.get(name))} -> {_shown(now.get(name))}" for name in _changed(before, now)]


def name_some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in sorted({*before, *now}) if before.get(name) != now.get(name))


def _given_difference(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    values = before.get(name, ""), now.get(name, "")
    if name == "host" or all(value.isdecimal() for value in values):
        return f"{name} {values[0]} -> {values[1]}"
    return f"another {name}" if name != "source" else "the source's files"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


def target_digest(target: Target) -> str:
    """Return the digest of a target's arithmetic and name; files are named after the target."""
    return _digest_of(target.model_dump(mode="json", exclude={"description"}))


def hardware_digest(hardware: BaseModel) -> str:
    return _digest_of(hardware.model_dump(mode="json"))


def host_digest() -> str:
    """Return what decides how this machine runs int8 models, and how fast."""
    cpu = cpu_features()
    return f"{cpu.model}; {' '.join(cpu.int8_flags)}; onnxruntime {onnxruntime.__version__}"


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
