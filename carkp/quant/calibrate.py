"""Calibration: run a folded network on some images once, then choose a threshold for every tensor."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from carkp.quant.fake_quant import FakeQuantNet
from carkp.quant.graph import IMAGE, MOVING, ConvLayer, LayerGraph, Step, scale_groups
from carkp.quant.histogram import AbsHistogram
from carkp.quant.observers import ObserverKind, threshold


class CalibrationError(ValueError):
    """Calibration is impossible with these values; the message names the tensor if one is to blame."""


@dataclass(frozen=True)
class Observer:
    """The way to choose a tensor's threshold; only the kind ``percentile`` uses ``percentile``."""

    kind: ObserverKind
    percentile: float


def observe(graph: LayerGraph, batches: Iterable[Tensor], num_threads: int = 1) -> dict[str, AbsHistogram]:
    """Return one histogram of |x| over all batches for every group of tensors that share a scale, except the image's.

    Each thread processes whole batches alone, both the convolutions and the counting. So no thread waits for another
    one within a layer. Memory grows with the number of threads, but not with the number of batches.

    Args:
        graph: the folded network, in float.
        batches: normalised images (B, 3, H, W).
        num_threads: number of batches processed at a time.

    Raises:
        CalibrationError: there are no batches, a tensor has NaN or infinite values, or a tensor that shares the scale
            of the image exceeds 1 in magnitude.
    """
    shared = _SharedBatches(batches)

    def work(num_inner_threads: int) -> dict[str, AbsHistogram]:
        torch.set_num_threads(num_inner_threads)  # applies to the calling thread
        return _observe_some(graph, shared)

    if num_threads == 1:
        found = [_observe_some(graph, shared)]
    else:
        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(num_threads, thread_name_prefix="observe") as pool:
                found = list(pool.map(work, [1] * num_threads))
        finally:
            torch.set_num_threads(before)
    if shared.is_empty:
        raise CalibrationError(
            "no images for the calibration: set quant.num_images to at least 1, and give data with a training split"
        )
    histograms, *others = found
    for other in others:
        for name, histogram in other.items():
            histograms[name].merge(histogram)
    return histograms


class _SharedBatches:
    """An iterator that several threads share; each batch is returned once."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._batches, self._lock = iter(batches), threading.Lock()
        self.is_empty = True

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        with self._lock:
            batch = next(self._batches)
            self.is_empty = False
            return batch


def _observe_some(graph: LayerGraph, batches: Iterable[Tensor]) -> dict[str, AbsHistogram]:
    groups = scale_groups(graph)
    observed = {name for name, _ in _observed(graph)}
    histograms = {groups[name]: AbsHistogram() for name in observed}

    def count(name: str, values: Tensor) -> None:
        if name in observed:
            try:
                histograms[groups[name]].update(values.numpy())
            except ValueError as error:
                raise CalibrationError(f"{name}: {error}; the float model is not usable, train it again") from error

    def check_and_count(name: str, values: Tensor) -> None:
        if name in beside_image and (largest := float(values.abs().max())) > 1:
            raise CalibrationError(
                f"{name}: is concatenated with the image and shares its scale, but reaches {largest:g} > 1: limit it "
                "to -1 to 1 in the network, or remove the concatenation"
            )
        count(name, values)

    beside_image = {name for name, leader in groups.items() if leader == groups[IMAGE]} - {IMAGE}
    with torch.inference_mode():
        for images in batches:
            graph(images, on_tensor=check_and_count)
    return histograms


def choose_thresholds(
    histograms: Mapping[str, AbsHistogram], num_levels: Mapping[str, int], observers: Mapping[str, Observer]
) -> dict[str, float]:
    """Choose every tensor's threshold, in real units. ``num_levels``: number of steps from 0 to the threshold."""
    return {
        name: threshold(histogram, observers[name].kind, observers[name].percentile, num_levels[name])
        for name, histogram in histograms.items()
    }


def correct_biases(net: FakeQuantNet, batches: Iterable[Tensor]) -> None:
    """Correct every bias by the mean error that the rounded weights cause on inputs from the float network.

    Source: Nagel et al. 2019 (https://arxiv.org/abs/1906.04721), section 4.2. Here the means are measured instead of
    computed.
    """
    totals: dict[str, Tensor] = {}
    num_images = 0
    for images in batches:
        num_images += len(images)
        for name, error in _mean_errors(net, images).items():
            totals[name] = totals.get(name, torch.zeros_like(error)) + error * len(images)
    for name, total in totals.items():
        net.weight_quantiser(name).bias_shift.copy_(-total / num_images)


def _mean_errors(net: FakeQuantNet, images: Tensor) -> dict[str, Tensor]:
    """Return for every convolution the mean error (O,), over images and pixels, that its rounded weights cause."""
    errors: dict[str, Tensor] = {}

    def apply(step: Step, layer: nn.Module, inputs: list[Tensor]) -> Tensor:
        if isinstance(layer, ConvLayer):
            weight, _ = net.quantised_weights(step, layer)
            errors[step.name] = layer.accumulate(inputs[0], weight - layer.weight, None).mean(dim=(0, 2, 3))
        result: Tensor = layer(*inputs)
        return result

    with torch.inference_mode():
        net.graph.execute(images, apply)
    return errors


def _observed(graph: LayerGraph) -> list[tuple[str, nn.Module]]:
    """Return the tensors to observe, with their layers.

    Left out are the image and tensors that share its fixed scale, and results of layers that only move numbers.
    """
    groups = scale_groups(graph)
    return [
        (step.name, layer)
        for step, layer in graph.items()
        if not isinstance(layer, MOVING) and groups[step.name] != groups[IMAGE]
    ]
