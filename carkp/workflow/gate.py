"""The gate of ``align``: does fake quantisation predict the result of the target's integer arithmetic?

Single heatmap elements cannot answer that. A rounding in the other direction in an early layer changes later ones, so
that about a tenth of the elements differ in the end, in either direction. Three distances can answer it, each a mean
over the test split: from float to fake quantisation, from float to the simulator, and, as their measure, the distance
that one step of the heatmap's grid causes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carkp.config.schema import AlignConfig
from carkp.keypoints.codec import HEATMAP_STRIDE
from carkp.keypoints.displacement import expected_loss, expected_loss_difference, mean_shift_px
from carkp.keypoints.paired import Interval
from carkp.keypoints.predictions import Predictions

FLOAT, FAKE_QUANT, SIMULATED = "float", "fake_quant", "simulated"

ONE_STEP = "one_step"
"""Fake quantisation with heatmaps changed by :func:`moved_by_one_step`."""

MAX_SHIFT_PX = float(HEATMAP_STRIDE)
"""A keypoint's shift counts as one cell of the heatmap at most. If it moves further, it has taken another peak; the
losses count it."""


@dataclass(frozen=True)
class LossCheck:
    """Expected losses of PCK against float, as shares; see :func:`carkp.keypoints.displacement.expected_loss`.

    Attributes:
        alpha: threshold.
        fake_quant: loss of fake quantisation.
        simulated: loss of the simulator.
        difference: ``simulated - fake_quant``, with the 95 % interval of a bootstrap over clusters of cars.
    """

    alpha: float
    fake_quant: float
    simulated: float
    difference: Interval


@dataclass(frozen=True)
class Gate:
    """The measures of the gate: losses at several thresholds, and mean shifts of labelled keypoints in input pixels.

    A single shift counts as ``MAX_SHIFT_PX`` at most.

    Attributes:
        losses: one check per threshold.
        fake_quant_px: shift from float to fake quantisation.
        simulated_px: shift from float to the simulator.
        one_step_px: shift of fake quantisation if each heatmap element moves by one step of its grid at most.
    """

    losses: Sequence[LossCheck]
    fake_quant_px: float
    simulated_px: float
    one_step_px: float


def moved_by_one_step(heatmaps: Tensor, step: float, generator: torch.Generator) -> Tensor:
    """Change every element by -1, 0 or 1 ``step``, drawn independently."""
    return heatmaps + step * (torch.randint(0, 3, heatmaps.shape, generator=generator) - 1)


def measure_gate(predictions: Mapping[str, Predictions], alphas: Sequence[float]) -> Gate:
    """Measure the gate.

    ``predictions``: of float, fake quantisation, the simulator and ``ONE_STEP``, on the same cars.
    """
    reference, fake_quant = predictions[FLOAT], predictions[FAKE_QUANT]
    simulated, one_step = predictions[SIMULATED], predictions[ONE_STEP]
    losses = [
        LossCheck(
            alpha,
            expected_loss(reference, fake_quant, alpha).value,
            expected_loss(reference, simulated, alpha).value,
            expected_loss_difference(reference, fake_quant, simulated, alpha),
        )
        for alpha in dict.fromkeys(alphas)
    ]
    return Gate(
        losses,
        fake_quant_px=mean_shift_px(reference, fake_quant, MAX_SHIFT_PX),
        simulated_px=mean_shift_px(reference, simulated, MAX_SHIFT_PX),
        one_step_px=mean_shift_px(fake_quant, one_step, MAX_SHIFT_PX),
    )


def judge_gate(tolerances: AlignConfig, gate: Gate) -> list[str]:
    """Return the reasons against opening the gate, in words; empty: fake quantisation predicts the simulator.

    A loss difference is too large if its whole interval is beyond the tolerance: few cars cannot show a small
    difference.
    """
    allowed = tolerances.max_loss_difference
    failures = [
        f"the expected loss at alpha {item.alpha:g} is {item.fake_quant:.2%} by fake quantisation and "
        f"{item.simulated:.2%} in the simulator, align.max_loss_difference is {allowed:.2%}"
        for item in gate.losses
        if item.difference.low > allowed or item.difference.high < -allowed
    ]
    if abs(gate.simulated_px - gate.fake_quant_px) > tolerances.max_shift_steps * gate.one_step_px:
        failures.append(
            f"against float the simulator moves keypoints by {gate.simulated_px:.3f} px and fake quantisation by "
            f"{gate.fake_quant_px:.3f} px: one step of the heatmaps explains {gate.one_step_px:.3f} px of difference, "
            f"align.max_shift_steps is {tolerances.max_shift_steps:g}"
        )
    return failures


def gate_rows(gate: Gate) -> list[dict[str, float]]:
    """Return a row for each threshold; the shifts do not depend on it and are the same in every row."""
    return [
        {
            "alpha": item.alpha,
            "loss_fake_quant": item.fake_quant,
            "loss_simulated": item.simulated,
            "difference": item.difference.value,
            "difference_low": item.difference.low,
            "difference_high": item.difference.high,
            "shift_fake_quant_px": gate.fake_quant_px,
            "shift_simulated_px": gate.simulated_px,
            "shift_one_step_px": gate.one_step_px,
        }
        for item in gate.losses
    ]


def gate_metrics(gate: Gate) -> dict[str, float]:
    """Return the differences that decide the gate, and the shift by one step."""
    return {
        **{f"loss_difference_at_{item.alpha:g}": item.difference.value for item in gate.losses},
        "shift_difference_px": gate.simulated_px - gate.fake_quant_px,
        "one_step_px": gate.one_step_px,
    }


def describe_gate(gate: Gate) -> str:
    """Describe losses and shifts in a sentence."""
    losses = ", ".join(
        f"{item.fake_quant:.2%} and {item.simulated:.2%} at alpha {item.alpha:g} (difference "
        f"{100 * item.difference.low:+.3f} to {100 * item.difference.high:+.3f} points)"
        for item in gate.losses
    )
    return (
        f"expected loss against float by fake quantisation and in the simulator: {losses}; mean shift "
        f"{gate.fake_quant_px:.3f} and {gate.simulated_px:.3f} px, one step of the heatmaps moves "
        f"{gate.one_step_px:.3f} px"
    )
