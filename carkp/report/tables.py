"""The tables of an accuracy report: statistics in, formatted cells out."""

import math
from collections.abc import Callable, Mapping, Sequence

from carkp.keypoints.breakdown import GroupScore, SideConfusion
from carkp.keypoints.paired import Interval
from carkp.report.accuracy_data import DataCard, Family, LayerNoise, RunCard, SceneRow, Sweep
from carkp.report.assess import Assessed, p_text, points
from carkp.report.parts import PageTable
from carkp.report.style import readable
from carkp.report.wording import over

DASH = "–"
DIGEST_LENGTH = 12
MEBIBYTE = 2**20
P_RULE = "by the same units; if n of them differ, p is at least 2^-(n-1)"


def percent(value: float, digits: int = 2) -> str:
    return DASH if math.isnan(value) else f"{100 * value:.{digits}f} %"


def percent_interval(found: Interval) -> str:
    """Return the value in percent, and the ends of its interval on a second line."""
    if math.isnan(found.value):
        return DASH
    return f"{percent(found.value)}\n{_ends(100 * found.low, 100 * found.high)}"


def px_interval(found: Interval) -> str:
    return DASH if math.isnan(found.value) else f"{found.value:.2f}\n{_ends(found.low, found.high)}"


def headline_table(rows: Sequence[Assessed], alpha: float) -> PageTable:
    """Return the table of every row with its three scores, retention, p-value, size and latency."""
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
    caption = f"{cars_and_points(rows)}. The 95 % interval below each number is from a bootstrap over {over(rows)}."
    if any(item.kept is not None for item in rows):
        caption += (
            " Retention: share of the float model's pck that is kept; its interval is from a paired bootstrap, p is "
            f"from the sign-flip test against float, {P_RULE}."
        )
    return PageTable(headings, cells, frozenset(range(1, 8)), caption)


def paired_table(rows: Sequence[Assessed]) -> PageTable:
    """Return the table of tests against the family's float, for every row that has one."""
    units = "/".join(dict.fromkeys(item.test.resampled.unit for item in rows if item.test is not None))
    headings = ["float against", "pck (points)", "mean_dist (px)", "p", "right → wrong", "wrong → right", "keypoints",
                f"{units} that differ"]  # fmt: skip
    cells = []
    for item in rows:
        if (test := item.test) is None:
            continue
        change, farther = test.difference, test.distance_difference
        cells.append(
            [
                item.label,
                f"{points(change.value)}\n{_ends(change.low, change.high, points)}",
                f"{signed(farther.value)}\n{_ends(farther.low, farther.high, signed)}",
                p_text(test.p_value),
                str(test.num_lost),
                str(test.num_gained),
                f"{test.num_points:,}",
                f"{test.num_moved:,} of {test.resampled.num_units:,}",
            ]
        )
    return PageTable(headings, cells, frozenset(range(1, 8)), paired_caption(rows))


def paired_caption(rows: Sequence[Assessed], first: str = "float", second: str = "row") -> str:
    """Return a caption that explains the intervals and p-values of a paired table."""
    return (
        f"{second.capitalize()} minus {first}, on the same cars; 95 % intervals of a paired bootstrap over "
        f"{over([item for item in rows if item.test is not None])}. p: two-sided sign-flip test on the difference in "
        f"correct keypoints, {P_RULE}. right → wrong: keypoints that are right for {first} and wrong for {second}."
    )


def keypoint_table(groups: Mapping[str, Sequence[GroupScore]]) -> PageTable:
    """Return the table of PCK by keypoint; ``groups``: label -> one group per keypoint."""
    first = next(iter(groups.values()))
    rows = [
        [name, f"{first[index].num_points:,}", *(percent_interval(found[index].pck) for found in groups.values())]
        for index, name in enumerate(readable([group.name for group in first]))
    ]
    return PageTable(["keypoint", "labelled", *groups], rows, frozenset(range(1, 2 + len(groups))))


def group_table(title: str, groups: Mapping[str, Sequence[GroupScore]], units: str = "clusters") -> PageTable:
    """Return the table of PCK and mean distance by group, one row per model.

    ``groups``: label -> groups, which are the same for all models. ``units``: kind of the groups' ``num_units``.
    """
    rows = []
    for index, group in enumerate(next(iter(groups.values()))):
        first = [group.name, f"{group.num_cars:,}", f"{group.num_points:,}", f"{group.num_units:,}"]
        for label, found in groups.items():
            rows.append([*first, label, percent_interval(found[index].pck), px_interval(found[index].mean_dist)])
            first = ["", "", "", ""]
    headings = [title, "cars", "keypoints", units, "model", "pck", "mean_dist (px)"]
    return PageTable(headings, rows, frozenset({1, 2, 3, 5, 6}))


def confusion_table(found: Mapping[str, Sequence[SideConfusion]]) -> PageTable:
    """Return the table of side confusion, one row per pair and model; ``found``: label -> one item per pair."""
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
    """Return the table of layers with the lowest ratio of the whole network up to them."""
    worst = sorted(noise, key=lambda layer: layer.total_db)[:num_rows]
    rows = [
        [layer.name, layer.kind, decibels(layer.total_db), decibels(layer.activations_db), decibels(layer.weights_db)]
        for layer in worst
    ]
    headings = ["layer", "kind", "network so far (dB)", "own activations (dB)", "own weights (dB)"]
    return PageTable(headings, rows, frozenset({2, 3, 4}), f"The {len(rows)} layers with the lowest ratio.")


def sweep_table(sweep: Sweep) -> PageTable:
    """Return the table of validation PCK by percentile."""
    rows = [
        [f"{percentile:g}" + (" (used)" if percentile == sweep.chosen else ""), percent(pck),
         DASH if sweep.float_pck is None else points(pck - sweep.float_pck)]
        for percentile, pck in sweep.pck.items()
    ]  # fmt: skip
    return PageTable(["percentile of |x|", "val pck", "against float (points)"], rows, frozenset({0, 1, 2}))


def splits_table(card: DataCard) -> PageTable:
    """Return the table of totals by split."""
    splits = dict.fromkeys(row.split for row in card.scenes)
    rows = []
    for split in splits:
        scenes = [row for row in card.scenes if row.split == split]
        rows.append([split, str(len(scenes)), *_counts(scenes)])
    return PageTable(["split", "scenes", *COUNTS], rows, frozenset(range(1, 2 + len(COUNTS))))


def scenes_table(card: DataCard) -> PageTable:
    """Return the table of counts by scene."""
    rows = [[row.split, row.scene, *_counts([row])] for row in card.scenes]
    return PageTable(["split", "scene", *COUNTS], rows, frozenset(range(2, 2 + len(COUNTS))), is_tall=True)


COUNTS = ("frames", "cars", "visible keypoints", "occluded", "not labelled", "occluded share")


def runs_table(runs: Sequence[RunCard]) -> PageTable:
    """Return the table of the runs from which the numbers come."""
    facts = list(dict.fromkeys(name for run in runs for name in run.facts))
    rows = [[run.stage, run.run_id, *(run.facts.get(name, DASH) for name in facts)] for run in runs]
    return PageTable(["stage", "run", *facts], rows)


def versions_table(runs: Sequence[RunCard]) -> PageTable | None:
    """Return the table of package versions, one column per set of runs that agree; None if no run logged versions."""
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
    """Return the table of settings that differ between runs that have them; None if there are none."""
    configured = [run for run in runs if run.config]
    names = sorted({name for run in configured for name in run.config})
    differing = [name for name in names if len({run.config[name] for run in configured if name in run.config}) > 1]
    if not differing:
        return None
    rows = [[name, *(run.config.get(name, DASH) for run in configured)] for name in differing]
    return PageTable(["setting", *(f"{run.stage} {run.run_id[:6]}" for run in configured)], rows)


def families_table(families: Sequence[Family]) -> PageTable:
    """Return the table of the families that are compared."""
    rows = [
        [family.name, family.target or DASH, family.data.digest[:DIGEST_LENGTH] if family.data else DASH,
         ", ".join(f"{run.stage} {run.run_id[:8]}" for run in family.runs)]
        for family in families
    ]  # fmt: skip
    return PageTable(["model", "target", "data", "runs"], rows, is_wrapped=True)


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def decibels(value: float) -> str:
    """Return decibels with one decimal; values above 200 dB mean that there is no noise."""
    return DASH if math.isnan(value) else "exact" if value > 200 else f"{value:.1f}"


def _ends(low: float, high: float, shown: Callable[[float], str] = "{:.2f}".format) -> str:
    return f"{shown(low)} to {shown(high)}" if math.isfinite(low) else "no interval"


def _counts(rows: Sequence[SceneRow]) -> list[str]:
    visible, occluded = (sum(getattr(row, name) for row in rows) for name in ("num_visible", "num_occluded"))
    counts = [sum(row.num_frames for row in rows), sum(row.num_cars for row in rows), visible, occluded,
              sum(row.num_missing for row in rows)]  # fmt: skip
    labelled = visible + occluded
    return [*(f"{count:,}" for count in counts), percent(occluded / labelled, 1) if labelled else DASH]


def cars_and_points(rows: Sequence[Assessed]) -> str:
    """Return ``N cars and N labelled keypoints``, or one such text per row if the rows differ."""
    sizes = dict.fromkeys((item.scores.num_cars, item.scores.num_points) for item in rows)
    if len(sizes) == 1:
        ((cars, labelled),) = sizes
        return f"{cars:,} cars and {labelled:,} labelled keypoints"
    return "; ".join(
        f"{item.label}: {item.scores.num_cars:,} cars and {item.scores.num_points:,} labelled keypoints"
        for item in rows
    )
