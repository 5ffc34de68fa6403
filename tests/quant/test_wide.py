"""Tensors of 16 bits: fake quantisation, program and simulator."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from carkp.quant.convert import convert
from carkp.quant.fake_quant import MAX_BIAS
from carkp.quant.program import ProgramError, QAdd, QConv, QProgram, QTensor, check_program
from carkp.quant.simulate import Simulator, UnsupportedLayerError
from carkp.quant.sqnr import decibels
from carkp.quant.target import RANGES, Dtype
from tests.quant import reference
from tests.quant.networks import BPU, CPU, SmallNet, calibrated, images, with_statistics

NET = with_statistics(SmallNet())
GROUPS = tuple(calibrated(NET, BPU).num_levels)
SETS: Sequence[tuple[str, ...]] = [*((name,) for name in GROUPS), GROUPS, GROUPS[::2], GROUPS[1::2]]


def mixed_program(wide: Sequence[str]) -> QProgram:
    return convert(calibrated(NET, BPU, 100, wide), {})


@pytest.mark.parametrize("wide", SETS, ids="+".join)
def test_every_tensor_equals_the_reference(wide: tuple[str, ...]) -> None:
    program = mixed_program(wide)
    assert set(program.wide_tensors) >= set(wide)
    simulator, seen = Simulator(program), {}
    simulator.run(images(2), on_tensor=seen.__setitem__)
    expected = reference.run_program(program, seen[program.input].numpy(), "fixed_point")
    for name, q in seen.items():
        assert q.dtype == getattr(torch, program.tensors[name].dtype)
        assert np.array_equal(q.numpy(), expected[name]), name
    assert max(np.abs(expected[name]).max() for name in program.wide_tensors) > 20_000


def wide_tensor(name: str, shape: tuple[int, ...], scale: float, dtype: Dtype = "int16") -> QTensor:
    return QTensor(name, shape, dtype, float(np.float32(scale)), 0)


@pytest.mark.parametrize("groups", [1, 8])
def test_sums_of_the_full_range_are_exact(groups: int) -> None:
    """Sums close to 2^31, far beyond what float32 holds; half of the outputs are ties."""
    rng = np.random.default_rng(0)
    source, result = wide_tensor("x", (8, 6, 6), 1), wide_tensor("y", (8, 4, 4), 2.0**15)
    weight = rng.choice(np.array([-127, 127, 64, -64], np.int8), (8, 8 // groups, 3, 3))
    bias = rng.integers(-(2**20), 2**20, 8).astype(np.int32) * 2**8
    conv = QConv(
        "y", ("x",), "y", weight, np.ones(8, np.float32), bias, (1, 1), (0, 0, 0, 0), (1, 1), groups, RANGES["int16"]
    )
    q = rng.choice(np.array([-32768, 32767, -16384, 255], np.int16), (3, 8, 6, 6))
    program = QProgram(
        BPU,
        "image",
        "y",
        {"image": wide_tensor("image", (8, 6, 6), 1, "int8"), "x": source, "y": result},
        (identity(8), conv),
    )
    found = Simulator(program).run_layer(conv, [torch.from_numpy(q)])
    expected = reference.run_layer(program, conv, [q], "fixed_point")
    assert np.abs(reference.accumulate(conv, q.astype(np.int64), 0)).max() > 2**27
    assert np.array_equal(found.numpy(), expected)


def identity(num_channels: int) -> QConv:
    """From the image to ``x``."""
    weight = np.eye(num_channels, dtype=np.int8)[:, :, None, None]
    ones, zeros = np.ones(num_channels, np.float32), np.zeros(num_channels, np.int32)
    return QConv("x", ("image",), "x", weight, ones, zeros, (1, 1), (0, 0, 0, 0), (1, 1), 1, RANGES["int16"])


@pytest.mark.parametrize(
    "dtypes", [item for item in product(("int8", "int16"), repeat=3) if "int16" in item], ids="-".join
)
def test_additions_of_every_mixture_equal_the_reference(dtypes: tuple[Dtype, Dtype, Dtype]) -> None:
    rng = np.random.default_rng(1)
    scales = {"int8": 0.05, "int16": 0.0003}
    a, b, out = (
        wide_tensor(name, (4, 5, 5), scales[dtype] * 1.37, dtype) for name, dtype in zip("abo", dtypes, strict=True)
    )
    layer = QAdd("o", ("a", "b"), "o", (-90, 100) if dtypes[2] == "int8" else (0, 30_000))
    image = wide_tensor("image", (4, 5, 5), 0.05, "int8")
    copies = tuple(replace(identity(4), name=tensor.name, output=tensor.name, clamp=tensor.range) for tensor in (a, b))
    program = QProgram(BPU, "image", "o", {item.name: item for item in (image, a, b, out)}, (*copies, layer))
    inputs = [rng.integers(t.range[0], t.range[1] + 1, (2, 4, 5, 5)).astype(t.dtype) for t in (a, b)]
    found = Simulator(program).run_layer(layer, [torch.from_numpy(q) for q in inputs])
    expected = reference.run_layer(program, layer, inputs, "fixed_point")
    assert np.array_equal(found.numpy(), expected)
    assert np.ptp(expected) > 100


def test_more_bits_leave_less_noise() -> None:
    """Of the activations: 16 bits everywhere leave what the weights lose."""
    batch = images(8, seed=2)  # those of the calibration: nothing is clipped
    ratios = []
    for wide in ((), GROUPS[:4], GROUPS):
        net = calibrated(NET, BPU, 100, wide)
        with torch.no_grad():
            for step in net.graph.steps:  # weights exactly on their grid
                layer = net.graph.layers[step.name]
                if step.name in net.weights:
                    layer.weight.data = net.quantised_weights(step, layer)[0]
            exact, rounded = net.graph(batch), net(batch)
        ratios.append(decibels(float(exact.square().sum()), float((rounded - exact).square().sum())))
    assert ratios[0] < ratios[1] < ratios[2]
    assert ratios[2] > 60


def test_a_bias_behind_16_bits_keeps_the_weights_fine() -> None:
    """The unit of a bias is 258 times as small: the limit that holds with 8 bits would make the weights coarse."""
    program = mixed_program(("down/0",))
    (conv,) = [layer for layer in program.layers if layer.inputs == ("down/0",)]
    assert isinstance(conv, QConv)
    assert np.abs(conv.weight).max(axis=(1, 2, 3)).min() == 127
    large = calibrated(NET, BPU, 100, ("down/0",))
    layer = large.graph.layers["down/3"]
    layer.bias.data.fill_(
        3.0 * 2**24 * float(large.quantiser("down/0").scale) * float(layer.weight.data.abs().max()) / 127
    )
    (conv,) = [layer for layer in convert(large, {}).layers if layer.name == "down/3"]
    assert isinstance(conv, QConv)
    assert np.abs(conv.bias).max() > MAX_BIAS
    assert np.abs(conv.weight).max() == 127


def test_tensors_that_share_a_scale_are_widened_together() -> None:
    program = mixed_program(("up/0/phase_10",))
    names = [name for name in program.tensors if name.startswith("up/0/")]
    assert len(names) == 6
    assert program.wide_tensors == names


@pytest.mark.parametrize(("wide", "text"), [(("nowhere",), "no such tensors"), (("image",), "has 8 bits")])
def test_what_cannot_be_widened_is_refused(wide: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        calibrated(NET, BPU, 100, wide)


def test_other_requantisations_know_no_16_bits() -> None:
    program = mixed_program(("stem/1",))
    with pytest.raises(UnsupportedLayerError, match="stem/1: tensors of 16 bits are not possible with float32"):
        Simulator(program, "float32")
    with pytest.raises(ProgramError, match=r"stem/1: 16 bits need fixed-point .* onnxruntime_cpu uses float32"):
        check_program(replace(program, target=CPU))


@pytest.mark.parametrize(
    ("change", "text"),
    [({"zero_point": 3}, "its zero point must be 0"), ({"name": "image"}, "image: the image has 8 bits")],
)
def test_a_program_that_contradicts_itself_is_refused(change: dict[str, object], text: str) -> None:
    program = mixed_program(("stem/1",))
    changed = replace(program.tensors["stem/1"], **change)  # type: ignore[arg-type]
    with pytest.raises(ProgramError, match=text):
        check_program(replace(program, tensors={**program.tensors, changed.name: changed}))
