"""Sentences of a report that depend on its data: they only say what is true for these rows and numbers."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from carkp.keypoints.clusters import MIN_CLUSTERS
from carkp.keypoints.paired import is_comparable
from carkp.report.accuracy_data import Family, Sweep
from carkp.report.assess import Assessed, points


def over(rows: Sequence[Assessed]) -> str:
    """Return the units that the intervals of ``rows`` resample: ``14 clusters (scene and camera)``.

    If the rows differ, the text names the units of each row.
    """
    found = dict.fromkeys(item.scores.resampled for item in rows)
    if len(found) == 1:
        return str(next(iter(found)))
    return "; ".join(f"{item.scores.resampled} ({item.label})" for item in rows)


def interval_warnings(rows: Sequence[Assessed]) -> list[str]:
    """Return the reasons why intervals must be read with care, each once; empty if there are none."""
    return list(dict.fromkeys(warning for item in rows if (warning := item.scores.resampled.warning)))


def cluster_rule(rows: Sequence[Assessed]) -> str:
    """Return sentences on how reliable intervals by cluster are; "" if single cars are resampled."""
    if not any(item.scores.resampled.is_by_cluster for item in rows):
        return ""
    return (
        "A cluster is all cars of one camera in one scene, according to the sample ids (of the scene, if they name "
        "no camera). Its frames are neighbours in a video, so single cars would give intervals that are too narrow. "
        "With "
        f"fewer than {MIN_CLUSTERS} clusters intervals are unreliable."
    )


def on_same_cars(rows: Sequence[Assessed]) -> bool:
    """Return whether all rows are scored on the same samples and labels."""
    return all(is_comparable(rows[0].row.predictions, item.row.predictions) for item in rows[1:])


def headline_reading(rows: Sequence[Assessed]) -> str:
    """Return sentences on how to read the bars of the headline chart."""
    bars = f"Dots are the scores, bars their 95 % intervals over {over(rows)}."
    if len(rows) == 1:
        return bars
    if not on_same_cars(rows):
        return f"{bars} Not all rows are scored on the same cars: do not compare rows with different cars."
    same = "All rows are scored on the same cars, so bars that overlap do not show that two models are equal"
    tested = any(item.test is not None for item in rows)
    return f"{bars} {same}" + (": use the paired test below." if tested else ".")


def sweep_reading(sweep: Sweep) -> str:
    """Return sentences on the best percentile of a sweep, and on the loss towards both ends."""
    known = {percentile: pck for percentile, pck in sorted(sweep.pck.items()) if not math.isnan(pck)}
    if not known:
        return "No percentile has a PCK."
    if len(known) == 1:
        return "Only one percentile was tried: this says nothing about the choice."
    best = max(known, key=lambda percentile: known[percentile])
    (lowest, low), *_, (highest, high) = known.items()
    spread = max(known.values()) - min(known.values())
    sentences = [f"The best is {best:g}; all lie within {100 * spread:.2f} points of it."]
    if low < known[best]:
        sentences.append(
            f"Downwards PCK changes by {points(low - known[best])} points to {lowest:g}, which clips more."
        )
    if high < known[best]:
        sentences.append(
            f"Upwards PCK changes by {points(high - known[best])} points to {highest:g}, whose steps are coarser."
        )
    return " ".join(sentences)


def axis_note(figure: Figure) -> str:
    """Return a sentence if the first axis does not show 0, else ""."""
    left, right = figure.axes[0].get_xlim()
    return "" if left <= 0 <= right else " The axis does not start at 0."


def training_data_note(family: Family) -> str:
    """Return a sentence if the float model was trained on other data than those described, else ""."""
    if family.data is None:
        return ""
    key = "data digest"
    trained_on = {run.facts.get(key, "") for run in family.runs if run.stage == "float"}
    others = [digest for digest in trained_on if digest.strip("–") and not family.data.digest.startswith(digest)]
    return f"The float model was trained on other data: {', '.join(sorted(others))}." if others else ""
