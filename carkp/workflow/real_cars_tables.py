"""Tables for a terminal with the results of models on real cars."""

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from carkp.keypoints.clusters import Resampled
from carkp.keypoints.paired import Interval
from carkp.workflow.real_cars import ALL, ALPHAS, KEYPOINT, MAIN_ALPHA, GroupRow, RealCarScores
from carkp.workflow.real_cars_report import Comparison, all_rows, units_of

DASH = "–"


def describe_clusters(units: Resampled) -> str:
    """Describe the clusters that the intervals rest on."""
    if not units.is_by_cluster:
        return str(units)
    names = {"photographs": units.num_scenes, "cameras of a scene": units.num_cameras, "single cars": units.num_alone}
    return " and ".join(f"{num} {name}" for name, num in names.items() if num)


def headline_table(scores: Mapping[str, RealCarScores]) -> Table:
    """Return a table with a line for each model."""
    total = next(iter(scores.values())).total
    title = f"{total.num_cars} real cars, {total.num_points} keypoints; 95 % intervals over "
    title += describe_clusters(units_of(scores))
    judged = f"of {total.num_judged} cars"
    headings = [f"turned front to back, {judged}", f"mirrored left to right, {judged}"]
    table = Table("model", *(f"PCK@{alpha:g}" for alpha in ALPHAS), *headings, title=title)
    for name, item in scores.items():
        table.add_row(name, *(_cell(found) for found in (*item.total.pck.values(), item.turned, item.mirrored)))
    return table


def groups_table(scores: Mapping[str, RealCarScores]) -> Table:
    """Return a table with a line for each group and a column for each model."""
    others = ", ".join(f"@{alpha:g}" for alpha in ALPHAS if alpha != MAIN_ALPHA)
    title = f"PCK@{MAIN_ALPHA:g} (95 % interval) | {others} | cars turned or mirrored, of those that can be judged"
    table = Table("by", "group", "cars", "points", *scores, title=title)
    previous = ""
    for pairs in zip(*(all_rows(item) for item in scores.values()), strict=True):
        breakdown, row = pairs[0]
        if breakdown == ALL:
            continue
        if breakdown != previous:
            table.add_section()
        cells = [_group_cell(breakdown, item) for _, item in pairs]
        table.add_row(
            "" if breakdown == previous else breakdown, row.name, str(row.num_cars), str(row.num_points), *cells
        )
        previous = breakdown
    return table


def _group_cell(breakdown: str, row: GroupRow) -> str:
    others = " ".join(f"{found.value:.2f}" for alpha, found in row.pck.items() if alpha != MAIN_ALPHA)
    wrong = "" if breakdown == KEYPOINT else f" | {row.num_turned + row.num_mirrored}/{row.num_judged}"
    return f"{_cell(row.pck[MAIN_ALPHA])} | {others}{wrong}"


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Return a table with a line for each model after the first."""
    title = f"Differences from {comparisons[0].reference}, paired (95 % interval)"
    table = Table(
        "model", *(f"PCK@{alpha:g}" for alpha in ALPHAS), f"p @{MAIN_ALPHA:g}", "turned", "mirrored", title=title
    )
    for item in comparisons:
        differences = [_cell(test.difference, "+") for test in item.tests.values()]
        p_value = f"{item.tests[MAIN_ALPHA].p_value:.2g}"
        table.add_row(item.other, *differences, p_value, _cell(item.turned, "+"), _cell(item.mirrored, "+"))
    return table


def _cell(found: Interval, sign: str = "") -> str:
    if not math.isfinite(found.value):
        return DASH
    ends = f" ({found.low:{sign}.3f} to {found.high:{sign}.3f})" if math.isfinite(found.low) else ""
    return f"{found.value:{sign}.3f}{ends}"
