"""The study of executions compares what it says, and sees a rule that is not the right one."""

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from carkp.quant.simulate import Simulator
from tests.stages.conftest import ROOT

study = SimpleNamespace(**runpy.run_path(str(ROOT / "experiments" / "int8_executions.py"), run_name="executions"))


@pytest.mark.parametrize("execution", study.EXECUTIONS, ids=lambda execution: execution.name)
def test_every_execution_follows_its_rule(execution: Any, tmp_path: Path) -> None:
    found = study.count_different(execution, 10_000, 0, tmp_path)
    assert {layer: different for layer, (_, different) in found.items()} == dict.fromkeys(study.LAYERS, 0)
    assert sum(elements for elements, _ in found.values()) >= 10_000


def test_another_rule_is_seen(tmp_path: Path) -> None:
    xnnpack = next(execution for execution in study.EXECUTIONS if execution.rule == "xnnpack")
    found = study.count_different(replace(xnnpack, rule="tflite_reference"), 10_000, 0, tmp_path)
    assert all(different > 0 for _, different in found.values())


@pytest.mark.parametrize("dtypes", [("int8", "int8"), *study.WIDE_PAIRS], ids=" to ".join)
@pytest.mark.parametrize("layer", study.LAYERS)
def test_layers_use_the_range_and_the_edges_saturate(layer: str, dtypes: tuple[str, str]) -> None:
    outputs = {}
    for edge in study.EDGES:
        rng = np.random.default_rng(1)
        program = study.RandomProgram("fixed_point", "int8", rng, dtypes).of_layer(layer, edge)
        images = torch.from_numpy(study.images_for(rng, 2))
        seen: dict[str, torch.Tensor] = {}
        Simulator(program).run(images, lambda name, tensor, seen=seen: seen.__setitem__(name, tensor))
        assert {int(seen["image"].min()), int(seen["image"].max())} == {-128, 127}
        outputs[edge] = seen["last"].numpy()
    assert len(np.unique(outputs["plain"])) > (60 if dtypes[1] == "int8" else 3000)
    bounds = (outputs["saturated"].min(), outputs["saturated"].max())
    assert np.isin(outputs["saturated"], bounds).mean() > 0.5
