"""The servers under load, for seconds; and that the study sees a server that mixes clients up or fails."""

import runpy
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from carkp.predictor import Predictor
from tests.stages.conftest import ROOT
from tests.tiny_models import TinyModels

STUDY = runpy.run_path(str(ROOT / "experiments" / "serving_load.py"), run_name="serving_load")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", "view"])
def test_everyone_gets_the_own_answer(name: str, tiny_models: TinyModels) -> None:
    row, log = STUDY["measure"](name, 0.25, 3, tiny_models.int8_onnx)
    assert row["answers"] > 20
    assert (row["mixed_up"], row["failures"]) == (0, 0), log.failures
    kinds = {kind.split(":")[0] for kind in log.statuses}
    assert {"slow", "too large", "damaged", "broken off"} <= kinds
    assert not [kind for kind in log.statuses if kind.startswith("too large: 2")]


def run_ordinary(answers: Any, tiny_models: TinyModels) -> Any:
    """What an ordinary client sees of a server whose answers are ``answers``; it ends with the last one."""
    pictures = STUDY["make_pictures"](1, Predictor.load(tiny_models.int8_onnx))
    log, end, left = STUDY["Log"](), threading.Event(), list(answers(pictures))

    def send(connection: object, asked: object) -> Any:
        answer = left.pop(0)
        if not left:
            end.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    server = SimpleNamespace(send=send, connect=lambda: SimpleNamespace(close=lambda: None))
    STUDY["ordinary"](server, log, pictures, end)
    return log


def test_an_answer_of_another_picture_is_seen(tiny_models: TinyModels) -> None:
    log = run_ordinary(lambda own: [(200, own[0].cars), (200, own[0].cars), (200, own[2].cars)], tiny_models)
    assert len(log.seconds) == 3
    assert log.mixed_up == 1


def test_failures_are_seen(tiny_models: TinyModels) -> None:
    log = run_ordinary(lambda own: [(500, None), OSError("gone"), (404, None)], tiny_models)
    assert log.failures.total() == 3
    assert not log.seconds


def test_memory_that_grows_is_seen(tiny_models: TinyModels) -> None:
    log = STUDY["Log"](seconds=[0.1, 0.2], memory=[100.0 + step for step in range(80)])
    row = STUDY["row_of"]("server", log)
    assert row["growth"] > STUDY["GOALS"]["growth"].at_most
    assert row["p50_ms"] == pytest.approx(150)
