"""Makes the files of a model that comes with carkp: an int8 ONNX, float weights in float16, and a card of both.

``ship`` writes its folder completely or not at all; :mod:`carkp.workflow.shipping_parts` finds the inputs.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig
from carkp.data.store import Stores
from carkp.deploy.graph_audit import require_int8_convs
from carkp.deploy.int8_onnx import save_program
from carkp.deploy.runtime import OnnxRunner
from carkp.disk import exclusive, file_digest, partial_path, remove, remove_leftovers, replace_directory, write_atomic
from carkp.keypoints.codec import CODEC_KEY, codec_to_json
from carkp.keypoints.predictions import Predictions
from carkp.model.half_weights import HalfWeights, encode_half_weights
from carkp.report.model_card import (
    Card,
    CardError,
    FileFacts,
    Making,
    Rounding,
    SetFigures,
    card_from_yaml,
    card_page,
    card_to_yaml,
)
from carkp.shipped import CARD_FILE, FIGURES_FILE, FILES, MAX_BYTES, ONNX_FILE, WEIGHTS_FILE
from carkp.tracking.runs import PARENT_TAG, STAGE_TAG, FoundRun, find_run_or_none
from carkp.tracking.tracker import command_line
from carkp.training.checkpoint import load_checkpoint, load_net
from carkp.training.distributed import cpu_context
from carkp.workflow.build import prepare_torch
from carkp.workflow.card_figures import RealFiles, generated_figures, real_figures
from carkp.workflow.card_sources import data_sources
from carkp.workflow.executions import onnx_forward
from carkp.workflow.references import codec_of
from carkp.workflow.report.commands import PLACEHOLDER, command_of, parse_command, portable
from carkp.workflow.report.sources import SOURCE_TAG
from carkp.workflow.reuse import PRESENTING, UPSTREAM, Inputs
from carkp.workflow.scoring import Scorer, build_scorer
from carkp.workflow.shipping_parts import Parts, ShippingError
from carkp.workflow.source_code import source_code
from carkp.workflow.steps import PIPELINE

MAX_ROUNDING = 0.001
"""Largest difference of the PCK on generated validation cars that float16 may cause: 0.1 points."""

SPLITS: Mapping[str, str] = {"val": "validation", "test": "test"}
"""Split -> its name in the card."""

FIRST_WEIGHTS: Mapping[str, str] = {
    "none": "drawn at random",
    "timm": "an ImageNet classifier of timm's hub ({detail}), under the licence that is said there",
    "package": "an ImageNet classifier ({detail}), Apache-2.0",
    "shipped": "the model that came with carkp before: {detail}",
    "file": "the file {detail}",
}
"""Kind of first weights -> description in a card."""

SHIP_COMMAND = "python experiments/ship_model.py"
RECORDED = ("python", "torch", "timm", "onnxruntime", "numpy")
_MODEL_FILES = (ONNX_FILE, WEIGHTS_FILE)


def ship(
    parts: Parts, real: Sequence[RealFiles], name: str, out_dir: Path, is_forced: bool = False, note: str = ""
) -> Card:
    """Write the folder of a model; an existing folder stays complete until the new one is complete.

    Figures of generated cars are reused from the existing card if model, data and code are the same.

    Args:
        parts: runs and files that the model is made from.
        real: figures of real cars; these cars are scored by another program after the model's files exist.
        name: name of the model for users.
        out_dir: folder of the model, which holds nothing else.
        is_forced: whether to score generated cars again.
        note: text about the making of the model, for the card.

    Raises:
        ShippingError: the model is too large, or float16 changes its scores too much.
        ConfigError: ``out_dir`` holds something else, or ``real`` is about other files.
    """
    _refuse_other_content(out_dir)
    with exclusive(out_dir, "makes the files of a model"):
        remove_leftovers(out_dir)
        staged = partial_path(out_dir)
        try:
            staged.mkdir(parents=True)
            files = write_model_files(parts, staged)
            earlier = None if is_forced else read_card(out_dir)
            card = _build_card(parts, real, name, files, staged, earlier, note)
            write_atomic(staged / FIGURES_FILE, card_to_yaml(card).encode())
            write_atomic(staged / CARD_FILE, card_page(card).encode())
            require_small(staged)
            replace_directory(staged, out_dir)
        finally:
            remove(staged)
    return card


def _refuse_other_content(out_dir: Path) -> None:
    """Refuse a folder with other files, because the folder is replaced as a whole."""
    others = sorted(path.name for path in out_dir.iterdir() if path.name not in FILES) if out_dir.exists() else []
    if others:
        raise ConfigError(f"output={out_dir}: holds other files ({', '.join(others[:3])}); give another folder")


def require_small(folder: Path) -> None:
    """Raise ShippingError if the files are too large for a model that comes with every installation."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > MAX_BYTES:
        raise ShippingError(f"the files have {size / 2**20:.1f} MiB, more than {MAX_BYTES / 2**20:.0f} MiB")


def read_card(folder: Path) -> Card | None:
    """Read the card in a folder; None if there is none that this version can read."""
    try:
        return card_from_yaml((folder / FIGURES_FILE).read_text(encoding="utf-8"))
    except (OSError, CardError):
        return None


def render_card(folder: Path) -> Card:
    """Write the page of an existing card again, for example after a change of its template.

    Raises:
        ConfigError: there is no card that this version can read.
    """
    card = read_card(folder)
    if card is None:
        raise ConfigError(
            f"{folder}: has no {FIGURES_FILE} that this version of carkp reads: make the model's files again"
        )
    write_atomic(folder / CARD_FILE, card_page(card).encode())
    return card


def write_model_files(parts: Parts, folder: Path) -> dict[str, FileFacts]:
    """Write the int8 ONNX and the float weights; paths of this machine are replaced by placeholders.

    Raises:
        ShippingError: float16 cannot hold the weights.
    """
    origin = {name: _portable(value) for name, value in parts.program.origin.items()}
    save_program(replace(parts.program, origin=origin), folder / ONNX_FILE)
    require_int8_convs(folder / ONNX_FILE, parts.program.num_convs)
    try:
        write_atomic(folder / WEIGHTS_FILE, encode_half_weights(_half_weights(parts)))
    except ValueError as error:
        raise ShippingError(f"runs:/{parts.run.run_id}: {error}") from error
    paths = [folder / file for file in _MODEL_FILES]
    return {path.name: FileFacts(num_bytes=path.stat().st_size, sha256=file_digest(path)) for path in paths}


def _half_weights(parts: Parts) -> HalfWeights:
    config = portable_config(parts.config)
    notes = {
        CODEC_KEY: codec_to_json(codec_of(parts.checkpoint)),
        "commit": parts.run.tags.get("carkp.git_commit", "unknown"),
        "config_sha256": digest_of(config),
    }
    checkpoint = parts.checkpoint
    return HalfWeights(checkpoint.architecture, config, checkpoint.epoch, notes, checkpoint.weights)


def portable_config(config: ExperimentConfig) -> dict[str, Any]:
    """Return the configuration as plain data, with placeholders for paths of this machine."""
    found: dict[str, Any] = _portable(config.model_dump(mode="json"))
    return found


def digest_of(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _portable(value: Any) -> Any:
    match value:
        case dict():
            return {name: _portable(item) for name, item in value.items()}
        case list():
            return [_portable(item) for item in value]
        case str() if value.startswith(("/", "~")):
            return f"{PLACEHOLDER}{PurePosixPath(value).name}"
    return value


def _build_card(
    parts: Parts,
    real: Sequence[RealFiles],
    name: str,
    files: Mapping[str, FileFacts],
    folder: Path,
    earlier: Card | None,
    note: str,
) -> Card:
    digests = files[WEIGHTS_FILE].sha256, files[ONNX_FILE].sha256
    # first, because it may raise an error: scoring comes later
    real_sets = real_figures(real, *digests)
    sources = data_sources(parts.data_run, parts.config.model_dump(mode="json"))
    whose = "Generated cars" if all(source.is_generated for source in sources) else "Cars of all sources"
    inputs = figure_inputs(parts, files).digest
    if earlier is not None and earlier.inputs == inputs:
        rounding, generated = earlier.rounding, earlier.generated
    else:
        rounding, generated = score_generated(parts, folder, digests, whose)
    return Card(
        name=name,
        inputs=inputs,
        input_size=parts.config.model.input_size,
        files=dict(files),
        data=sources,
        making=_making(parts, note),
        rounding=rounding,
        generated=generated,
        real=real_sets,
    )


def figure_inputs(parts: Parts, files: Mapping[str, FileFacts]) -> Inputs:
    """Return the inputs that decide the figures of generated cars."""
    given = {"data": parts.data.digest, **{name: file.sha256 for name, file in files.items()}}
    return Inputs("ship", {}, given, source_code(["carkp.workflow.shipping"], (*PRESENTING, *UPSTREAM)))


def score_generated(
    parts: Parts, folder: Path, digests: tuple[str, str], whose: str
) -> tuple[Rounding, dict[str, SetFigures]]:
    """Score the files in ``folder`` by split, and what float16 changes; ``whose`` names the cars in titles.

    Raises:
        ShippingError: float16 changes the PCK on validation by more than ``MAX_ROUNDING``.
    """
    prepare_torch(parts.config)
    scorer, stores = build_scorer(parts.config, cpu_context()), parts.data.open()
    float_net, int8 = load_net(load_checkpoint(folder / WEIGHTS_FILE)), onnx_forward(OnnxRunner(folder / ONNX_FILE))
    float_ = {split: _predict(scorer, float_net, stores, split, "float16") for split in SPLITS}
    exact = _predict(scorer, load_net(parts.checkpoint), stores, "val", "float32")
    rounding = Rounding(
        alpha=scorer.alpha, float32=scorer.score(exact, "val").pck, float16=scorer.score(float_["val"], "val").pck
    )
    require_harmless(rounding)
    found = {
        split: generated_figures(
            f"{whose}, {words}",
            parts.data.digest,
            float_[split],
            scorer.predict(int8, getattr(stores, split), f"score int8, {split}"),
            digests,
        )
        for split, words in SPLITS.items()
    }
    return rounding, found


def _predict(scorer: Scorer, net: nn.Module, stores: Stores, split: str, label: str) -> Predictions:
    return scorer.predict(scorer.forward(net), getattr(stores, split), f"score {label}, {split}")


def require_harmless(rounding: Rounding) -> None:
    """Raise ShippingError if float16 changes the PCK by more than ``MAX_ROUNDING``."""
    if abs(rounding.float16 - rounding.float32) > MAX_ROUNDING:
        raise ShippingError(
            f"float16 changes PCK@{rounding.alpha:g} on generated validation cars from {rounding.float32:.4f} to "
            f"{rounding.float16:.4f}, more than {MAX_ROUNDING:g}: look at the sizes of the weights (train.weight_decay)"
        )


def _making(parts: Parts, note: str) -> Making:
    tags, config = parts.run.tags, portable_config(parts.config)
    versions = json.loads(tags.get("carkp.versions", "{}"))
    return Making(
        commands=tuple(commands_to_reproduce(parts)),
        commit=tags.get("carkp.git_commit", "unknown"),
        is_dirty=tags.get("carkp.git_dirty") == "true",
        date=f"{parts.run.started:%Y-%m-%d %H:%M}",
        versions={name: versions[name] for name in RECORDED if name in versions},
        config=config,
        config_sha256=digest_of(config),
        first_weights=first_weights(tags.get("carkp.pretrained", "")),
        best_epoch=parts.checkpoint.epoch,
        note=note,
    )


def commands_to_reproduce(parts: Parts) -> list[str]:
    """Return the commands that made the parts; steps of one pipeline are replaced by the pipeline's command."""
    export = parts.export
    calibration = find_run_or_none(export.tags.get(SOURCE_TAG, "")) if export is not None else None
    runs = [_pipeline_of(run) for run in (parts.run, calibration, export) if run is not None]
    commands = [command_of(run, {}) for run in {run.run_id: run for run in runs}.values()]
    own = parse_command(command_line())
    return [*commands, portable(own, {}) if own is not None else SHIP_COMMAND]


def _pipeline_of(run: FoundRun) -> FoundRun:
    """Return the pipeline that a run is a step of, else the run itself."""
    parent = find_run_or_none(run.tags.get(PARENT_TAG, ""))
    return parent if parent is not None and parent.tags.get(STAGE_TAG) == PIPELINE else run


def first_weights(source: str) -> str:
    """Describe the tag ``carkp.pretrained``, with the licence of the weights that it names."""
    kind, _, detail = source.partition(": ")
    return FIRST_WEIGHTS.get(kind, "{detail}").format(detail=_portable(detail) or "not known")
