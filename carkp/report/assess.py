"""The statistics of a report, computed once: the intervals of every row, and its test against the family's float."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from carkp.keypoints.paired import (
    PairedTest,
    Retention,
    ScoreIntervals,
    is_comparable,
    paired_test,
    retention,
    score_intervals,
)
from carkp.report.accuracy_data import FLOAT, Family, ModelRow, ReportContent

SIGNIFICANCE = 0.05
OTHER_ALPHAS = np.array([0.02, 0.05, 0.09, 0.11, 0.15, 0.2])


@dataclass(frozen=True)
class Assessed:
    """One row of the headline table.

    Attributes:
        family, row: family and row of the model.
        label: label of the row.
        scores: scores with intervals.
        kept, test: comparison with the family's float; None for float itself, and if the samples differ.
    """

    family: Family
    row: ModelRow
    label: str
    scores: ScoreIntervals
    kept: Retention | None = None
    test: PairedTest | None = None

    @property
    def is_float(self) -> bool:
        return self.row.stage == FLOAT


def assess(content: ReportContent) -> list[Assessed]:
    """Return every row of every family, in their order."""
    return [_assess(content, family, row) for family in content.families for row in family.rows]


def shown(content: ReportContent, rows: Sequence[Assessed]) -> list[Assessed]:
    """Return the rows of detailed sections: the float row of each family, and the one that represents int8."""
    chosen = [(family.reference, family.judged) for family in content.families]
    return [item for item in rows if any(item.row is row for pair in chosen for row in pair)]


def between_families(content: ReportContent, rows: Sequence[Assessed]) -> list[Assessed]:
    """Return the float and the int8 rows of the other families, each tested against that of the first family."""
    first, *others = content.families
    found = []
    for other in others:
        for ours, theirs in ((first.reference, other.reference), (first.judged, other.judged)):
            if ours is None or theirs is None or not is_comparable(ours.predictions, theirs.predictions):
                continue
            old, new = (next(item for item in rows if item.row is row) for row in (ours, theirs))
            test = paired_test(ours.predictions, theirs.predictions, content.alpha)
            found.append(replace(new, label=f"{old.label} → {new.label}", test=test))
    return found


def verdict(item: Assessed) -> str:
    """Return a few sentences in plain words on whether this row is as good as float."""
    if item.test is None or item.kept is None:
        return f"{item.label}: there is no float row on the same cars, so a comparison with float is not possible."
    test = item.test
    if not np.isfinite(test.difference.low):
        return (
            f"{item.label} against float: fewer than two clusters have keypoints that count, so there is no interval."
        )
    has_moved = not test.difference.low <= 0 <= test.difference.high
    sentence = _shown_difference(item, test) if has_moved else _no_difference(item, test)
    if has_moved != (test.p_value < SIGNIFICANCE):
        sentence += " Interval and p-value disagree at the 5 % level: the result is undecided."
    if SIGNIFICANCE <= test.smallest_p < 1:
        sentence += f" The models differ in {test.num_moved} clusters, so p could not be below {test.smallest_p:.3g}."
    if test.resampled.warning:
        sentence += f" Read the interval with care ({test.resampled.short})."
    return sentence


def _found(item: Assessed, test: PairedTest) -> str:
    """Return the difference with its interval, and the numbers of cars, keypoints and clusters."""
    clusters = f" in {test.resampled}" if test.resampled.is_by_cluster else ""
    return (
        f"{points(test.difference.value)} points of PCK ({points(test.difference.low)} to "
        f"{points(test.difference.high)}; p {p_relation(test.p_value)}) on {item.scores.num_cars:,} cars and "
        f"{test.num_points:,} keypoints{clusters}"
    )


def _no_difference(item: Assessed, test: PairedTest) -> str:
    hidden = max(0.0, -test.difference.low)
    sentence = (
        f"No difference between float and {item.label} is shown: {_found(item, test)}. A loss of up to "
        f"{100 * hidden:.2f} points could remain undetected in a split of this size"
    )
    kept = item.kept
    if kept is None or not np.isfinite(kept.low):
        return f"{sentence}."
    if test.resampled.warning:
        return f"{sentence}; it keeps {100 * kept.share:.2f} % of float's PCK."
    return (
        f"{sentence}; it keeps {100 * kept.share:.2f} % of float's PCK, and at least {100 * kept.low:.2f} % with "
        "97.5 % confidence."
    )


def _shown_difference(item: Assessed, test: PairedTest) -> str:
    word = "worse" if test.difference.value < 0 else "better"
    sentence = f"{item.label} is measurably {word} than float: {_found(item, test)}"
    kept = item.kept
    if kept is not None and np.isfinite(kept.low):
        ends = f"{100 * kept.low:.2f} % to {100 * kept.high:.2f} %"
        sentence += f". It keeps {100 * kept.share:.2f} % of float's PCK ({ends})"
    is_sure = word == "worse" and not test.resampled.warning
    return sentence + (f", so a loss above {-100 * test.difference.low:.2f} points is unlikely." if is_sure else ".")


def verdicts(content: ReportContent) -> list[str]:
    """Return the verdict on the int8 row of every family."""
    judged = [item for item in assess(content) if item.row is item.family.judged and not item.is_float]
    return [verdict(item) for item in judged]


def at_other_thresholds(item: Assessed) -> str:
    """Return a sentence with the difference at other thresholds; "" for a row without a test."""
    reference = item.family.reference
    if item.test is None or reference is None:
        return ""
    differences = item.row.predictions.pck_curve(OTHER_ALPHAS) - reference.predictions.pck_curve(OTHER_ALPHAS)
    if not np.isfinite(differences).all():
        return ""
    found = [f"{points(difference)} at {alpha:g}" for alpha, difference in zip(OTHER_ALPHAS, differences, strict=True)]
    return f"The same difference at other thresholds alpha: {', '.join(found)}."


def points(share: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.2f}".replace("-", "−")


def p_text(p_value: float) -> str:
    """Return a p-value with as many digits as random flips can resolve."""
    return f"{p_value:.2f}" if p_value >= 0.1 else f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"


def p_relation(p_value: float) -> str:
    """Return a p-value with a relation: ``= 0.03`` or ``< 0.001``."""
    text = p_text(p_value)
    return text if text.startswith("<") else f"= {text}"


def _assess(content: ReportContent, family: Family, row: ModelRow) -> Assessed:
    label = content.label(family, row)
    scores = score_intervals(row.predictions, content.alpha)
    reference = family.reference
    if reference is None or reference is row or not is_comparable(reference.predictions, row.predictions):
        return Assessed(family, row, label, scores)
    pair = reference.predictions, row.predictions
    return Assessed(family, row, label, scores, retention(*pair, content.alpha), paired_test(*pair, content.alpha))
