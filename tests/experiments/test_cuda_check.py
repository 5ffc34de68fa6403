"""The check of CUDA, on the CPU in its place: what is equal there comes out equal, and a difference shows."""

import runpy
from pathlib import Path

import pytest
import torch

from carkp.config.loading import ConfigError, load_config
from tests.stages.conftest import ROOT, TINY

STUDY = runpy.run_path(str(ROOT / "experiments" / "cuda_check.py"), run_name="cuda_check")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    check = STUDY["check"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BATCH", 4), ("NUM_BATCHES", 1), ("NUM_STEPS", 5), ("NUM_EPOCHS", 2)):
            patch.setitem(check.__globals__, name, value)
        found = list(check(load_config(ROOT / TINY), CPU, False, tmp_path_factory.mktemp("check")))
    return {line.name: line for line in found}


@pytest.mark.slow
def test_the_cpu_agrees_with_itself(lines: dict[str, object]) -> None:
    assert len(lines) == 8
    failed = [name for name, line in lines.items() if not line.passed]  # type: ignore[attr-defined]
    assert failed == []


@pytest.mark.slow
def test_equal_trainings_are_equal_bit_for_bit(lines: dict[str, object]) -> None:
    weights = {name: line.value for name, line in lines.items() if name.startswith("weights")}  # type: ignore[attr-defined]
    assert set(weights.values()) == {0.0}
    assert len(weights) == 4


def test_another_seed_shows(tmp_path: Path) -> None:
    config = load_config(ROOT / TINY, ["train.epochs=2"])
    batches = STUDY["Discs"](1, 8, config.model.input_size)
    one, other = (
        STUDY["trained"](STUDY["Variant"](config.model_copy(update={"seed": seed}), batches, CPU), tmp_path / str(seed))
        for seed in (0, 1)
    )
    assert STUDY["number_of_differences"](one, other) > 0
    assert STUDY["number_of_differences"](one, one) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_cuda_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cuda_check.py"])
    with pytest.raises(ConfigError, match="no CUDA device here"):
        STUDY["main"]()
