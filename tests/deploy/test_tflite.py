"""The .tflite file gives what the simulator gives in every program that runs it: on every element."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from carkp.deploy.litert import (
    RULES,
    Kernels,
    LiteRtRunner,
    NotDelegatedError,
    TfliteError,
    TfliteMicroRunner,
    require_delegated,
)
from carkp.deploy.tflite import save_tflite, tflite_bytes
from carkp.deploy.tflite_model import ALIGNMENT
from carkp.keypoints.codec import CODEC_KEY, HeatmapCodec, codec_to_json
from carkp.predictor import ModelError, Predictor
from carkp.quant.program import QConv, QProgram
from carkp.quant.simulate import Simulator
from carkp.quant.target import Dtype
from tests.deploy.programs import SIZE, Net, images, pose_net

DTYPES: tuple[Dtype, ...] = ("int8", "uint8")


def steps_apart(program: QProgram, path: Path, kernels: Kernels | None, batch: np.ndarray) -> np.ndarray:
    """Steps of the output's scale between a file and the simulator, for every element; None: tflite-micro."""
    expected = Simulator(program, RULES[kernels or "reference"]).run(torch.from_numpy(batch)).numpy()
    assert len(np.unique(expected)) > 30
    runner = LiteRtRunner(path, kernels) if kernels else TfliteMicroRunner(path)
    return np.rint((runner.run(batch) - expected) / program.tensors[program.output].scale).astype(int)


@pytest.mark.parametrize("kernels", [*RULES, None])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layer_equals_the_simulator(dtype: Dtype, kernels: Kernels | None, tmp_path: Path) -> None:
    program, path = pose_net(dtype), tmp_path / "made" / "net.tflite"
    save_tflite(program, path)
    assert [item.name for item in path.parent.iterdir()] == ["net.tflite"]
    assert not steps_apart(program, path, kernels, images(4)).any()


LAYERS: dict[str, dict[str, Any]] = {
    "dense": {"channels": 24, "kernel": 3},
    "odd": {"channels": 13, "kernel": 3},
    "depthwise": {"channels": 21, "kernel": 5, "groups": 21},  # 16 of them fill vectors
    "strided": {"channels": 16, "kernel": 3, "stride": 2, "pads": (0, 0, 1, 1)},
    "centred stride": {"channels": 16, "kernel": 3, "stride": 2, "pads": (1, 1, 1, 1)},
    "phase": {"channels": 16, "kernel": 2, "pads": (1, 0, 0, 1)},
    "unpadded": {"channels": 16, "kernel": 3, "pads": (0, 0, 0, 0)},
    "relu6": {"channels": 16, "kernel": 1, "scale": 6 / 200},
    "saturated": {"channels": 16, "kernel": 3, "relu": False, "scale": 0.004},
}


@pytest.mark.parametrize("kernels", [*RULES, None])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_convolutions_of_every_shape(dtype: Dtype, kind: str, kernels: Kernels | None, tmp_path: Path) -> None:
    net = Net(dtype, (24, 40))
    options = dict(LAYERS[kind])
    if kind == "relu6":
        zero = 0
        options["clamp"] = (zero, zero + 200) if dtype == "uint8" else (0, 127)
    stem = net.conv("stem", "image", 21, relu=False, scale=0.03)
    program = net.program(net.conv("last", stem, **options))
    save_tflite(program, tmp_path / "net.tflite")
    assert not steps_apart(program, tmp_path / "net.tflite", kernels, images(3, (24, 40))).any()


@pytest.mark.parametrize("kernels", [*RULES, None])
@pytest.mark.parametrize("ratio", [1.0, 0.37, 3.0, 0.01])
def test_sums_of_unequal_scales(ratio: float, kernels: Kernels | None, tmp_path: Path) -> None:
    net = Net("int8", (24, 40))
    net.conv("first", "image", 32, kernel=1, relu=False, scale=0.02)
    net.conv("second", "image", 32, kernel=1, relu=False, scale=0.02 * ratio)
    program = net.program(net.add("last", "first", "second"))
    save_tflite(program, tmp_path / "net.tflite")
    assert not steps_apart(program, tmp_path / "net.tflite", kernels, images(3, (24, 40))).any()


@pytest.mark.parametrize("kernels", [*RULES, None])
def test_ties_fall_as_each_rule_says(kernels: Kernels | None, tmp_path: Path) -> None:
    """A scale of exactly 1/8 puts one sum in eight on a tie, where the rules differ."""
    net = Net("int8")
    net.conv("last", "image", 16, kernel=1, relu=False)
    conv = net.layers[0]
    assert isinstance(conv, QConv)
    source = net.tensors["image"]
    net.tensors["last"] = replace(net.tensors["last"], scale=source.scale)
    weight_scale = np.full(16, 0.125, np.float32)
    net.layers[0] = replace(conv, weight=conv.weight // 40, bias=conv.bias // 20, weight_scale=weight_scale)
    program = net.program("last")
    save_tflite(program, tmp_path / "ties.tflite")
    batch = images(8)
    assert not steps_apart(program, tmp_path / "ties.tflite", kernels, batch).any()
    rules = [Simulator(program, rule).run(torch.from_numpy(batch)).numpy() for rule in ("xnnpack", "tflite_reference")]
    assert (rules[0] != rules[1]).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_xnnpack_takes_the_whole_network_in_int8(dtype: Dtype, tmp_path: Path) -> None:
    save_tflite(pose_net(dtype), tmp_path / "net.tflite")
    assert require_delegated(tmp_path / "net.tflite") == 18


def test_a_multiplier_that_xnnpack_does_not_take_is_told(tmp_path: Path) -> None:
    net = Net("int8")
    net.conv("coarse", "image", 16, kernel=1, relu=False)
    conv = net.layers[-1]
    assert isinstance(conv, QConv)
    net.layers[-1] = replace(conv, weight_scale=np.full(16, 1000, np.float32))  # 2^8 and more
    save_tflite(net.program("coarse"), tmp_path / "net.tflite")
    with pytest.raises(NotDelegatedError, match="XNNPACK refuses the network"):
        require_delegated(tmp_path / "net.tflite")


def test_a_network_in_pieces_is_told(tmp_path: Path) -> None:
    """XNNPACK steps aside, without a word, where a bias has no scales."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tflite_bytes(pose_net("int8"), "float", {}), 0))
    (bias,) = [tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"block.project.bias"]
    bias.quantization = None
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "net.tflite").write_bytes(builder.Output())
    with pytest.raises(NotDelegatedError, match="XNNPACK takes the 18 operators in 2 pieces, not in one"):
        require_delegated(tmp_path / "net.tflite")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_int8_interface_is_the_quantised_tensors_themselves(dtype: Dtype, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    program, path = pose_net(dtype), tmp_path / "int8.tflite"
    save_tflite(program, path, "int8")
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    image, heatmaps = program.tensors[program.input], program.tensors[program.output]
    offset = 128 if dtype == "uint8" else 0
    assert (given["name"], made["name"]) == ("image", "heatmaps")
    assert given["quantization"] == (image.scale, image.zero_point - offset)
    assert made["quantization"] == (heatmaps.scale, heatmaps.zero_point - offset)
    batch = torch.from_numpy(images(1))
    simulator = Simulator(program, "xnnpack")
    stored = simulator.quantise_input(batch).numpy().astype(np.int16) - offset
    interpreter.set_tensor(given["index"], stored.astype(np.int8).transpose(0, 2, 3, 1))
    interpreter.invoke()
    found = interpreter.get_tensor(made["index"]).transpose(0, 3, 1, 2).astype(np.int16) + offset
    expected = np.rint(simulator.run(batch).numpy() / heatmaps.scale) + heatmaps.zero_point
    np.testing.assert_array_equal(found, expected)


def test_buffers_are_aligned_and_notes_travel_along() -> None:
    content = tflite_bytes(pose_net("int8"), "float", {"carkp.target": "litert", "carkp.run": "abc"})
    model = schema.Model.GetRootAs(content, 0)
    starts = [model.Buffers(place)._tab.Offset(4) for place in range(model.BuffersLength())]
    assert model.BuffersLength() > 20
    assert starts[0] == 0  # nothing is in the first one
    for place, start in enumerate(starts):
        if start:
            assert model.Buffers(place)._tab.Vector(start) % ALIGNMENT == 0
    notes = {
        model.Metadata(i).Name().decode(): bytes(model.Buffers(model.Metadata(i).Buffer()).DataAsNumpy()).decode()
        for i in range(model.MetadataLength())
    }
    assert notes == {"carkp.target": "litert", "carkp.run": "abc"}


def test_what_tensorflow_lite_cannot_say_is_refused() -> None:
    net = Net("int8")
    stem = net.conv("stem", "image", 8)
    mean = net.float_op("mean", "ReduceMean", (stem,), (8, 1, 1), {"axes": [2, 3]})
    with pytest.raises(TfliteError, match=r"mean \(ReduceMean\): has no integer form"):
        tflite_bytes(net.program(mean), "float", {})
    net = Net("int8", SIZE)
    stem = net.conv("stem", "image", 8)
    with pytest.raises(TfliteError, match="last: 2 groups are neither"):
        tflite_bytes(net.program(net.conv("last", stem, 8, groups=2)), "float", {})
    net = Net("int8", SIZE)
    with pytest.raises(TfliteError, match=r"last: no activation of TensorFlow Lite clamps to \(-20, 90\)"):
        tflite_bytes(net.program(net.conv("last", "image", 8, clamp=(-20, 90))), "float", {})


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.tflite: no such \.tflite file"):
        LiteRtRunner(tmp_path / "none.tflite")
    (tmp_path / "cut.tflite").write_bytes(tflite_bytes(pose_net("int8"), "float", {})[:500])
    with pytest.raises(ValueError, match=r"cut\.tflite: not a readable \.tflite file"):
        LiteRtRunner(tmp_path / "cut.tflite")


def car_net() -> QProgram:
    """What a predictor takes: twelve heatmaps, a quarter of the input's size."""
    net = Net("uint8", (64, 96))
    stem = net.conv("stem", "image", 16, stride=2, pads=(0, 0, 1, 1))
    down = net.conv("down", stem, 16, stride=2, pads=(0, 0, 1, 1))
    return net.program(net.conv("final", down, 12, relu=False))


def test_the_predictor_takes_a_file_and_its_codec(tmp_path: Path) -> None:
    program, path = car_net(), tmp_path / "net.tflite"
    codec = HeatmapCodec((16, 24), 4, 1.5, 7, "dark", 0.1)
    save_tflite(program, path, notes={f"carkp.origin.{CODEC_KEY}": codec_to_json(codec)})
    predictor = Predictor.load(path)
    assert (predictor.kind, predictor.input_size, predictor.codec) == ("int8 TFLite", (64, 96), codec)
    picture = np.random.default_rng(0).integers(0, 256, (150, 200, 3)).astype(np.uint8)
    found = predictor(picture, [[10, 20, 100, 80], [50, 50, 90, 90]])
    inputs = predictor.prepare(picture, found.boxes)
    heatmaps = Simulator(program, "xnnpack").run(torch.from_numpy(inputs.images)).numpy()
    np.testing.assert_array_equal(found.points, predictor.locate(heatmaps, inputs)[0])


def test_files_that_no_predictor_can_be_made_of_are_told(tmp_path: Path) -> None:
    program = car_net()
    save_tflite(program, tmp_path / "int8.tflite", "int8")
    with pytest.raises(ModelError, match="expected one float32 input"):
        Predictor.load(tmp_path / "int8.tflite")
    save_tflite(program, tmp_path / "mute.tflite")
    with pytest.raises(ModelError, match="does not say how to read its heatmaps"):
        Predictor.load(tmp_path / "mute.tflite")
