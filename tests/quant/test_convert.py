import numpy as np
import pytest
import torch
from torch import nn

from carkp.deploy.graph_audit import require_int8_convs
from carkp.deploy.int8_onnx import load_program, save_program
from carkp.deploy.runtime import OnnxRunner
from carkp.quant.calibrate import correct_biases
from carkp.quant.convert import convert
from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.fold import fold
from carkp.quant.program import FloatOp, QConv, same_program
from carkp.quant.simulate import Simulator, UnsupportedLayerError
from tests.quant.networks import BPU, CPU, SIZE, GatedNet, SmallNet, calibrated, images, with_statistics

TARGETS = pytest.mark.parametrize("target", [BPU, CPU], ids=["bpu", "onnxruntime_cpu"])


@TARGETS
def test_program_computes_what_the_fake_quantised_network_does(target):
    net = calibrated(with_statistics(SmallNet()), target)
    correct_biases(net, [images()])
    program = convert(net, {"run": "abc"})
    scale = program.tensors[program.output].scale
    with torch.inference_mode():
        expected = net(images())
    for requantisation in ("float32", "fixed_point"):
        steps = (Simulator(program, requantisation).run(images()) - expected) / scale
        assert (steps.abs() > 2.5).float().mean() < 0.003  # what a tie rounded the other way grows to
        assert (steps.abs() < 0.5).float().mean() > 0.8


@TARGETS
def test_every_execution_gives_the_same(target, tmp_path):
    program = convert(calibrated(with_statistics(SmallNet()), target), {})
    path = tmp_path / "int8.onnx"
    save_program(program, path)
    require_int8_convs(path, program.num_convs)
    assert same_program(load_program(path), program)
    batch = images(16, seed=7)
    got = OnnxRunner(path).run(batch.numpy())
    assert np.array_equal(got, Simulator(program, "float32").run(batch).numpy())


@TARGETS
def test_requantisations_differ_by_at_most_one_step_a_layer_on_the_same_input(target):
    program = convert(calibrated(with_statistics(SmallNet()), target), {})
    exact, fixed = Simulator(program, "float32"), Simulator(program, "fixed_point")
    tensors = {program.input: exact.quantise_input(images())}
    for layer in program.layers:
        inputs = [tensors[name] for name in layer.inputs]
        tensors[layer.output] = exact.run_layer(layer, inputs)
        difference = (fixed.run_layer(layer, inputs).int() - tensors[layer.output].int()).abs()
        assert difference.max() <= 1, layer.name


def test_clamps_are_the_activations_in_units_of_the_target():
    signed, unsigned = (convert(calibrated(with_statistics(SmallNet()), target), {}) for target in (BPU, CPU))

    def clamp(program, name):
        return next(layer.clamp for layer in program.layers if layer.name == name)

    assert clamp(signed, "stem/1") == (0, 127)
    assert clamp(signed, "narrow/0") == (-128, 127)
    assert clamp(unsigned, "stem/1") == (0, 255)
    assert unsigned.tensors["narrow/0"].zero_point == 128


def test_relu6_binds_where_the_range_goes_beyond_it():
    net = calibrated(with_statistics(SmallNet()), BPU)
    net.quantiser("stem/1").scale.fill_(0.1)
    assert next(layer.clamp for layer in convert(net, {}).layers if layer.name == "stem/1") == (0, 60)


def test_phases_of_a_transposed_convolution_keep_a_scale_for_every_output_channel():
    net = with_statistics(SmallNet())
    gains = torch.logspace(-1, 1, 12)
    with torch.no_grad():
        net.up[0].weight.mul_(gains[None, :, None, None])  # axis 1: output channels
    program = convert(calibrated(net, BPU), {})
    phases = [layer for layer in program.layers if isinstance(layer, QConv) and "phase" in layer.name]
    assert len(phases) == 4
    for phase in phases:
        largest = np.abs(phase.weight.reshape(12, -1)).max(axis=1)
        assert (largest == 127).all()


class LateNorm(nn.Module):
    """A batch norm that no convolution can take in, and an activation in place whose input is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(inplace=True), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.act(self.first(images))))


def test_float_layers_are_written_with_the_weights_that_were_loaded(tmp_path):
    trained = calibrated(with_statistics(LateNorm()), CPU)
    fresh = FakeQuantNet(fold(LateNorm().eval(), SIZE), CPU, True).eval()
    fresh.load_state_dict(trained.state_dict())
    assert same_program(convert(fresh, {}), convert(trained, {}))
    path = tmp_path / "int8.onnx"
    save_program(convert(fresh, {}), path)
    with torch.inference_mode():
        steps = (torch.from_numpy(OnnxRunner(path).run(images().numpy())) - trained(images())) / float(
            trained.quantiser("last").scale
        )
    assert steps.abs().max() < 2.5


def test_unfolded_batch_norm_is_frozen_in_training():
    net = calibrated(with_statistics(LateNorm()), CPU).train()
    before = {name: value.clone() for name, value in net.state_dict().items() if "running" in name}
    assert before
    net(images())
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_activations_in_place_do_not_write_over_what_others_see():
    net = calibrated(with_statistics(LateNorm()), CPU)
    seen: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        net.graph(images(), on_tensor=lambda name, values: seen.setdefault(name, values))
        expected = net.graph.layers["first"](images())
    assert torch.equal(seen["first"], expected)


def test_unknown_operators_become_float_layers_that_the_simulator_refuses_by_name():
    program = convert(calibrated(GatedNet().eval(), BPU), {})
    kinds = {layer.kind for layer in program.layers if isinstance(layer, FloatOp)}
    assert {"Silu", "Sigmoid", "Mul", "ReduceMean", "torch.cumsum"} <= kinds
    with pytest.raises(UnsupportedLayerError, match=r"torch\.cumsum"):
        Simulator(program)
