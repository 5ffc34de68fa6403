"""What a piece of hardware takes and how fast it is: the part of a target that is no arithmetic.

Every number says where it is from: a public document, a measurement, or that it is assumed. A limit that is left out
is none.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from carkp.quant.target import Target

OperatorKind = Literal["pointwise", "dense", "depthwise", "grouped", "add", "concat", "depth_to_space"]
"""``pointwise``: a dense convolution of 1x1, stride 1. ``dense``: any other of one group."""

UnsupportedHandling = Literal["fallback", "impossible"]
"""What becomes of a layer that the int8 hardware does not take: a CPU beside it runs it, or nothing does."""

ASSUMED = "assumed"

CONV_KINDS: tuple[OperatorKind, ...] = ("pointwise", "dense", "depthwise", "grouped")


class Number(BaseModel):
    """A number and its ``source``, a public document or ``measured: <command>``; or ``assumed``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    source: str = ""
    assumed: bool = False

    @model_validator(mode="after")
    def _has_one_origin(self) -> "Number":
        if bool(self.source) == self.assumed:
            raise ValueError("give `source: <document, or measured: command>`, or `assumed: true`, and not both")
        return self

    @property
    def origin(self) -> str:
        """Where it is from, for a person."""
        return self.source or ASSUMED


class OperatorLimits(BaseModel):
    """Of an operator that runs in int8; kernel, stride and dilation are those of a convolution."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_kernel: Number | None = None
    max_stride: Number | None = None
    max_dilation: Number | None = None
    channel_multiple: Number | None = None


class TensorLimits(BaseModel):
    """Of every tensor of an int8 layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_channels: Number | None = None
    max_height: Number | None = None
    max_width: Number | None = None
    max_bytes: Number | None = None


class MemoryLimits(BaseModel):
    """Of a whole program: more is impossible, whatever runs it.

    ``weight_bytes``: of all weights and biases. ``activation_bytes``: of all tensors alive at one time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_bytes: Number | None = None
    activation_bytes: Number | None = None


class Efficiency(BaseModel):
    """Share of the peak that a kind of convolution reaches, beside what its output costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pointwise: Number
    dense: Number
    depthwise: Number
    grouped: Number


class Performance(BaseModel):
    """One image at a time, nothing in parallel.

    Attributes:
        peak_gmacs_per_s: int8 multiply-accumulates; a TOPS is 500 of them.
        efficiency: share of the peak by kind of convolution.
        wide_products: int8 products that one of a 16-bit activation takes; None: such activations are not taken.
        input_multiple, output_multiple: channels of dense convolutions are rounded up to them.
        requantise_gelements_per_s: outputs of convolutions; behind the products, not beside them.
        elementwise_gelements_per_s: outputs of additions, copies and conversions.
        memory_gb_per_s: to and from the memory that holds the weights.
        onchip_bytes: activations of a layer, inputs and output, that fit in here do not go through that memory.
        onchip_gb_per_s: of the memory on the chip.
        layer_overhead_us: of starting a kernel.
        depth_to_space_kernels: how many kernels a depth-to-space takes, each a pass over the tensor.
        float_interface: the image is float, is quantised by a kernel, and the heatmaps are dequantised.
        fallback_gmacs_per_s, fallback_gelements_per_s: of the CPU that runs what falls back, in float.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    peak_gmacs_per_s: Number
    efficiency: Efficiency
    wide_products: Number | None = None
    input_multiple: Number
    output_multiple: Number
    requantise_gelements_per_s: Number
    elementwise_gelements_per_s: Number
    memory_gb_per_s: Number
    onchip_bytes: Number
    onchip_gb_per_s: Number
    layer_overhead_us: Number
    depth_to_space_kernels: Number
    float_interface: bool = False
    fallback_gmacs_per_s: Number
    fallback_gelements_per_s: Number


class Hardware(BaseModel):
    """Operators with their limits, and speeds.

    Attributes:
        device: what the numbers are of.
        operators: those that run in int8.
        unsupported: what becomes of all other layers, and of those that break a limit.
        float_operators: the same for kinds of float operators that differ from ``unsupported``.
        tensors, memory: limits.
        performance: speeds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    operators: dict[OperatorKind, OperatorLimits]
    unsupported: UnsupportedHandling
    float_operators: dict[str, UnsupportedHandling] = {}
    tensors: TensorLimits = TensorLimits()
    memory: MemoryLimits = MemoryLimits()
    performance: Performance


class TargetFile(Target):
    """A file of configs/targets: the arithmetic, and the hardware where it is described.

    It extends :class:`Target` so that the arithmetic stays at the top of the file and mistakes are named as they stand
    there; only ``arithmetic`` is handed on, for programs are compared by it.
    """

    hardware: Hardware | None = None

    @property
    def arithmetic(self) -> Target:
        return Target(**{name: getattr(self, name) for name in Target.model_fields})


def flat_numbers(section: BaseModel, prefix: str = "") -> dict[str, Number]:
    """Every number of a description by its dotted name, in order."""
    found: dict[str, Number] = {}
    for name in type(section).model_fields:
        found |= _numbers_of(getattr(section, name), f"{prefix}{name}")
    return found


def _numbers_of(value: object, name: str) -> dict[str, Number]:
    match value:
        case Number():
            return {name: value}
        case BaseModel():
            return flat_numbers(value, f"{name}.")
        case dict():
            return {
                key: number
                for part, item in value.items()
                for key, number in _numbers_of(item, f"{name}.{part}").items()
            }
    return {}
