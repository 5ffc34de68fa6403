"""Programs with random weights, and images for them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from carkp.quant.program import FloatOp, Layer, QAdd, QConcat, QConv, QDepthToSpace, QProgram, QTensor
from carkp.quant.target import INPUT_SCALE, Dtype, Target

SIZE = (16, 24)
SEED = 3


def target(dtype: Dtype) -> Target:
    return Target(
        name=f"test_{dtype}",
        description="",
        activation_dtype=dtype,
        per_channel_weights=True,
        accumulator_bits=32,
        requantisation="float32",
    )


class Net:
    """Layers of a program in the making, with random weights; tensors are named after the layers that make them."""

    def __init__(self, dtype: Dtype, size: tuple[int, int] = SIZE, channels: int = 3) -> None:
        self.dtype, self.rng = dtype, np.random.default_rng(SEED)
        self.layers: list[Layer] = []
        self.tensors: dict[str, QTensor] = {}
        self.tensor("image", (channels, *size), INPUT_SCALE)

    def tensor(self, name: str, shape: tuple[int, ...], scale: float, is_positive: bool = False) -> str:
        zero_point = 0 if self.dtype == "int8" or is_positive else 128
        self.tensors[name] = QTensor(name, shape, self.dtype, float(np.float32(scale)), zero_point)
        return name

    def clamp(self, is_positive: bool) -> tuple[int, int]:
        return (0, 255) if self.dtype == "uint8" else (0 if is_positive else -128, 127)

    def conv(self, name: str, source: str, channels: int, kernel: int = 3, relu: bool = True, **options: Any) -> str:
        stride, groups = options.get("stride", 1), options.get("groups", 1)
        low, high = (kernel - 1) // 2, kernel // 2
        pads = options.get("pads", (low, low, high, high))
        depth, height, width = self.tensors[source].shape
        shape = (
            channels,
            (height + pads[0] + pads[2] - kernel) // stride + 1,
            (width + pads[1] + pads[3] - kernel) // stride + 1,
        )
        weight = self.rng.integers(-127, 128, (channels, depth // groups, kernel, kernel)).astype(np.int8)
        weight_scale = (self.rng.uniform(0.5, 2, channels) / (73 * np.sqrt(weight[0].size))).astype(np.float32)
        bias = self.rng.integers(-1500, 1500, channels).astype(np.int32)
        self.tensor(name, shape, options.get("scale", 0.02), relu)
        clamp = options.get("clamp", self.clamp(relu))
        self.layers.append(
            QConv(name, (source,), name, weight, weight_scale, bias, (stride,) * 2, pads, (1, 1), groups, clamp)
        )
        return name

    def add(self, name: str, first: str, second: str, relu: bool = False) -> str:
        self.tensor(name, self.tensors[first].shape, self.tensors[first].scale * 1.7, relu)
        self.layers.append(QAdd(name, (first, second), name, self.clamp(relu)))
        return name

    def upsample(self, name: str, source: str, channels: int) -> str:
        """Four 2x2 convolutions, one for a phase, in the order of DCR."""
        scale = 0.03
        phases = []
        for row in (0, 1):
            for column in (0, 1):
                pads = (1 - row, 1 - column, row, column)
                phase = self.conv(f"{name}.phase{row}{column}", source, channels, 2, pads=pads, scale=scale)
                phases.append(phase)
        _, height, width = self.tensors[source].shape
        self.tensor(f"{name}.cat", (4 * channels, height, width), scale, True)
        self.layers.append(QConcat(f"{name}.cat", tuple(phases), f"{name}.cat"))
        self.tensor(name, (channels, 2 * height, 2 * width), scale, True)
        self.layers.append(QDepthToSpace(name, (f"{name}.cat",), name, 2))
        return name

    def float_op(
        self,
        name: str,
        kind: str,
        sources: tuple[str, ...],
        shape: tuple[int, ...],
        attributes: dict[str, Any],
        scale: float = 0.02,
        is_positive: bool = False,
    ) -> str:
        """Attribute ``weights`` of the tests' tables is the operator's weights."""
        plain = {key: value for key, value in attributes.items() if key != "weights"}
        self.tensor(name, shape, scale, is_positive)
        self.layers.append(FloatOp(name, kind, sources, name, plain, attributes.get("weights", {})))
        return name

    def program(self, output: str, **origin: str) -> QProgram:
        return QProgram(target(self.dtype), "image", output, self.tensors, tuple(self.layers), origin)


def pose_net(dtype: Dtype) -> QProgram:
    """Every integer layer once at least."""
    net = Net(dtype)
    stem = net.conv("stem", "image", 16, stride=2, pads=(0, 0, 1, 1))
    deep = net.conv("block.depthwise", stem, 16, groups=16)
    flat = net.conv("block.project", deep, 16, kernel=1, relu=False)
    net.conv("block.shortcut", stem, 16, kernel=1, relu=False)
    total = net.add("block.sum", "block.shortcut", flat)
    again = net.add("block.relu_sum", total, flat, relu=True)
    return net.program(net.conv("final", net.upsample("up", again, 8), 5, relu=False), run="abc", digest="12")


def images(num_images: int, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    values = np.random.default_rng(num_images).integers(0, 256, (num_images, 3, *size))
    return ((values - 128) / 128).astype(np.float32)
