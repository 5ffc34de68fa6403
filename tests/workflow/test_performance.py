"""The performance page claims what was predicted and measured, and nothing else."""

from pathlib import Path

from carkp.deploy.check import LayerVerdict
from carkp.deploy.hardware import Hardware, Number
from carkp.deploy.latency import Ratio
from carkp.deploy.layer_cost import LayerCost
from carkp.deploy.perf import Comparison, LayerComparison, LayerTime, Prediction
from carkp.workflow.performance import (
    CompileInputs,
    CompileResult,
    HostLatency,
    assumption_note,
    comparison_reading,
    facts,
    roofline_reading,
)
from tests.deploy.test_hardware import hardware

LATENCY = HostLatency(4.0, 2.0, Ratio(2.0, 1.9, 2.1))


def layer(name: str, macs: int, compute_us: float, memory_us: float, overhead_us: float) -> LayerTime:
    return LayerTime(name, "dense 3x3", "int8", LayerCost(macs, 10, 10, 10), compute_us, memory_us, overhead_us)


PREDICTION = Prediction(
    [layer("a", 9, 5, 1, 1), layer("b", 9, 6, 1, 1), layer("c", 9, 1, 7, 1), layer("d", 0, 1, 1, 9)], 100, "a", 40
)


def sourced(described: Hardware) -> Hardware:
    """The same with a source for every number."""
    known = Number(value=1, source="a data sheet")
    performance = described.performance
    efficiency = performance.efficiency
    numbers = {name: known for name, value in performance if isinstance(value, Number)}
    kinds = efficiency.model_copy(update={name: known for name, _ in efficiency})
    return described.model_copy(update={"performance": performance.model_copy(update={**numbers, "efficiency": kinds})})


def facts_of(comparison: Comparison | None, latency: HostLatency | None) -> dict[str, str]:
    inputs = CompileInputs(None, None, None, hardware("bpu"))  # type: ignore[arg-type]
    verdicts = [LayerVerdict("a", "dense 3x3", (1, 1, 1), 9, "int8")]
    return dict(facts(inputs, CompileResult(Path("x.onnx"), verdicts, PREDICTION, comparison, latency)))


def test_nothing_was_measured_with_anything_where_nothing_was_measured() -> None:
    assert {"measured with", "int8 instructions"}.isdisjoint(facts_of(None, None))
    assert "measured with" in facts_of(None, LATENCY)
    assert "measured with" in facts_of(Comparison([LayerComparison("a", "dense", 6.0, 3.0)], 3.0), None)


def test_what_the_target_takes_is_said_with_its_assumptions() -> None:
    assert facts_of(None, None)["layers that the target takes"] == "fits, by assumed limits (12 of 12 are assumed)"


def test_assumed_speeds_are_counted() -> None:
    """bpu's file: 12 limits and 16 speeds are assumed, one speed has a source."""
    assert assumption_note(hardware("bpu")).startswith("28 of the 29 numbers of the hardware are assumed")
    known = sourced(hardware("onnxruntime_cpu"))
    assert assumption_note(known) == "All 16 numbers of the hardware have a source."


def test_charts_are_read_by_their_layers() -> None:
    assert roofline_reading(PREDICTION).endswith("most of the predicted time is limited by: 2 by "
                                                 "compute, 1 by memory.")  # fmt: skip
    rows = [LayerComparison(name, "dense", 6.0, measured) for name, measured in (("a", 5.0), ("b", 2.0), ("c", 20.0))]
    assert "1 of 3 are within a factor 1.5" in comparison_reading(Comparison(rows, 10.0))
