"""Check of an int8 program against a target's hardware: which layers it supports, and why not the others."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from carkp.deploy.float_ops import FLOAT_KINDS
from carkp.deploy.hardware import ASSUMED, Hardware, Number, OperatorLimits, UnsupportedHandling, flat_numbers
from carkp.deploy.layer_cost import layer_cost, live_bytes, operator_kind, tensor_bytes
from carkp.quant.program import FloatOp, Layer, QConv, QProgram

Verdict = Literal["int8", "fallback", "impossible"]

SMOOTH, GATE = "set model.activation=relu or relu6", "choose a backbone without squeeze-and-excitation"

FLOAT_ADVICE: dict[str, str] = {
    **dict.fromkeys(("Silu", "HardSwish", "Gelu", "Elu", "LeakyRelu", "Tanh"), SMOOTH),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "ReduceMean", "GlobalAveragePool", "Mul"), GATE),
    "ConvTranspose": "choose stride, padding and size so that the stride divides the output: it becomes convolutions",
    "BatchNormalization": "put it directly after a convolution, so that it is folded",
    "Resize": "use a transposed convolution",
    **dict.fromkeys(("MaxPool", "AveragePool"), "use a convolution with a stride"),
}
"""Advice on how to change a network, by kind of float operator."""

NOT_LISTED = "not supported"
DEFAULT_ADVICE = "replace it with convolutions, additions, concatenations and ReLU"


@dataclass(frozen=True)
class Breach:
    """A limit that a layer breaks."""

    limit: str
    found: str
    allowed: str
    origin: str
    advice: str


@dataclass(frozen=True)
class LayerVerdict:
    """How a layer runs on the hardware; ``breach`` is the first limit that it breaks, None if it runs in int8."""

    layer: str
    operator: str
    output_shape: tuple[int, ...]
    macs: int
    verdict: Verdict
    breach: Breach | None = None


@dataclass(frozen=True)
class CheckSummary:
    """Counts of layers, and of the limits that they were checked against.

    Attributes:
        num_int8, num_fallback, num_impossible: number of layers by verdict.
        int8_mac_share: share of the multiply-accumulates that run in int8; 1 if there are none.
        num_by_assumption: number of layers that do not run in int8 because of an assumed limit.
        num_limits: number of limits that the target's file gives for operators, tensors and memory.
        num_assumed_limits: number of these limits that are neither published nor measured.
    """

    num_int8: int
    num_fallback: int
    num_impossible: int
    int8_mac_share: float
    num_by_assumption: int
    num_limits: int
    num_assumed_limits: int


def judge_program(program: QProgram, hardware: Hardware) -> list[LayerVerdict]:
    """Return one verdict per layer, in order of execution."""
    alive = live_bytes(program)
    weight_bytes = 0
    verdicts = []
    for layer in program.layers:
        cost = layer_cost(program, layer)
        weight_bytes += cost.weight_bytes
        total = weight_bytes if cost.weight_bytes else 0
        verdict, breach = _judge(program, layer, hardware, total, alive[layer.name])
        shape = program.tensors[layer.output].shape
        verdicts.append(LayerVerdict(layer.name, operator_name(layer), shape, cost.macs, verdict, breach))
    return verdicts


def summarise(verdicts: Sequence[LayerVerdict], hardware: Hardware) -> CheckSummary:
    """Return counts of ``verdicts``, which must be those for ``hardware``."""
    limits = hardware_limits(hardware)
    counts = Counter(item.verdict for item in verdicts)
    macs = sum(item.macs for item in verdicts)
    in_int8 = sum(item.macs for item in verdicts if item.verdict == "int8")
    return CheckSummary(
        counts["int8"],
        counts["fallback"],
        counts["impossible"],
        int8_mac_share=in_int8 / macs if macs else 1.0,
        num_by_assumption=sum(item.breach is not None and item.breach.origin == ASSUMED for item in verdicts),
        num_limits=len(limits),
        num_assumed_limits=sum(number.assumed for number in limits),
    )


def hardware_limits(hardware: Hardware) -> list[Number]:
    """Return the numbers that limit what the hardware supports, without those that describe its speed."""
    numbers = flat_numbers(hardware)
    return [number for name, number in numbers.items() if not name.startswith("performance.")]


def operator_name(layer: Layer) -> str:
    """Return a readable name of a layer's kind: ``depthwise 3x3/2``, ``add``, ``Silu (float)``."""
    if isinstance(layer, FloatOp):
        return f"{layer.kind} (float)"
    kind = str(operator_kind(layer))
    if not isinstance(layer, QConv):
        return kind
    size = "x".join(map(str, layer.weight.shape[2:]))
    stride = f"/{max(layer.stride)}" if max(layer.stride) > 1 else ""
    return f"{kind} {size}{stride}"


def _judge(
    program: QProgram, layer: Layer, hardware: Hardware, weight_bytes: int, alive: int
) -> tuple[Verdict, Breach | None]:
    for breach in _memory_breaches(hardware, weight_bytes, alive):
        return "impossible", breach
    if isinstance(layer, FloatOp):
        return _judge_float(layer, hardware)
    for breach in _breaches(program, layer, hardware):
        return hardware.unsupported, breach
    return "int8", None


def _judge_float(layer: FloatOp, hardware: Hardware) -> tuple[Verdict, Breach]:
    advice = FLOAT_ADVICE.get(layer.kind, DEFAULT_ADVICE)
    if layer.kind not in FLOAT_KINDS:
        return "impossible", Breach("ONNX operators", layer.kind, "a float operator of ONNX", "carkp", advice)
    where: UnsupportedHandling = hardware.float_operators.get(layer.kind, hardware.unsupported)
    return where, Breach("int8 operators", layer.kind, NOT_LISTED, hardware.device, advice)


def _memory_breaches(hardware: Hardware, weight_bytes: int, alive: int) -> Iterator[Breach]:
    limits = hardware.memory
    fewer = "fewer channels or layers (model.backbone, model.head_channels)"
    yield from _excess("weights so far (bytes)", weight_bytes, limits.weight_bytes, fewer)
    smaller = "a smaller model.input_size, or fewer channels in this layer"
    yield from _excess("activations alive (bytes)", alive, limits.activation_bytes, smaller)


def _breaches(program: QProgram, layer: Layer, hardware: Hardware) -> Iterator[Breach]:
    kind = operator_kind(layer)
    assert kind is not None
    limits = hardware.operators.get(kind)
    if limits is None:
        yield Breach("int8 operators", kind, NOT_LISTED, hardware.device, DEFAULT_ADVICE)
        return
    yield from _operator_breaches(program, layer, limits)
    yield from _tensor_breaches(program, layer, hardware)


def _operator_breaches(program: QProgram, layer: Layer, limits: OperatorLimits) -> Iterator[Breach]:
    if isinstance(layer, QConv):
        kernel, kind = max(layer.weight.shape[2:]), operator_kind(layer)
        smaller = f"kernels of at most {_text(limits.max_kernel)}, several in sequence if you need the receptive field"
        yield from _excess(f"{kind} kernel", kernel, limits.max_kernel, smaller)
        yield from _excess(f"{kind} stride", max(layer.stride), limits.max_stride, "two layers with smaller strides")
        yield from _excess(f"{kind} dilation", max(layer.dilation), limits.max_dilation, "more layers, less dilation")
    names = [*layer.inputs, layer.output]
    for channels in (program.tensors[name].shape[0] for name in names):
        multiple = limits.channel_multiple
        if multiple is not None and channels % int(multiple.value):
            allowed = f"multiples of {_text(multiple)}"
            advice = f"make it {-(-channels // int(multiple.value)) * int(multiple.value)} channels"
            yield Breach("channel alignment", str(channels), allowed, multiple.origin, advice)


def _tensor_breaches(program: QProgram, layer: Layer, hardware: Hardware) -> Iterator[Breach]:
    limits = hardware.tensors
    for name in (*layer.inputs, layer.output):
        tensor = program.tensors[name]
        if tensor.is_wide and hardware.performance.wide_products is None:
            yield Breach("activation bits", "16", "8", hardware.device, f"calibrate without {name} in quant.int16")
        lengths = dict(zip(("channels", "height", "width"), tensor.shape, strict=False))
        allowed = {"channels": limits.max_channels, "height": limits.max_height, "width": limits.max_width}
        for what, length in lengths.items():
            yield from _excess(f"tensor {what}", length, allowed[what], f"less {what} in {name}")
        yield from _excess("tensor bytes", tensor_bytes(tensor), limits.max_bytes, f"a smaller tensor than {name}")


def _excess(limit: str, found: int, allowed: Number | None, advice: str) -> Iterator[Breach]:
    if allowed is not None and found > allowed.value:
        yield Breach(limit, f"{found:,}", f"at most {_text(allowed)}", allowed.origin, advice)


def _text(number: Number | None) -> str:
    return "any" if number is None else f"{number.value:,.0f}"
