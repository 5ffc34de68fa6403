"""Deliberately unsupported networks get the right verdicts, with the limit that they break."""

import torch
from torch import Tensor, nn

from carkp.deploy.check import LayerVerdict, judge_program, summarise
from carkp.deploy.hardware import Hardware, MemoryLimits, Number, OperatorLimits, TensorLimits
from carkp.deploy.layer_cost import live_bytes
from carkp.quant.convert import convert
from carkp.quant.program import QProgram
from tests.deploy.test_hardware import hardware
from tests.quant.networks import BPU, GatedNet, SmallNet, calibrated, conv_norm, with_statistics

BASE = hardware("cortex_m_class").model_copy(update={"memory": MemoryLimits()})


def limit(value: float) -> Number:
    return Number(value=value, assumed=True)


def program_of(net: nn.Module) -> QProgram:
    torch.manual_seed(0)
    return convert(calibrated(with_statistics(net), BPU), {})


def judge(net: nn.Module, **changes: object) -> dict[str, LayerVerdict]:
    described: Hardware = BASE.model_copy(update=changes)
    return {item.layer: item for item in judge_program(program_of(net), described)}


class WideDepthwise(nn.Sequential):
    """A 7x7 depthwise convolution between others."""

    def __init__(self) -> None:
        super().__init__(
            *conv_norm(3, 8, 3, nn.ReLU(), padding=1),
            *conv_norm(8, 8, 7, nn.ReLU(), padding=3, groups=8),
            nn.Conv2d(8, 4, 1),
        )


class Grouped(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2))


def test_a_network_of_plain_layers_fits() -> None:
    verdicts = judge(SmallNet())
    assert {item.verdict for item in verdicts.values()} == {"int8"}
    assert {item.breach for item in verdicts.values()} == {None}
    summary = summarise(list(verdicts.values()), BASE)
    assert (summary.num_int8, summary.num_fallback, summary.num_impossible) == (len(verdicts), 0, 0)
    assert summary.int8_mac_share == 1


def test_gates_and_smooth_activations_fall_back_and_unknown_operators_are_impossible() -> None:
    verdicts = judge(GatedNet())
    by_operator = {item.operator: item for item in verdicts.values()}
    for operator, word in (("Silu (float)", "relu"), ("Sigmoid (float)", "squeeze"), ("Mul (float)", "squeeze")):
        item = by_operator[operator]
        assert item.verdict == "fallback"
        assert item.breach is not None
        assert item.breach.limit == "int8 operators"
        assert word in item.breach.advice
    unknown = by_operator["torch.cumsum (float)"]
    assert unknown.verdict == "impossible"
    assert unknown.breach is not None
    assert unknown.breach.limit == "ONNX operators"
    assert by_operator["dense 3x3"].verdict == "int8"
    summary = summarise(list(verdicts.values()), BASE)
    assert summary.num_fallback >= 3
    assert summary.num_impossible >= 1
    assert summary.int8_mac_share == 1  # the float operators here have no weights


def test_float_operators_are_impossible_where_there_is_no_cpu_but_for_those_that_are_named() -> None:
    verdicts = judge(GatedNet(), unsupported="impossible", float_operators={"Silu": "fallback"})
    by_operator = {item.operator: item.verdict for item in verdicts.values()}
    assert by_operator["Silu (float)"] == "fallback"
    assert by_operator["Sigmoid (float)"] == "impossible"


def test_a_7x7_depthwise_breaks_a_limit_of_5() -> None:
    operators = {**BASE.operators, "depthwise": OperatorLimits(max_kernel=limit(5))}
    verdicts = judge(WideDepthwise(), operators=operators)
    (item,) = [item for item in verdicts.values() if item.verdict != "int8"]
    assert item.operator == "depthwise 7x7"
    assert item.verdict == "fallback"
    assert item.breach is not None
    assert (item.breach.limit, item.breach.found, item.breach.allowed) == ("depthwise kernel", "7", "at most 5")
    assert "at most 5" in item.breach.advice
    assert item.breach.origin == "assumed"
    summary = summarise(list(verdicts.values()), BASE)
    assert 0 < summary.int8_mac_share < 1
    wider = {**BASE.operators, "depthwise": OperatorLimits(max_kernel=limit(7))}
    assert {item.verdict for item in judge(WideDepthwise(), operators=wider).values()} == {"int8"}


def test_an_operator_that_is_not_listed_is_not_supported() -> None:
    verdicts = judge(Grouped())  # this target lists no grouped convolutions
    (item,) = [item for item in verdicts.values() if item.verdict != "int8"]
    assert item.breach is not None
    assert item.breach.found == "grouped"


def broken(net: nn.Module, **changes: object) -> set[str]:
    return {item.breach.limit for item in judge(net, **changes).values() if item.breach is not None}


def test_strides_dilations_and_alignment_are_limits() -> None:
    dense = {**BASE.operators, "dense": OperatorLimits(max_stride=limit(1))}
    assert broken(SmallNet(), operators=dense) == {"dense stride"}
    grouped = {**BASE.operators, "grouped": OperatorLimits(max_dilation=limit(1))}
    assert broken(Grouped(), operators=grouped) == {"grouped dilation"}
    aligned = {**BASE.operators, "pointwise": OperatorLimits(channel_multiple=limit(16))}
    verdicts = judge(SmallNet(), operators=aligned)
    (first, *_) = [item for item in verdicts.values() if item.breach is not None]
    assert first.breach is not None
    assert (first.breach.limit, first.breach.found) == ("channel alignment", "8")
    assert "16 channels" in first.breach.advice


def test_tensors_have_limits() -> None:
    assert broken(SmallNet(), tensors=TensorLimits(max_channels=limit(16))) == {"tensor channels"}
    assert broken(SmallNet(), tensors=TensorLimits(max_height=limit(15))) == {"tensor height"}
    assert broken(SmallNet(), tensors=TensorLimits(max_width=limit(15))) == {"tensor width"}
    assert broken(SmallNet(), tensors=TensorLimits(max_bytes=limit(3071))) == {"tensor bytes"}


def test_what_does_not_fit_into_memory_is_impossible() -> None:
    program = program_of(SmallNet())
    peak = max(live_bytes(program).values())
    for allowed, verdict in ((peak, "int8"), (peak - 1, "impossible")):
        memory = MemoryLimits(activation_bytes=limit(allowed))
        found = {item.verdict for item in judge_program(program, BASE.model_copy(update={"memory": memory}))}
        assert verdict in found
    memory = MemoryLimits(weight_bytes=limit(500))
    verdicts = judge_program(program, BASE.model_copy(update={"memory": memory}))
    assert verdicts[0].verdict == "int8"
    assert verdicts[-1].verdict == "impossible"
    assert "concat" not in {item.operator for item in verdicts if item.verdict == "impossible"}


class Diamond(nn.Module):
    """Two branches that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        return self.last(x + self.side(x))


def test_liveness_counts_what_is_still_to_be_read() -> None:
    pixels = 16 * 16
    alive = list(live_bytes(program_of(Diamond())).values())
    # image + stem; stem + side; stem + side + sum; sum + last
    assert alive == [7 * pixels, 8 * pixels, 12 * pixels, 6 * pixels]
