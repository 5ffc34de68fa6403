"""Figures of a model to ship: scored here on generated cars, and read from experiments/real_cars.py for real cars.

Legend: N cars, K keypoints.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from carkp.config.loading import ConfigError
from carkp.data.files import expand_path
from carkp.keypoints.breakdown import score_groups, size_masks, source_masks, truncation_masks, visibility_masks
from carkp.keypoints.paired import Interval, paired_test
from carkp.keypoints.predictions import Predictions
from carkp.report.model_card import Difference, Figure, Group, ModelFigures, SetFigures

ALPHAS = (0.05, 0.1, 0.2)
DECIMALS = 5

Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class RealFiles:
    """A ``figures.json`` of experiments/real_cars.py, and the title for its cars."""

    title: str
    path: Path


def parse_real(text: str) -> list[RealFiles]:
    """Parse ``[title=]figures.json``, several separated by commas.

    Raises:
        ConfigError: a file does not exist.
    """
    found = []
    for part in filter(None, text.split(",")):
        title, _, name = part.rpartition("=")
        path = expand_path(name)
        if not path.is_file():
            raise ConfigError(f"real={part}: no such file; give the figures.json of experiments/real_cars.py")
        found.append(RealFiles(title or "Real cars", path))
    return found


def generated_figures(
    title: str, data_digest: str, float_: Predictions, int8: Predictions, digests: tuple[str, str]
) -> SetFigures:
    """Return the figures of both files on a split of generated cars; ``digests``: of the float and the int8 file."""
    tests = {f"{alpha:g}": paired_test(float_, int8, alpha) for alpha in ALPHAS}
    return SetFigures(
        title=title,
        sha256=data_digest,
        unit=f"Intervals over {float_.units.resampled}",
        float_=_model_figures(float_, digests[0]),
        int8=_model_figures(int8, digests[1]),
        difference={
            alpha: Difference(**_figure(test.difference), p_value=_rounded(test.p_value))
            for alpha, test in tests.items()
        },
    )


def _model_figures(predictions: Predictions, digest: str) -> ModelFigures:
    breakdowns: dict[str, Masks] = {
        "all": {"all": predictions.validity > 0},
        "size": size_masks(predictions),
        "truncated": truncation_masks(predictions),
        "keypoint": visibility_masks(predictions),
        "source": source_masks(predictions),
    }
    return ModelFigures(
        sha256=digest, groups={name: _groups(predictions, masks) for name, masks in breakdowns.items() if masks}
    )


def _groups(predictions: Predictions, masks: Masks) -> dict[str, Group]:
    """Return the groups that have keypoints."""
    scored = {f"{alpha:g}": score_groups(predictions, masks, alpha) for alpha in ALPHAS}
    return {
        group.name: Group(
            num_cars=group.num_cars,
            num_points=group.num_points,
            pck={alpha: Figure(**_figure(groups[place].pck)) for alpha, groups in scored.items()},
        )
        for place, group in enumerate(scored["0.1"])
        if group.num_points
    }


def _figure(found: Interval) -> dict[str, float | None]:
    return {"value": _rounded(found.value), "low": _rounded(found.low), "high": _rounded(found.high)}


def _rounded(value: float) -> float | None:
    return round(value, DECIMALS) if math.isfinite(value) else None


class _Foreign(BaseModel):
    """A part of the file of experiments/real_cars.py; fields that the card does not show are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Cars(_Foreign):
    sha256: str
    num_photographs: int = 0
    num_cameras: int = 0


class _Comparison(_Foreign):
    reference: str
    other: str
    pck: dict[str, Difference]


class _RealFigures(_Foreign):
    cars: _Cars
    models: dict[str, ModelFigures]
    comparisons: tuple[_Comparison, ...] = ()

    def name_of(self, digest: str) -> str:
        """Return the name of the model whose file has this digest; "" if it was not scored."""
        return next((name for name, model in self.models.items() if model.sha256 == digest), "")


def real_figures(real: Sequence[RealFiles], float_digest: str, int8_digest: str) -> tuple[SetFigures, ...]:
    """Return the figures on real cars for the two files with these digests.

    Raises:
        ConfigError: a file is not from experiments/real_cars.py, or it is about other models.
    """
    return tuple(_real_set(item, float_digest, int8_digest) for item in real)


def _real_set(item: RealFiles, float_digest: str, int8_digest: str) -> SetFigures:
    found = _read_real(item.path)
    names = found.name_of(float_digest), found.name_of(int8_digest)
    difference = next((part.pck for part in found.comparisons if (part.reference, part.other) == names), None)
    if not all(names) or difference is None:
        raise ConfigError(
            f"{item.path}: does not compare the files that are shipped, first float and then int8, as they are now; "
            "score them again: `python experiments/real_cars.py <folder> carkp-car12/weights.safetensors carkp-car12`"
        )
    units = {"photographs": found.cars.num_photographs, "cameras": found.cars.num_cameras}
    told = " and ".join(f"{count} {name}" for name, count in units.items() if count) or "single cars"
    return SetFigures(
        title=item.title,
        sha256=found.cars.sha256,
        unit=f"Intervals over {told}",
        float_=found.models[names[0]],
        int8=found.models[names[1]],
        difference=difference,
    )


def _read_real(path: Path) -> _RealFigures:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return _RealFigures.model_validate(content)
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigError(f"{path}: no figures.json of experiments/real_cars.py: {error}") from error
