"""What the yardstick of real cars says of its models: tables, a sheet of all cars, and files of every figure.

Legend: N cars, K keypoints.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from carkp.data.colour import yuv_to_rgb
from carkp.data.geometry import fit_scale
from carkp.disk import write_atomic
from carkp.keypoints.orientation import Orientation
from carkp.keypoints.paired import Interval, PairedTest, correct_keypoints, paired_test, ratio_intervals
from carkp.report.sheets import captioned_prediction_sheet
from carkp.workflow.pictures import write_jpeg
from carkp.workflow.real_cars import ALL, ALPHAS, MAIN_ALPHA, UNSAID, GroupRow, RealCars, RealCarScores
from carkp.workflow.tables import write_table

SHEET_COLUMNS = 4
TILE_SIZE = (256, 256)


@dataclass(frozen=True)
class Comparison:
    """Another model against the first one, on the same cars.

    Attributes:
        tests: PCK at each of ``ALPHAS``.
        turned: difference of the shares of cars turned front to back, of those that can be judged.
    """

    reference: str
    other: str
    tests: Mapping[float, PairedTest]
    turned: Interval


def compare(scores: Mapping[str, RealCarScores]) -> list[Comparison]:
    """Every further model against the first."""
    (first, reference), *others = scores.items()
    return [
        Comparison(
            first,
            name,
            {alpha: paired_test(reference.predictions, other.predictions, alpha) for alpha in ALPHAS},
            _turned_difference(reference, other),
        )
        for name, other in others
    ]


def _turned_difference(reference: RealCarScores, other: RealCarScores) -> Interval:
    ours, theirs = (np.array([item.is_turned for item in scores.orientation], float) for scores in (reference, other))
    is_judged = np.array([item is not Orientation.UNKNOWN for item in reference.orientation], float)
    sums = reference.predictions.units.sums(np.stack([theirs - ours, is_judged], axis=1))
    return ratio_intervals(sums[:, :1], sums[:, 1:], num_resamples=4000, seed=0)[0]


def write_report(
    scores: Mapping[str, RealCarScores], references: Mapping[str, str], cars: RealCars, out_dir: Path
) -> list[Path]:
    """Write every figure of the models by name, whose full names are ``references``; returns the files.

    ``figures.json`` (everything), ``groups.csv``, ``cars.csv`` (a line a car and model), and of each model a sheet of
    all cars, worst first, and its predictions.
    """
    comparisons = compare(scores)
    paths = [out_dir / "figures.json", out_dir / "groups.csv", out_dir / "cars.csv"]
    text = json.dumps(figures(scores, comparisons, references, cars), indent=1, allow_nan=False)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(paths[0], text.encode())
    write_table([row for name, item in scores.items() for row in group_lines(name, item)], paths[1])
    write_table([row for name, item in scores.items() for row in car_lines(name, item, cars)], paths[2])
    for number, item in enumerate(scores.values(), 1):
        suffix = f"_{number}" if len(scores) > 1 else ""
        paths += [out_dir / f"cars{suffix}.jpg", out_dir / f"predictions{suffix}.npz"]
        write_jpeg(paths[-2], cars_sheet(item, cars))
        item.predictions.save(paths[-1])
    return paths


def car_pck(scores: RealCarScores, alpha: float) -> np.ndarray:
    """(N,) share of each car's labelled keypoints that are right; NaN of a car without extent."""
    predictions = scores.predictions
    num = np.where(predictions.lengths > 0, (predictions.validity > 0).sum(axis=1), 0)
    right = correct_keypoints(predictions, alpha).sum(axis=1)
    found: np.ndarray = np.divide(right, num, out=np.full(len(predictions), np.nan), where=num > 0)
    return found


def worst_first(scores: RealCarScores) -> list[int]:
    """Indices of the cars by PCK, those of the same PCK by their mean distance."""
    pck = np.nan_to_num(car_pck(scores, MAIN_ALPHA))
    lengths = np.maximum(scores.predictions.lengths, 1e-6)
    return [int(index) for index in np.lexsort((-scores.predictions.mean_distances() / lengths, pck))]


def cars_sheet(scores: RealCarScores, cars: RealCars) -> np.ndarray:
    """Label and prediction of every car side by side, worst first, with its place, PCK, kind and heading. RGB."""
    order, predictions, pck = worst_first(scores), scores.predictions, car_pck(scores, MAIN_ALPHA)
    images, factors, captions = [], [], []
    for place, index in enumerate(order, 1):
        car = cars.cars[index]
        images.append(yuv_to_rgb(cars.sample(index, TILE_SIZE)["image"].numpy()))
        factors.append(fit_scale(car.record.size, TILE_SIZE) / fit_scale(car.record.size, scores.input_size))
        found = scores.orientation[index]
        remark = "" if found in (Orientation.AS_LABELLED, Orientation.UNKNOWN) else f" | {found}"
        traits = f"{car.traits.kind} {car.traits.heading}"
        captions.append(f"{place}. PCK {pck[index]:.2f} | {traits}{remark} | {car.record.sample_id}")
    scale = np.array(factors, np.float32)[:, None, None]
    points, targets = predictions.points[order] * scale, predictions.targets[order] * scale
    return captioned_prediction_sheet(images, points, targets, predictions.validity[order], captions, SHEET_COLUMNS, 1)


def car_lines(name: str, scores: RealCarScores, cars: RealCars) -> list[dict[str, Any]]:
    """Figures of each car under one model, worst first."""
    predictions = scores.predictions
    pck = {alpha: car_pck(scores, alpha) for alpha in ALPHAS}
    shares = predictions.mean_distances() / np.maximum(predictions.lengths, 1e-6)
    lines = []
    for index in worst_first(scores):
        car = cars.cars[index]
        height, width = car.record.size
        lines.append(
            {"model": name, "car": car.record.sample_id, "kind": car.traits.kind, "heading": car.traits.heading}
            | {"view": car.traits.view, "occluded": UNSAID[car.traits.occluded]}
            | {"truncated": {0: "no", 1: "yes"}.get(car.record.truncated, "unknown"), "source": car.traits.source}
            | {"crop_width_px": width, "crop_height_px": height}
            | {"num_points": int((predictions.validity[index] > 0).sum())}
            | {f"pck_{alpha:g}": _rounded(float(values[index])) for alpha, values in pck.items()}
            | {"mean_distance_of_length": _rounded(float(shares[index]))}
            | {"mean_score": _rounded(float(predictions.scores[index].mean()))}
            | {"orientation": str(scores.orientation[index])}
        )
    return lines


def group_lines(name: str, scores: RealCarScores) -> list[dict[str, Any]]:
    """Figures of each group under one model."""
    lines = []
    for breakdown, row in _all_rows(scores):
        line: dict[str, Any] = {"model": name, "breakdown": breakdown, "group": row.name}
        line |= {"num_cars": row.num_cars, "num_points": row.num_points, "num_clusters": row.num_clusters}
        for alpha, found in row.pck.items():
            ends = {f"pck_{alpha:g}_low": _rounded(found.low), f"pck_{alpha:g}_high": _rounded(found.high)}
            line |= {f"pck_{alpha:g}": _rounded(found.value), **ends}
        lines.append(line | {"mean_distance_px": _rounded(row.mean_dist.value)})
    return lines


def figures(
    scores: Mapping[str, RealCarScores],
    comparisons: Sequence[Comparison],
    references: Mapping[str, str],
    cars: RealCars,
) -> dict[str, Any]:
    """Every figure as plain data; None for what is not known."""
    units = next(iter(scores.values())).predictions.units.resampled
    return {
        "num_cars": len(cars),
        "clusters": {"photographs": units.num_scenes, "cameras of a scene": units.num_cameras},
        "left_out": {reason: tally.count for reason, tally in cars.issues.skipped.items()},
        "models": {name: {"model": references[name], **_model_figures(item)} for name, item in scores.items()},
        "comparisons": [_comparison_figures(item) for item in comparisons],
    }


def _model_figures(scores: RealCarScores) -> dict[str, Any]:
    groups: dict[str, dict[str, Any]] = {}
    for breakdown, row in _all_rows(scores):
        groups.setdefault(breakdown, {})[row.name] = {
            "num_cars": row.num_cars,
            "num_points": row.num_points,
            "num_clusters": row.num_clusters,
            "pck": {f"{alpha:g}": _interval(found) for alpha, found in row.pck.items()},
            "mean_distance_px": _interval(row.mean_dist),
        }
    shares = {"turned": _interval(scores.turned), "mirrored": _interval(scores.mirrored)}
    return {"groups": groups, **shares, "num_judged": scores.num_judged}


def _comparison_figures(item: Comparison) -> dict[str, Any]:
    tests = {
        f"{alpha:g}": {**_interval(test.difference), "p_value": test.p_value, "gained": test.num_gained,
                       "lost": test.num_lost}
        for alpha, test in item.tests.items()
    }  # fmt: skip
    return {"reference": item.reference, "other": item.other, "pck": tests, "turned": _interval(item.turned)}


def _interval(found: Interval) -> dict[str, float | None]:
    return {name: _rounded(value) for name, value in vars(found).items()}


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def _all_rows(scores: RealCarScores) -> Iterator[tuple[str, GroupRow]]:
    return ((breakdown, row) for breakdown, rows in scores.groups.items() for row in rows)


def headline_table(scores: Mapping[str, RealCarScores]) -> Table:
    """A line a model."""
    first = next(iter(scores.values()))
    units = first.predictions.units.resampled
    title = (
        f"{len(first.predictions)} real cars, {first.groups[ALL][0].num_points} keypoints; 95 % intervals over {units}"
    )
    table = Table("model", *(f"PCK@{alpha:g}" for alpha in ALPHAS), "turned", "mirrored", title=title)
    for name, item in scores.items():
        cells = [_cell(found) for found in (*item.pck.values(), item.turned, item.mirrored)]
        table.add_row(name, *cells)
    return table


def groups_table(scores: Mapping[str, RealCarScores]) -> Table:
    """A line a group, a column a model: PCK at the middle threshold with its interval, and at the others."""
    table = Table("", "group", "cars", "points", *scores, title="PCK@0.1 (95 % interval), @0.05, @0.2")
    for index, (breakdown, row) in enumerate(_all_rows(next(iter(scores.values())))):
        if breakdown == ALL:
            continue
        rows = [list(_all_rows(item))[index][1] for item in scores.values()]
        cells = [f"{_cell(item.pck[MAIN_ALPHA])} {item.pck[0.05].value:.3f} {item.pck[0.2].value:.3f}" for item in rows]
        table.add_row(breakdown, row.name, str(row.num_cars), str(row.num_points), *cells)
    return table


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """A line a model after the first."""
    title = f"Against {comparisons[0].reference}, paired (95 % interval)"
    table = Table("model", *(f"PCK@{alpha:g}" for alpha in ALPHAS), "p @0.1", "turned", title=title)
    for item in comparisons:
        cells = [_cell(test.difference, "+") for test in item.tests.values()]
        table.add_row(item.other, *cells, f"{item.tests[MAIN_ALPHA].p_value:.3g}", _cell(item.turned, "+"))
    return table


def _cell(found: Interval, sign: str = "") -> str:
    if not math.isfinite(found.value):
        return "–"
    ends = f" ({found.low:{sign}.2f} to {found.high:{sign}.2f})" if math.isfinite(found.low) else ""
    return f"{found.value:{sign}.3f}{ends}"
