"""What a target's hardware supports and how fast it is: the part of a target other than its arithmetic.

Every number states its source: a public document or a measurement, or that it is assumed. A missing limit means that
there is no limit.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from carkp.quant.target import Target

OperatorKind = Literal["pointwise", "dense", "depthwise", "grouped", "add", "concat", "depth_to_space"]
"""``pointwise``: a dense 1x1 convolution with stride 1. ``dense``: any other convolution with one group."""

UnsupportedHandling = Literal["fallback", "impossible"]
"""How to handle a layer that the int8 hardware does not support: a CPU beside it runs the layer, or nothing can."""

ASSUMED = "assumed"

CONV_KINDS: tuple[OperatorKind, ...] = ("pointwise", "dense", "depthwise", "grouped")


class Number(BaseModel):
    """A number with its ``source``, a public document or ``measured: <command>``, or marked as ``assumed``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    source: str = ""
    assumed: bool = False

    @model_validator(mode="after")
    def _has_one_origin(self) -> "Number":
        if bool(self.source) == self.assumed:
            raise ValueError("give `source: <document, or measured: command>` or `assumed: true`, not both")
        return self

    @property
    def origin(self) -> str:
        """Source of the number, as readable text."""
        return self.source or ASSUMED


class OperatorLimits(BaseModel):
    """Limits of an operator that runs in int8; kernel, stride and dilation apply to convolutions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_kernel: Number | None = None
    max_stride: Number | None = None
    max_dilation: Number | None = None
    channel_multiple: Number | None = None


class TensorLimits(BaseModel):
    """Limits of every tensor of an int8 layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_channels: Number | None = None
    max_height: Number | None = None
    max_width: Number | None = None
    max_bytes: Number | None = None


class MemoryLimits(BaseModel):
    """Limits of a whole program: a program that exceeds them is impossible, even with a fallback.

    ``weight_bytes``: size of all weights and biases. ``activation_bytes``: size of all tensors alive at one time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_bytes: Number | None = None
    activation_bytes: Number | None = None


class Efficiency(BaseModel):
    """Share of the peak that each kind of convolution reaches, without the time for its output elements."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pointwise: Number
    dense: Number
    depthwise: Number
    grouped: Number


class Performance(BaseModel):
    """Speeds for one image at a time, with nothing in parallel.

    Attributes:
        peak_gmacs_per_s: peak rate of int8 multiply-accumulates; one TOPS is 500 GMAC/s.
        efficiency: share of the peak by kind of convolution.
        wide_products: number of int8 products for one product with a 16-bit activation; None means that 16-bit
            activations are not supported.
        input_multiple, output_multiple: multiples to which the channels of dense convolutions are rounded up.
        requantise_gelements_per_s: rate of output elements of convolutions; they come after the products, not in
            parallel.
        elementwise_gelements_per_s: rate of output elements of additions, copies and conversions.
        memory_gb_per_s: bandwidth of the memory that holds the weights.
        onchip_bytes: size of the on-chip memory; activations of a layer, inputs and output, that fit in it do not use
            the other memory.
        onchip_gb_per_s: bandwidth of the on-chip memory.
        layer_overhead_us: time to start a kernel.
        depth_to_space_kernels: number of kernels of a depth-to-space, each with one pass over the tensor.
        float_interface: whether the image is float, with kernels that quantise it and dequantise the heatmaps.
        fallback_gmacs_per_s, fallback_gelements_per_s: rates of the CPU that runs fallback layers in float.
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
    """The operators of a device with their limits, and its speeds.

    Attributes:
        device: name of the device that the numbers describe.
        operators: operators that run in int8, with their limits.
        unsupported: handling of all other layers, and of layers that break a limit.
        float_operators: handling of kinds of float operators that differs from ``unsupported``.
        tensors, memory: limits of tensors and of memory.
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
    """A file of configs/targets: the arithmetic and, if described, the hardware.

    It extends :class:`Target`, so that the arithmetic is at the top level of the file and error messages use the names
    in the file. Only ``arithmetic`` is passed on, because programs are compared by it.
    """

    hardware: Hardware | None = None

    @property
    def arithmetic(self) -> Target:
        return Target(**{name: getattr(self, name) for name in Target.model_fields})


def flat_numbers(section: BaseModel, prefix: str = "") -> dict[str, Number]:
    """Return every number of a description by its dotted name, in order."""
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
