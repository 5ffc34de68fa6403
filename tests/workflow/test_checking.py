"""The verdict of `check` says how far it rests on assumptions."""

import pytest

from carkp.deploy.check import CheckSummary, hardware_limits
from carkp.workflow.checking import describe_verdict
from tests.deploy.test_hardware import hardware


def summary(**changes: int) -> CheckSummary:
    counts = {"num_int8": 9, "num_fallback": 0, "num_impossible": 0, "num_by_assumption": 0, "num_limits": 0,
              "num_assumed_limits": 0}  # fmt: skip
    return CheckSummary(int8_mac_share=1.0, **{**counts, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_limits": 12, "num_assumed_limits": 12}, "fits, by assumed limits (12 of 12 are assumed)"),
        ({"num_limits": 12, "num_assumed_limits": 1}, "fits, by assumed limits (1 of 12 are assumed)"),
        ({"num_limits": 12}, "fits"),
        ({}, "fits: the target's file gives no limits"),
        ({"num_fallback": 3, "num_by_assumption": 2}, "3 layers fall back (2 of them by assumed limits)"),
        ({"num_fallback": 3, "num_impossible": 1}, "3 layers fall back, 1 layers are impossible"),
    ],
)
def test_the_verdict_names_what_it_rests_on(changes: dict[str, int], words: str) -> None:
    assert describe_verdict(summary(**changes)) == words


@pytest.mark.parametrize(
    ("target", "num", "num_assumed"),
    [("bpu", 12, 12), ("onnxruntime_cpu", 0, 0), ("cortex_m_class", 2, 2), ("jetson_orin_nano_int8", 0, 0)],
)
def test_limits_are_counted_without_speeds(target: str, num: int, num_assumed: int) -> None:
    """Counted by hand in configs/targets."""
    limits = hardware_limits(hardware(target))
    assert (len(limits), sum(limit.assumed for limit in limits)) == (num, num_assumed)
