"""Files with the results of models on real cars: all figures, and a sheet of all cars.

Legend: N cars, K keypoints.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carkp.data.colour import yuv_to_rgb
from carkp.data.geometry import fit_scale
from carkp.disk import write_atomic
from carkp.keypoints.clusters import Resampled
from carkp.keypoints.orientation import Orientation, orientation_differences
from carkp.keypoints.paired import Interval, PairedTest, correct_keypoints, paired_test
from carkp.report.sheets import captioned_prediction_sheet
from carkp.workflow.picture_files import write_jpeg
from carkp.workflow.real_cars import ALPHAS, MAIN_ALPHA, GroupRow, RealCars, RealCarScores
from carkp.workflow.tables import write_table

SHEET_COLUMNS = 4
TILE_SIZE = (256, 256)
DECIMALS = 5
_UNREMARKABLE = (Orientation.AS_LABELLED, Orientation.UNKNOWN)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModelCard:
    """A model: its reference, the kind of its file, and the SHA-256 of the file."""

    reference: str
    kind: str
    sha256: str


@dataclass(frozen=True)
class Comparison:
    """Comparison of a model with the reference model on the same cars.

    Attributes:
        tests: paired tests of the PCK at each of ``ALPHAS``.
        turned, mirrored: differences of the shares of cars; positive if the other model has more.
    """

    reference: str
    other: str
    tests: Mapping[float, PairedTest]
    turned: Interval
    mirrored: Interval


def compare(scores: Mapping[str, RealCarScores]) -> list[Comparison]:
    """Compare every other model with the first."""
    (first, reference), *others = scores.items()
    return [_compare(first, reference, name, other) for name, other in others]


def _compare(first: str, reference: RealCarScores, name: str, other: RealCarScores) -> Comparison:
    tests = {alpha: paired_test(reference.predictions, other.predictions, alpha) for alpha in ALPHAS}
    shares = orientation_differences(reference.predictions, reference.orientation, other.orientation)
    return Comparison(first, name, tests, shares.turned, shares.mirrored)


def write_report(
    scores: Mapping[str, RealCarScores], models: Mapping[str, ModelCard], cars: RealCars, out_dir: Path
) -> list[Path]:
    """Write all figures of the models by name; return the files.

    Files: ``figures.json`` (everything), ``groups.csv``, ``cars.csv`` (a line for each car and model), and for each
    model its predictions and a sheet of all cars, worst first. The files of several models are numbered in their order.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = [out_dir / "figures.json", out_dir / "groups.csv", out_dir / "cars.csv"]
    text = json.dumps(figures(scores, compare(scores), models, cars), indent=1, allow_nan=False)
    write_atomic(paths[0], text.encode())
    write_table([line for name, item in scores.items() for line in group_lines(name, item)], paths[1])
    write_table([line for name, item in scores.items() for line in car_lines(name, item, cars)], paths[2])
    for number, item in enumerate(scores.values(), 1):
        suffix = f"_{number}" if len(scores) > 1 else ""
        paths += [out_dir / f"cars{suffix}.jpg", out_dir / f"predictions{suffix}.npz"]
        write_jpeg(paths[-2], cars_sheet(item, cars))
        item.predictions.save(paths[-1])
    return paths


def car_pck(scores: RealCarScores, alpha: float) -> Floats:
    """Return (N,) shares of each car's labelled keypoints that are correct; NaN if a car's labels have no extent."""
    predictions = scores.predictions
    num_points = np.where(predictions.lengths > 0, (predictions.validity > 0).sum(axis=1), 0)
    num_right = correct_keypoints(predictions, alpha).sum(axis=1)
    found: Floats = np.divide(num_right, num_points, out=np.full(len(predictions), np.nan), where=num_points > 0)
    return found


def car_distances(scores: RealCarScores) -> Floats:
    """Return (N,) mean distances of each car's labelled keypoints as a share of its length; NaN without a length."""
    lengths = scores.predictions.lengths.astype(np.float64)
    means = scores.predictions.mean_distances()
    found: Floats = np.divide(means, lengths, out=np.full(len(means), np.nan), where=lengths > 0)
    return found


def worst_first(scores: RealCarScores) -> list[int]:
    """Return the indices of the cars sorted by PCK, then by mean distance; cars without extent come last."""
    order = np.lexsort((-car_distances(scores), car_pck(scores, MAIN_ALPHA)))
    return [int(index) for index in order]


def cars_sheet(scores: RealCarScores, cars: RealCars) -> NDArray[np.uint8]:
    """Draw label and prediction of every car side by side, worst first, with rank, PCK, kind and heading. RGB."""
    order, predictions = worst_first(scores), scores.predictions
    images = [yuv_to_rgb(cars.sample(index, TILE_SIZE)["image"].numpy()) for index in order]
    sizes = [cars.cars[index].record.size for index in order]
    factors = [fit_scale(size, TILE_SIZE) / fit_scale(size, scores.input_size) for size in sizes]
    scale = np.array(factors, np.float32)[:, None, None]
    points, targets = predictions.points[order] * scale, predictions.targets[order] * scale
    captions = [f"{place}. {_caption(scores, cars, index)}" for place, index in enumerate(order, 1)]
    return captioned_prediction_sheet(images, points, targets, predictions.validity[order], captions, SHEET_COLUMNS, 1)


def _caption(scores: RealCarScores, cars: RealCars, index: int) -> str:
    num_points = int((scores.predictions.validity[index] > 0).sum())
    words, found = cars.cars[index].described, scores.orientation[index]
    remark = "" if found in _UNREMARKABLE else f" | {found.upper()}"
    pck = f"PCK {car_pck(scores, MAIN_ALPHA)[index]:.2f} ({num_points} points)"
    return f"{pck} | {words['kind']}, {words['heading']}{remark} | {cars.cars[index].record.sample_id}"


def car_lines(name: str, scores: RealCarScores, cars: RealCars) -> list[dict[str, Any]]:
    """Return the figures of each car for one model, worst first."""
    pck = {f"pck_{alpha:g}": car_pck(scores, alpha) for alpha in ALPHAS}
    columns = {**pck, "mean_distance_of_length": car_distances(scores)}
    return [
        {"model": name, **_car_labels(scores, cars, index)}
        | {column: _rounded(float(values[index])) for column, values in columns.items()}
        | {"mean_score": _rounded(float(scores.predictions.scores[index].mean()))}
        | {"orientation": str(scores.orientation[index])}
        for index in worst_first(scores)
    ]


def _car_labels(scores: RealCarScores, cars: RealCars, index: int) -> dict[str, Any]:
    """Return what is the same for all models."""
    car, validity = cars.cars[index], scores.predictions.validity[index]
    height, width = car.record.size
    return {
        "car": car.record.sample_id,
        **car.described,
        "crop_width_px": width,
        "crop_height_px": height,
        "num_points": int((validity > 0).sum()),
    }


def group_lines(name: str, scores: RealCarScores) -> list[dict[str, Any]]:
    """Return the figures of each group for one model."""
    lines = []
    for breakdown, row in all_rows(scores):
        line: dict[str, Any] = {"model": name, "breakdown": breakdown, "group": row.name, **_counts(row)}
        for alpha, found in row.pck.items():
            line |= {
                f"pck_{alpha:g}{end}": value for end, value in zip(("", "_low", "_high"), _ends(found), strict=True)
            }
        lines.append(line | {"mean_distance_px": _rounded(row.mean_dist.value)})
    return lines


def figures(
    scores: Mapping[str, RealCarScores],
    comparisons: Sequence[Comparison],
    models: Mapping[str, ModelCard],
    cars: RealCars,
) -> dict[str, Any]:
    """Return all figures as plain data; None for unknown values."""
    units = units_of(scores)
    return {
        "cars": {
            "sha256": cars.digest,
            "num_cars": len(cars),
            "num_photographs": units.num_scenes,
            "num_cameras": units.num_cameras,
            "left_out": {reason: tally.count for reason, tally in cars.issues.skipped.items()},
        },
        "models": {name: {**asdict(models[name]), **_model_figures(item)} for name, item in scores.items()},
        "comparisons": [_comparison_figures(item) for item in comparisons],
    }


def _model_figures(scores: RealCarScores) -> dict[str, Any]:
    groups: dict[str, dict[str, Any]] = {}
    for breakdown, row in all_rows(scores):
        pck = {f"{alpha:g}": _interval(found) for alpha, found in row.pck.items()}
        groups.setdefault(breakdown, {})[row.name] = {
            **_counts(row),
            "pck": pck,
            "mean_distance_px": _interval(row.mean_dist),
        }
    return {"turned": _interval(scores.turned), "mirrored": _interval(scores.mirrored), "groups": groups}


def _comparison_figures(item: Comparison) -> dict[str, Any]:
    pck = {
        f"{alpha:g}": {
            **_interval(test.difference),
            "p_value": test.p_value,
            "num_gained": test.num_gained,
            "num_lost": test.num_lost,
        }
        for alpha, test in item.tests.items()
    }
    shares = {"turned": _interval(item.turned), "mirrored": _interval(item.mirrored)}
    return {"reference": item.reference, "other": item.other, "pck": pck, **shares}


def _counts(row: GroupRow) -> dict[str, int]:
    return {name: value for name, value in vars(row).items() if name.startswith("num_")}


def _interval(found: Interval) -> dict[str, float | None]:
    return dict(zip(("value", "low", "high"), _ends(found), strict=True))


def _ends(found: Interval) -> tuple[float | None, float | None, float | None]:
    return _rounded(found.value), _rounded(found.low), _rounded(found.high)


def _rounded(value: float) -> float | None:
    return round(value, DECIMALS) if math.isfinite(value) else None


def all_rows(scores: RealCarScores) -> Iterator[tuple[str, GroupRow]]:
    """Yield every group with its breakdown; the groups are the same for all models of the same cars."""
    return ((breakdown, row) for breakdown, rows in scores.groups.items() for row in rows)


def units_of(scores: Mapping[str, RealCarScores]) -> Resampled:
    return next(iter(scores.values())).predictions.units.resampled
