"""The performance model against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carkp.deploy.check import judge_program
from carkp.deploy.hardware import Efficiency, Hardware, Number, Performance
from carkp.deploy.layer_cost import layer_cost, operator_kind
from carkp.deploy.layer_profile import NodeTime, layer_times, measure_program
from carkp.deploy.perf import INPUT_ROW, OUTPUT_ROW, compare, layer_time, predict, rank_correlation
from carkp.quant.convert import convert
from carkp.quant.program import QConv, QProgram
from tests.deploy.test_check import Diamond
from tests.deploy.test_hardware import hardware
from tests.quant.networks import BPU, GatedNet, SmallNet, calibrated, with_statistics


def number(value: float) -> Number:
    return Number(value=value, assumed=True)


PERFORMANCE = Performance(
    peak_gmacs_per_s=number(100),
    efficiency=Efficiency(pointwise=number(0.5), dense=number(1), depthwise=number(0.1), grouped=number(0.2)),
    input_multiple=number(1),
    output_multiple=number(1),
    requantise_gelements_per_s=number(1e6),
    elementwise_gelements_per_s=number(1),
    memory_gb_per_s=number(1),
    onchip_bytes=number(1e9),
    onchip_gb_per_s=number(1e6),
    layer_overhead_us=number(3),
    depth_to_space_kernels=number(2),
    fallback_gmacs_per_s=number(1),
    fallback_gelements_per_s=number(0.5),
)


def program_of(net) -> QProgram:
    return convert(calibrated(with_statistics(net), BPU), {})


def with_performance(**changes: object) -> Hardware:
    performance = PERFORMANCE.model_copy(update=changes)
    operators = dict.fromkeys(hardware("bpu").operators, hardware("bpu").operators["add"])
    return hardware("bpu").model_copy(update={"performance": performance, "operators": operators})


@pytest.fixture(scope="module")
def small() -> QProgram:
    return program_of(SmallNet())


def first_of(program: QProgram, kind: str):
    return next(layer for layer in program.layers if operator_kind(layer) == kind)


def test_products_and_bytes_of_a_convolution(small: QProgram) -> None:
    cost = layer_cost(small, first_of(small, "depthwise"))
    assert (cost.macs, cost.weight_bytes) == (16 * 9 * 64, 16 * 9 + 4 * 16)
    assert (cost.input_bytes, cost.output_bytes) == (16 * 64, 16 * 64)
    assert cost.intensity == pytest.approx(cost.macs / (cost.weight_bytes + 2 * 16 * 64))


def test_a_layer_takes_the_longer_of_compute_and_memory_and_the_overhead(small: QProgram) -> None:
    layer = first_of(small, "depthwise")
    time = layer_time(small, layer, PERFORMANCE)
    assert time.compute_us == pytest.approx(9216 / 10e3, rel=1e-3)
    assert time.memory_us == pytest.approx(208 / 1e3, rel=1e-2)
    assert time.total_us == pytest.approx(0.9216 + 3, rel=1e-3)
    assert time.bound == "overhead"
    slow = layer_time(small, layer, PERFORMANCE.model_copy(update={"memory_gb_per_s": number(0.01)}))
    assert (slow.bound, slow.total_us) == ("memory", pytest.approx(20.8 + 3, rel=1e-3))
    weak = layer_time(small, layer, PERFORMANCE.model_copy(update={"peak_gmacs_per_s": number(1)}))
    assert (weak.bound, weak.total_us) == ("compute", pytest.approx(92.16 + 3, rel=1e-3))


def test_requantisation_comes_behind_the_products(small: QProgram) -> None:
    layer = first_of(small, "depthwise")
    time = layer_time(small, layer, PERFORMANCE.model_copy(update={"requantise_gelements_per_s": number(0.001)}))
    assert time.compute_us == pytest.approx(0.9216 + 1024, rel=1e-3)


def test_activations_that_do_not_fit_on_the_chip_come_from_the_main_memory(small: QProgram) -> None:
    layer = first_of(small, "depthwise")
    far = layer_time(small, layer, PERFORMANCE.model_copy(update={"onchip_bytes": number(2047)}))
    assert far.memory_us == pytest.approx((208 + 2048) / 1e3)
    near = layer_time(small, layer, PERFORMANCE.model_copy(update={"onchip_gb_per_s": number(0.5)}))
    assert near.memory_us == pytest.approx((208 + 2 * 2048) / 1e3)


def test_dense_channels_are_rounded_up(small: QProgram) -> None:
    layer = small.layers[-1]
    assert isinstance(layer, QConv)
    assert layer.weight.shape[:2] == (4, 12)
    plain = layer_time(small, layer, PERFORMANCE).compute_us
    changes = {"input_multiple": number(16), "output_multiple": number(8)}
    padded = layer_time(small, layer, PERFORMANCE.model_copy(update=changes)).compute_us
    assert padded / plain == pytest.approx(2 * 16 / 12, rel=1e-3)


def test_depth_to_space_takes_as_many_kernels_as_the_target_says(small: QProgram) -> None:
    time = layer_time(small, first_of(small, "depth_to_space"), PERFORMANCE)
    assert (time.overhead_us, time.compute_us) == (6, pytest.approx(2 * 12 * 256 / 1e3))


def test_totals_are_sums_and_the_peak_is_that_of_liveness() -> None:
    program = program_of(Diamond())
    described = with_performance()
    prediction = predict(program, described.performance, judge_program(program, described))
    assert prediction.total_us == pytest.approx(sum(layer.total_us for layer in prediction.layers))
    assert prediction.frames_per_s == pytest.approx(1e6 / prediction.total_us)
    assert prediction.macs == 256 * (12 + 16 + 8)
    assert prediction.weight_bytes == 12 + 16 + 8 + 4 * (4 + 4 + 2)
    assert prediction.peak_activation_bytes == 12 * 256
    assert prediction.peak_layer == next(layer.name for layer in program.layers if operator_kind(layer) == "add")


def test_a_float_interface_adds_its_conversions(small: QProgram) -> None:
    described = with_performance(float_interface=True)
    names = [layer.name for layer in predict(small, described.performance, judge_program(small, described)).layers]
    assert (names[0], names[-1]) == (INPUT_ROW, OUTPUT_ROW)
    assert names[1:-1] == [layer.name for layer in small.layers]


def test_fallbacks_are_timed_as_float_and_impossible_layers_are_refused() -> None:
    program = program_of(GatedNet())
    described = with_performance()
    verdicts = judge_program(program, described)
    with pytest.raises(ValueError, match="impossible layers"):
        predict(program, described.performance, verdicts)
    with pytest.raises(ValueError, match="do not belong to the layers of this program"):
        predict(program, described.performance, verdicts[1:])
    possible = [replace(item, verdict="fallback") if item.verdict == "impossible" else item for item in verdicts]
    layers = predict(program, described.performance, possible).layers
    silu = next(layer for layer in layers if layer.operator.startswith("Silu"))
    assert silu.runs_as == "fallback"
    assert silu.compute_us == pytest.approx(3 * 8 * 256 / 0.5 / 1e3)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=12))
def test_rank_correlation_is_that_of_numpy_on_ranks(values: list[int]) -> None:
    other = list(reversed(values))
    ranks = [
        [np.mean([sorted(row).index(v) + 1, len(row) - sorted(row)[::-1].index(v)]) for v in row]
        for row in (values, other)
    ]
    expected = np.corrcoef(*ranks)[0, 1] if len(set(values)) > 1 else np.nan
    assert rank_correlation(values, other) == pytest.approx(expected, nan_ok=True)


def test_rank_correlation_knows_monotonous_from_reversed() -> None:
    assert rank_correlation([1, 2, 5], [10, 20, 21]) == pytest.approx(1)
    assert rank_correlation([1, 2, 5], [3, 2, 1]) == pytest.approx(-1)
    with pytest.raises(ValueError, match="3 values and 2 values"):
        rank_correlation([1, 2, 3], [1, 2])


def test_nodes_are_added_up_by_layer() -> None:
    nodes = [
        NodeTime("image.q", "QuantizeLinear", 3),
        NodeTime("a/b.q_token_3", "QLinearConv", 5),
        NodeTime("Transpose_token_4", "Transpose", 2.5),
        NodeTime("a/b/c.sum", "QLinearAdd", 1.2),
        NodeTime("heatmaps", "DequantizeLinear", 4),
    ]
    times = layer_times(nodes, ["a", "a/b", "a/b/c"], profiler_us=1.5)
    assert times == pytest.approx({INPUT_ROW: 1.5, "a/b": 4.5, "a/b/c": 0.1, OUTPUT_ROW: 2.5})


def test_measured_times_cover_every_row_of_the_prediction(small: QProgram) -> None:
    described = with_performance(float_interface=True)
    prediction = predict(small, described.performance, judge_program(small, described))
    times = measure_program(small, num_runs=3)
    comparison = compare(prediction, times.layers_us, times.run_us)
    assert comparison.predicted_us == pytest.approx(prediction.total_us)
    assert comparison.total_ratio == pytest.approx(prediction.total_us / times.run_us)
    assert all(layer.measured_us > 0 for layer in comparison.layers)
    with pytest.raises(ValueError, match="differ in"):
        compare(prediction, {"nothing": 1.0}, 1.0)
    with pytest.raises(ValueError, match="num_runs"):
        measure_program(small, num_runs=0)
