"""Resuming a float training: settings and data must be the same, else it is refused and the differences are listed.

A training has one configuration from start to end. The learning rate follows half a cosine over all epochs. So a
training of more epochs differs from a shorter one at every step, and cannot start from a checkpoint of the shorter one.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from carkp.config.loading import flatten
from carkp.config.schema import DataConfig, ExperimentConfig
from carkp.config.sources import shares
from carkp.training.checkpoint import Checkpoint, CheckpointError
from carkp.training.fit import FitSettings
from carkp.training.resume import Difference, find_differences, list_differences, load_resumable
from carkp.workflow.reuse import DECIDING, IGNORED, WEIGHTS_FILE

DATA_DIGEST, NUM_PROCESSES = "data (digest)", "train.nproc"
PRECISION, PRETRAINED, TEACHER_DIGEST = "train.precision", "model.pretrained", "train.teacher"
"""Values that do not depend on a single setting alone; checkpoints store them."""

CODE = "code and versions (digest)"
"""Also stored, but not compared: another version of the code may resume, and then the result belongs to neither."""

MIXED_CODE = "several"

_DATA_SETTINGS = ("data.source", "data.val_scenes", "data.jpeg_quality")
_PREFIX = "config"
_SHARE = "share of "
"""Prefix of the names of differing shares of ``data.sources``."""


def describe_precision(settings: FitSettings) -> str:
    return "float32" if settings.autocast_dtype is None else str(settings.autocast_dtype).removeprefix("torch.")


def require_resumable(path: Path | None, config: ExperimentConfig, decided: Mapping[str, str]) -> None:
    """Call ``require_same_training`` for a file, if there is one."""
    if path is not None:
        require_same_training(load_resumable(path), path, config, decided)


def is_of_code(path: Path, code_digest: str) -> bool:
    """Return whether all epochs of a checkpoint were trained by this code with these versions."""
    kept: Mapping[str, str] = load_resumable(path).training_state.get("decided", {})
    return kept.get(CODE) == code_digest


def require_same_training(
    checkpoint: Checkpoint, path: Path, config: ExperimentConfig, decided: Mapping[str, str]
) -> None:
    """Refuse a checkpoint of a training that would have another result.

    Args:
        checkpoint: a ``last.pt``.
        path: path of the checkpoint.
        config: configuration of the current training.
        decided: known values of ``DATA_DIGEST``, ``NUM_PROCESSES``, ``PRECISION``, ``PRETRAINED`` and
            ``TEACHER_DIGEST``.

    Raises:
        CheckpointError: the trainings differ; the message names each difference.
    """
    if found := training_differences(checkpoint, config, decided):
        raise CheckpointError(
            f"{path}: the checkpoint is from another training, and the result would mix both. "
            f"Checkpoint -> configuration:{list_differences(found)}\n{_remedy(found)}"
        )


def training_differences(
    checkpoint: Checkpoint, config: ExperimentConfig, decided: Mapping[str, str]
) -> list[Difference]:
    """Return the differences that affect a float model.

    A setting unknown to an earlier version counts as its default.
    """
    kept: Mapping[str, str] = checkpoint.training_state.get("decided", {})
    names = [name for name in _deciding(config, kept) if name not in kept]
    before = _flat(ExperimentConfig().model_dump(mode="json")) | _flat(checkpoint.config)
    now = _flat(config.model_dump(mode="json"))
    found = find_differences(before, {name: now[name] for name in names})
    sections = {name.partition(".")[0] for name in names}
    unknown = [name for name in before if name not in now and name.partition(".")[0] in sections]
    found += [Difference(name, before[name], "not known to this version") for name in unknown]
    found += _share_differences(before["data.sources"], now["data.sources"])
    return [*found, *find_differences(kept, {name: value for name, value in decided.items() if name != CODE})]


def choose_resumable(paths: Iterable[Path], config: ExperimentConfig, decided: Mapping[str, str]) -> Path | None:
    """Return the first checkpoint that the current training can resume, else the first one; None without checkpoints.

    Unreadable ones, which a kill can leave, are the last choice.
    """
    ranked: dict[int, Path] = {}
    for path in paths:
        try:
            differs = bool(training_differences(load_resumable(path), config, decided))
        except CheckpointError:
            ranked.setdefault(2, path)
            continue
        if not differs:
            return path
        ranked.setdefault(1, path)
    return ranked[min(ranked)] if ranked else None


def _deciding(config: ExperimentConfig, kept: Mapping[str, str]) -> list[str]:
    """Return the names of settings to compare; without a digest of the data they include the data's settings."""
    sections = set(DECIDING["float"].sections)
    names = [
        name
        for name in _flat(config.model_dump(mode="json", include=sections))
        if name not in IGNORED - {TEACHER_DIGEST}
    ]
    if DATA_DIGEST in kept:
        return names
    section = {config.data.source} if config.data.is_generated else set[str]()
    return [*names, *_DATA_SETTINGS, *_flat(config.model_dump(mode="json", include=section))]


def _share_differences(before: object, now: object) -> list[Difference]:
    """Return the differences between the old and the new ``data.sources``."""
    both = [_shares(sources) for sources in (before, now)]
    names = dict.fromkeys(name for named in both for name in named)
    found = [Difference(f"{_SHARE}{name}", *(named.get(name, "none") for named in both)) for name in names]
    return [difference for difference in found if difference.before != difference.now]


def _shares(sources: object) -> dict[str, float]:
    """Return shares by name; empty if this version cannot read the sources."""
    try:
        return shares(DataConfig.model_validate({"sources": sources}))
    except ValidationError:
        return {}


def _flat(tree: Mapping[str, Any]) -> dict[str, object]:
    return {name.removeprefix(f"{_PREFIX}."): value for name, value in flatten(tree, _PREFIX).items()}


def _remedy(differences: Iterable[Difference]) -> str:
    found = {difference.name: difference.before for difference in differences}
    is_mixed_otherwise = any(name.startswith(_SHARE) for name in found)
    settings = {
        name: value
        for name, value in found.items()
        if name not in (DATA_DIGEST, TEACHER_DIGEST)
        and not name.startswith(_SHARE)
        and not str(value).startswith(WEIGHTS_FILE)
    }
    words = " ".join(shlex.quote(f"{name}={_yaml(value)}") for name, value in settings.items())
    lines = [
        "A longer or shorter training has another learning rate at every step: the cosine spans all epochs."
        if "train.epochs" in found
        else "",
        "It was trained on other data: give those with data=…." if DATA_DIGEST in found else "",
        "It had another teacher, or none: set train.teacher as in that training." if TEACHER_DIGEST in found else "",
        "Give each of data.sources the share that it had then." if is_mixed_otherwise else "",
        f"Resume with the checkpoint's configuration (overrides: {words}), or train again without resume."
        if settings
        else "Or train again without resume.",
    ]
    return "\n".join(line for line in lines if line)


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
