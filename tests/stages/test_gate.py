"""Fake quantisation foretells every target's integers on a trained network; the gate shuts where it does not."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from carkp.config.loading import load_config
from carkp.config.schema import AlignConfig, ExperimentConfig
from carkp.data.store import Store
from carkp.keypoints.paired import Interval
from carkp.keypoints.predictions import Predictions
from carkp.model.pose_net import PoseNet
from carkp.quant.convert import convert
from carkp.quant.program import QConv, QProgram
from carkp.stages.align import Lockstep
from carkp.training.distributed import cpu_context
from carkp.workflow.build import build_model
from carkp.workflow.calibrating import build_calibrator
from carkp.workflow.executions import simulator_forward
from carkp.workflow.gate import FAKE_QUANT, FLOAT, ONE_STEP, SIMULATED, Gate, LossCheck, judge_gate, measure_gate
from carkp.workflow.preparation import open_prepared
from carkp.workflow.quantising import build_target
from carkp.workflow.scoring import Scorer, build_scorer
from tests.keypoints.test_displacement import pair
from tests.stages.conftest import ROOT, Project

TARGETS = sorted(path.stem for path in (ROOT / "configs" / "targets").glob("*.yaml"))
LIKE_OTHERS = ("cortex_m_class", "jetson_orin_nano_int8")
"""Their arithmetic is that of another target."""

CHANGES = ("quant.num_images=16", "quant.num_rounding_images=16", "align.max_shift_steps=5")
"""Of 28 cars a few keypoints that take another peak weigh more than a step; which ones do depends on the CPU."""

MAX_DIFFERENCE = 0.01
"""Of the expected loss, about two keypoints of these cars."""


@dataclass(frozen=True)
class Cars:
    """The shipped network and generated cars."""

    config: ExperimentConfig
    net: PoseNet
    store: Store
    scorer: Scorer

    def gate(self, target: str, change: Callable[[QConv, QProgram], QConv] | None = None) -> Gate:
        """Of a calibration for ``target``; ``change`` spoils the convolutions that the simulator runs."""
        calibrator = build_calibrator(self.config, build_target(self.config, target))
        fake_quant = calibrator.quantise(self.net)
        calibrator.calibrate(fake_quant, self.store, calibrator.observers(fake_quant))
        program = convert(fake_quant, {})
        scale = program.tensors[program.output].scale
        if change is not None:
            layers = [change(layer, program) if isinstance(layer, QConv) else layer for layer in program.layers]
            program = replace(program, layers=tuple(layers))
        forwards = {
            "float": self.scorer.forward(fake_quant.graph),
            "fake_quant": self.scorer.forward(fake_quant),
            "simulated": simulator_forward(program),
        }
        lockstep = Lockstep(forwards, self.scorer.codec, scale, num_steps=1, seed=0)
        predictions = lockstep.assemble(self.scorer.predict(lockstep, self.store))
        self.require_trained(predictions["float"])
        return measure_gate(predictions, (0.1, 0.02))

    def require_trained(self, predictions: Predictions) -> None:
        """Keypoints without a peak would follow any difference, or none."""
        assert predictions.score(0.1).pck > 0.8


@pytest.fixture(scope="module")
def cars(trained: Project) -> Cars:
    config = load_config(ROOT / "configs" / "synthetic.yaml", CHANGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained.path)
        (prepared,) = (trained.path / "data").glob("synthetic-*")
        store = open_prepared(prepared).open().train
    return Cars(config, build_model(config).net.eval(), store, build_scorer(config, cpu_context()))


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=pytest.mark.slow) if name in LIKE_OTHERS else name for name in TARGETS]
)
def test_it_is_open_for_every_target(cars: Cars, target: str) -> None:
    gate = cars.gate(target)
    assert judge_gate(cars.config.align, gate) == []
    assert 0 < gate.one_step_px < 1
    assert all(abs(item.difference.value) < MAX_DIFFERENCE for item in gate.losses)


def half_a_step_down(conv: QConv, program: QProgram) -> QConv:
    """As if the target cut its accumulators off instead of rounding them."""
    steps = program.tensors[conv.output].scale / (program.tensors[conv.inputs[0]].scale * conv.weight_scale)
    return replace(conv, bias=conv.bias - np.rint(steps / 2).astype(np.int32))


def twice_the_shift_of_one(conv: QConv, program: QProgram) -> QConv:
    """As if one channel of one layer were scaled by a wrong power of two."""
    if conv.name != next(layer.name for layer in program.layers if isinstance(layer, QConv) and layer.groups > 1):
        return conv
    scale = conv.weight_scale.copy()
    scale[:8] *= 2
    return replace(conv, weight_scale=scale)


@pytest.mark.parametrize("change", [half_a_step_down, twice_the_shift_of_one])
def test_it_shuts_on_an_arithmetic_that_calibration_has_not_seen(
    cars: Cars, change: Callable[[QConv, QProgram], QConv]
) -> None:
    assert judge_gate(cars.config.align, cars.gate("bpu", change)) != []


def test_a_few_keypoints_that_take_another_peak_do_not_shut_it() -> None:
    reference, moved = pair(0, spread=0.05)
    points = moved.points.copy()
    jumping = np.argwhere(reference.validity > 0)[:5]
    points[tuple(jumping.T)] += 60
    predictions = {FLOAT: reference, FAKE_QUANT: moved, SIMULATED: replace(moved, points=points), ONE_STEP: reference}
    assert judge_gate(AlignConfig(), measure_gate(predictions, ())) == []
    points[reference.validity > 0] += 2
    assert judge_gate(AlignConfig(), measure_gate(predictions, ())) != []


def test_it_says_what_keeps_it_shut() -> None:
    tolerances = AlignConfig()
    loss = LossCheck(0.02, 0.001, 0.004, Interval(0.003, 0.001, 0.005))
    gate = Gate([loss, replace(loss, alpha=0.1, difference=Interval(0.003, 0.0004, 0.0056))], 0.2, 0.3, 0.05)
    (by_loss, by_shift) = judge_gate(tolerances, gate)
    assert "the expected loss at alpha 0.02 is 0.10% by fake quantisation and 0.40% in the simulator" in by_loss
    assert "moves keypoints by 0.300 px and fake quantisation by 0.200 px" in by_shift
    assert "explains 0.050 px" in by_shift
    unsure = replace(loss, difference=Interval(-0.003, -0.005, -0.0004))
    assert judge_gate(tolerances, Gate([unsure], 0.2, 0.25, 0.05)) == []
    assert judge_gate(tolerances, Gate([replace(loss, difference=Interval(-0.003, -0.005, -0.001))], 0.2, 0.2, 0)) != []
