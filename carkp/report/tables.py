"""The tables of an accuracy report: statistics in, cells as they are shown out."""

import math
from collections.abc import Mapping, Sequence

from carkp.keypoints.breakdown import GroupScore, SideConfusion
from carkp.keypoints.paired import Interval
from carkp.report.accuracy_data import DataCard, Family, LayerNoise, RunCard, SceneRow, Sweep
from carkp.report.assess import Assessed, p_text, points
from carkp.report.parts import PageTable
from carkp.report.style import readable

DASH = "–"
DIGEST_LENGTH = 12
MEBIBYTE = 2**20


def percent(value: float, digits: int = 2) -> str:
    return DASH if math.isnan(value) else f"{100 * value:.{digits}f} %"


def percent_interval(found: Interval) -> str:
    """The value, and below it the ends."""
    if math.isnan(found.value):
        return DASH
    return f"{percent(found.value)}\n{100 * found.low:.2f} to {100 * found.high:.2f}"


def px_interval(found: Interval) -> str:
    return DASH if math.isnan(found.value) else f"{found.value:.2f}\n{found.low:.2f} to {found.high:.2f}"


def headline_table(rows: Sequence[Assessed], alpha: float) -> PageTable:
    """Every row with its three numbers, what it keeps of float, size and latency."""
    headings = ["model", f"pck @ {alpha:g}", "pck_hat", "mean_dist (px)", "retention", "p", "size (MiB)",
                "latency (ms)", "latency is"]  # fmt: skip
    cells = []
    for item in rows:
        kept, test, latency, size = item.kept, item.test, item.row.latency, item.row.size_bytes
        cells.append(
            [
                item.label,
                percent_interval(item.scores.pck),
                percent_interval(item.scores.pck_hat),
                px_interval(item.scores.mean_dist),
                DASH if kept is None else percent_interval(Interval(kept.share, kept.low, kept.high)),
                DASH if test is None else p_text(test.p_value),
                DASH if size is None else f"{size / MEBIBYTE:.2f}",
                DASH if latency is None else f"{latency.milliseconds:.2f}",
                DASH if latency is None else latency.origin,
            ]
        )
    caption = (
        f"{_cars_and_points(rows)}. Below each number its 95 % interval. Retention: share of the float model's pck "
        "that is kept; its interval is that of a paired bootstrap, p that of the sign-flip test against float."
    )
    return PageTable(headings, cells, frozenset(range(1, 8)), caption)


def paired_table(rows: Sequence[Assessed]) -> PageTable:
    """Tests of every row that has one against its family's float."""
    headings = ["float against", "pck (points)", "mean_dist (px)", "p", "right → wrong", "wrong → right", "keypoints"]
    cells = []
    for item in rows:
        if (test := item.test) is None:
            continue
        change, farther = test.difference, test.distance_difference
        cells.append(
            [
                item.label,
                f"{points(change.value)}\n{points(change.low)} to {points(change.high)}",
                f"{signed(farther.value)}\n{signed(farther.low)} to {signed(farther.high)}",
                p_text(test.p_value),
                str(test.num_lost),
                str(test.num_gained),
                f"{test.num_points:,}",
            ]
        )
    caption = (
        "Row minus float, on the same cars; 95 % intervals of a paired bootstrap over cars. p: two-sided sign-flip "
        "test over cars on the difference in correct keypoints. right → wrong: keypoints that float has right and the "
        "row has not."
    )
    return PageTable(headings, cells, frozenset(range(1, 7)), caption)


def keypoint_table(groups: Mapping[str, Sequence[GroupScore]]) -> PageTable:
    """PCK of each keypoint; ``groups``: label -> a group a keypoint."""
    first = next(iter(groups.values()))
    rows = [
        [name, f"{first[index].num_points:,}", *(percent_interval(found[index].pck) for found in groups.values())]
        for index, name in enumerate(readable([group.name for group in first]))
    ]
    return PageTable(["keypoint", "labelled", *groups], rows, frozenset(range(1, 2 + len(groups))))


def group_table(title: str, groups: Mapping[str, Sequence[GroupScore]]) -> PageTable:
    """PCK and mean distance of groups, a row a model; ``groups``: label -> the same groups of each model."""
    rows = []
    for index, group in enumerate(next(iter(groups.values()))):
        first = [group.name, f"{group.num_cars:,}", f"{group.num_points:,}"]
        for label, found in groups.items():
            rows.append([*first, label, percent_interval(found[index].pck), px_interval(found[index].mean_dist)])
            first = ["", "", ""]
    return PageTable([title, "cars", "keypoints", "model", "pck", "mean_dist (px)"], rows, frozenset({1, 2, 4, 5}))


def confusion_table(found: Mapping[str, Sequence[SideConfusion]]) -> PageTable:
    """Where predictions of paired keypoints lie, a row a model; ``found``: label -> a row a pair."""
    rows = []
    for index, pair in enumerate(next(iter(found.values()))):
        first = [pair.name.replace("_", " "), f"{pair.num_points:,}"]
        for label, pairs in found.items():
            shares = (pairs[index].own, pairs[index].partner, pairs[index].neither)
            rows.append([*first, label, *(percent(share) for share in shares)])
            first = ["", ""]
    return PageTable(["pair", "keypoints", "model", "own side", "other side", "neither"], rows,
                     frozenset({1, 3, 4, 5}))  # fmt: skip


def noise_table(noise: Sequence[LayerNoise], num_rows: int = 10) -> PageTable:
    """The layers that lose most, by the ratio of the whole network up to them."""
    worst = sorted(noise, key=lambda layer: layer.total_db)[:num_rows]
    rows = [
        [layer.name, layer.kind, decibels(layer.total_db), decibels(layer.activations_db), decibels(layer.weights_db)]
        for layer in worst
    ]
    headings = ["layer", "kind", "network so far (dB)", "own activations (dB)", "own weights (dB)"]
    return PageTable(headings, rows, frozenset({2, 3, 4}), f"The {len(rows)} layers with the lowest ratio.")


def sweep_table(sweep: Sweep) -> PageTable:
    """Validation PCK by percentile."""
    rows = [
        [f"{percentile:g}" + (" (used)" if percentile == sweep.chosen else ""), percent(pck),
         DASH if sweep.float_pck is None else points(pck - sweep.float_pck)]
        for percentile, pck in sweep.pck.items()
    ]  # fmt: skip
    return PageTable(["percentile of |x|", "val pck", "against float (points)"], rows, frozenset({0, 1, 2}))


def splits_table(card: DataCard) -> PageTable:
    """Totals of each split."""
    splits = dict.fromkeys(row.split for row in card.scenes)
    rows = []
    for split in splits:
        scenes = [row for row in card.scenes if row.split == split]
        rows.append([split, str(len(scenes)), *_counts(scenes)])
    return PageTable(["split", "scenes", *COUNTS], rows, frozenset(range(1, 2 + len(COUNTS))))


def scenes_table(card: DataCard) -> PageTable:
    """Counts of each scene."""
    rows = [[row.split, row.scene, *_counts([row])] for row in card.scenes]
    return PageTable(["split", "scene", *COUNTS], rows, frozenset(range(2, 2 + len(COUNTS))), is_tall=True)


COUNTS = ("frames", "cars", "visible keypoints", "occluded", "not labelled", "occluded share")


def runs_table(runs: Sequence[RunCard]) -> PageTable:
    """Which runs the numbers are from."""
    facts = list(dict.fromkeys(name for run in runs for name in run.facts))
    rows = [[run.stage, run.run_id, *(run.facts.get(name, DASH) for name in facts)] for run in runs]
    return PageTable(["stage", "run", *facts], rows)


def versions_table(runs: Sequence[RunCard]) -> PageTable | None:
    """Versions of packages, a column a set of runs that agree; None where no run has logged any."""
    sets: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        if run.versions:
            sets.setdefault(tuple(sorted(run.versions.items())), []).append(run.stage)
    if not sets:
        return None
    names = sorted({name for versions in sets for name, _ in versions})
    rows = [[name, *(dict(versions).get(name, DASH) for versions in sets)] for name in names]
    return PageTable(["package", *(", ".join(dict.fromkeys(stages)) for stages in sets.values())], rows)


def config_differences_table(runs: Sequence[RunCard]) -> PageTable | None:
    """Settings that are not the same in all runs that have them; None where there is none."""
    configured = [run for run in runs if run.config]
    names = sorted({name for run in configured for name in run.config})
    differing = [name for name in names if len({run.config[name] for run in configured if name in run.config}) > 1]
    if not differing:
        return None
    rows = [[name, *(run.config.get(name, DASH) for run in configured)] for name in differing]
    return PageTable(["setting", *(f"{run.stage} {run.run_id[:6]}" for run in configured)], rows)


def families_table(families: Sequence[Family]) -> PageTable:
    """What is compared."""
    rows = [
        [family.name, family.target or DASH, family.data.digest[:DIGEST_LENGTH] if family.data else DASH,
         ", ".join(f"{run.stage} {run.run_id[:8]}" for run in family.runs)]
        for family in families
    ]  # fmt: skip
    return PageTable(["model", "target", "data", "runs"], rows, is_wrapped=True)


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def decibels(value: float) -> str:
    """One digit; beyond 200 dB there is no noise."""
    return DASH if math.isnan(value) else "exact" if value > 200 else f"{value:.1f}"


def _counts(rows: Sequence[SceneRow]) -> list[str]:
    visible, occluded = (sum(getattr(row, name) for row in rows) for name in ("num_visible", "num_occluded"))
    counts = [sum(row.num_frames for row in rows), sum(row.num_cars for row in rows), visible, occluded,
              sum(row.num_missing for row in rows)]  # fmt: skip
    labelled = visible + occluded
    return [*(f"{count:,}" for count in counts), percent(occluded / labelled, 1) if labelled else DASH]


def _cars_and_points(rows: Sequence[Assessed]) -> str:
    """``N cars and N keypoints``, or by row where they differ."""
    sizes = dict.fromkeys((item.scores.num_cars, item.scores.num_points) for item in rows)
    if len(sizes) == 1:
        ((cars, labelled),) = sizes
        return f"{cars:,} cars and {labelled:,} labelled keypoints"
    return "; ".join(
        f"{item.label}: {item.scores.num_cars:,} cars and {item.scores.num_points:,} labelled keypoints"
        for item in rows
    )
