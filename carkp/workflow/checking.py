"""Results of `check` and `compile` for a program on a target: verdicts by layer, counts, and the refusal."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carkp.deploy.check import CheckSummary, LayerVerdict
from carkp.tracking.tracker import Tracker
from carkp.workflow.cli import UnsupportedModelError
from carkp.workflow.tables import write_table


@dataclass(frozen=True)
class CheckResult:
    """A verdict for each layer, and their counts."""

    verdicts: Sequence[LayerVerdict]
    summary: CheckSummary


def log_check(result: CheckResult, out_dir: Path, tracker: Tracker) -> None:
    """Log the table of verdicts and their counts."""
    path = out_dir / "check.csv"
    write_table([table_row(item) for item in result.verdicts], path)
    tracker.log_file(path, "tables")
    summary = result.summary
    tracker.log_metrics(
        {
            "check/num_int8": summary.num_int8,
            "check/num_fallback": summary.num_fallback,
            "check/num_impossible": summary.num_impossible,
            "check/int8_mac_share": summary.int8_mac_share,
            "check/num_limits": summary.num_limits,
            "check/num_assumed_limits": summary.num_assumed_limits,
        }
    )


def table_row(item: LayerVerdict) -> dict[str, Any]:
    breach = item.breach
    return {
        "layer": item.layer,
        "operator": item.operator,
        "output_shape": "x".join(map(str, item.output_shape)),
        "macs": item.macs,
        "verdict": item.verdict,
        "limit": breach.limit if breach else "",
        "found": breach.found if breach else "",
        "allowed": breach.allowed if breach else "",
        "origin": breach.origin if breach else "",
        "change": breach.advice if breach else "",
    }


def describe_verdict(summary: CheckSummary) -> str:
    """Return ``fits``, or how many layers do not fit, and how much of that rests on assumed limits."""
    found = {"fall back": summary.num_fallback, "are impossible": summary.num_impossible}
    if failing := ", ".join(f"{count} layers {what}" for what, count in found.items() if count):
        by_assumption = f" ({summary.num_by_assumption} of them by assumed limits)" if summary.num_by_assumption else ""
        return f"{failing}{by_assumption}"
    if not summary.num_limits:
        return "fits: the target's file gives no limits"
    if not summary.num_assumed_limits:
        return "fits"
    return f"fits, by assumed limits ({summary.num_assumed_limits} of {summary.num_limits} are assumed)"


def describe_counts(summary: CheckSummary) -> str:
    return (
        f"int8: {summary.num_int8} layers with {summary.int8_mac_share:.2%} of the multiply-accumulates, fallback: "
        f"{summary.num_fallback}, impossible: {summary.num_impossible}"
    )


def require_possible(verdicts: Sequence[LayerVerdict], target: str) -> None:
    """Refuse a model with layers that the target cannot run at all.

    Raises:
        UnsupportedModelError: there are such layers.
    """
    impossible = [item for item in verdicts if item.verdict == "impossible"]
    if impossible:
        breach = impossible[0].breach
        why = f" ({breach.limit}: {breach.found}, {breach.allowed}; {breach.advice})" if breach else ""
        raise UnsupportedModelError(
            f"{len(impossible)} of {len(verdicts)} layers cannot run on {target}, the first is "
            f"{impossible[0].layer}{why}"
        )
