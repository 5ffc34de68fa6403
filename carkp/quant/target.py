"""The integer arithmetic of the hardware that a network is quantised for."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ActivationDtype = Literal["int8", "uint8"]
Dtype = Literal["int8", "uint8", "int16"]
Requantisation = Literal["float32", "fixed_point", "tflite_reference", "tflite_optimised", "xnnpack"]

RANGES: dict[Dtype, tuple[int, int]] = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
"""Smallest and largest quantised value of an activation."""

WIDE: Dtype = "int16"
"""Dtype of tensors that need more than 8 bits: symmetric, zero point 0. Weights always have 8 bits."""

MAX_WEIGHT = 127
"""Weights are symmetric int8 without -128: -127..127."""

INPUT_SCALE = 1 / 128
"""Scale of the normalised image (v - 128) / 128: the quantised input is the YUV byte minus 128."""


class Target(BaseModel):
    """The arithmetic of a target.

    ``activation_dtype``: ``int8`` is signed and symmetric for all tensors, with zero point 0. ``uint8`` uses all 256
    levels for tensors that cannot be negative (zero point 0), and is symmetric about zero point 128 for the others.

    ``requantisation``, int32 accumulator -> 8 bits: ``float32`` multiplies in float32 and rounds half to even, as ONNX
    Runtime does. ``fixed_point`` multiplies by a 31-bit integer and shifts right with rounding, as NPUs do.
    ``tflite_reference`` does what LiteRT's reference kernels and tflite-micro do, ``tflite_optimised`` what LiteRT's
    own fast kernels do, ``xnnpack`` what LiteRT's CPU delegate XNNPACK does. ``xnnpack`` equals ``float32``, except for
    sums of two tensors.

    Only ``fixed_point`` has tensors of 16 bits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    description: str
    activation_dtype: ActivationDtype
    per_channel_weights: bool
    accumulator_bits: Annotated[int, Field(ge=16, le=32)]
    requantisation: Requantisation
