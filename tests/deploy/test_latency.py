"""Models timed in turn, and the ratio of their times."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from carkp.deploy.latency import interleaved_times, paired_ratio
from carkp.deploy.runtime import OnnxRunner

SHAPE = (3, 64, 64)


def relus(path: Path, num_layers: int) -> Path:
    """As many passes over an image, which ONNX Runtime cannot merge."""
    names = ["image", *(f"x{i}" for i in range(num_layers - 1)), "heatmaps"]
    kinds = ("Sin", "Cos")
    nodes = [helper.make_node(kinds[i % 2], [names[i]], [names[i + 1]]) for i in range(num_layers)]
    shape = ["batch", *SHAPE]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "heatmaps")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, path)
    return path


def test_every_model_runs_in_every_round(tmp_path: Path) -> None:
    runs = {name: OnnxRunner(relus(tmp_path / f"{name}.onnx", num)).run for name, num in (("long", 40), ("short", 2))}
    rounds: list[int] = []
    images = np.zeros((4, *SHAPE), np.float32)
    rng = np.random.default_rng(0)
    times = interleaved_times(runs, images, 6, rng, batch=2, on_round=lambda: rounds.append(1))
    assert {name: len(values) for name, values in times.items()} == {"long": 6, "short": 6}
    assert len(rounds) == 6
    ratio = paired_ratio(times["long"], times["short"], rng)
    assert 3 < ratio.low <= ratio.median <= ratio.high


def test_it_stops_in_time(tmp_path: Path) -> None:
    images = np.zeros((1, *SHAPE), np.float32)
    runs = {"one": OnnxRunner(relus(tmp_path / "one.onnx", 2)).run}
    assert len(interleaved_times(runs, images, 10**6, np.random.default_rng(0), max_seconds=0)["one"]) == 2


def test_too_few_images_or_rounds_are_refused(tmp_path: Path) -> None:
    images = np.zeros((1, *SHAPE), np.float32)
    for num_runs, batch in ((1, 1), (5, 2)):
        with pytest.raises(ValueError, match="expected"):
            interleaved_times({}, images, num_runs, np.random.default_rng(0), batch=batch)


def test_ratio_is_paired() -> None:
    below = np.array([1.0, 10.0, 100.0])
    ratio = paired_ratio(2 * below, below, np.random.default_rng(0))
    assert (ratio.low, ratio.median, ratio.high) == (2, 2, 2)
