"""`carkp view`: which models it opens, and what it says where it cannot."""

import importlib

import pytest
from click.testing import CliRunner, Result

from carkp.command.main import group
from carkp.view.serving import HOST, PortError, address, listen
from tests.test_light_runtime import run_without
from tests.tiny_models import TinyModels

view = importlib.import_module("carkp.command.view")


def command(*words: str) -> Result:
    return CliRunner().invoke(group, ["view", *words], prog_name="carkp")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the browser was to be opened, a call an entry; nothing is served."""
    calls: list[bool] = []
    serving = importlib.import_module("carkp.view.serving")
    monkeypatch.setattr(serving, "serve", lambda app, server, is_browser_opened: calls.append(is_browser_opened))
    return calls


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(view.importlib.util, "find_spec", lambda name: None if name in names else find(name))


@pytest.mark.usefixtures("shipped_folder")
def test_the_shipped_model_is_shown_beside_its_float_weights(served: list[bool]) -> None:
    done = command("--port", "0")
    assert done.exit_code == 0, done.output
    assert "carkp-car12 (int8 ONNX), carkp-car12/weights.safetensors (float checkpoint) at http://127." in done.output
    assert command("--port", "0", "--no-browser").exit_code == 0
    assert served == [True, False]


@pytest.mark.usefixtures("shipped_folder")
def test_without_torch_int8_is_shown_alone_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "torch")
    models, note = view._open_models("carkp-car12", "")
    assert [model.kind for model in models] == ["int8 ONNX"]
    assert "needs torch" in note


def test_any_two_files_are_held_against_each_other(tiny_models: TinyModels) -> None:
    models, note = view._open_models(str(tiny_models.float_onnx), str(tiny_models.int8_onnx))
    assert [model.kind for model in models] == ["float ONNX", "int8 ONNX"]
    assert note == ""
    assert len(view._open_models(str(tiny_models.int8_onnx), "none")[0]) == 1
    assert len(view._open_models(str(tiny_models.int8_onnx), "")[0]) == 1


def test_a_model_that_is_not_there_is_told() -> None:
    done = command("--model", "no/such.onnx", "--port", "0")
    assert done.exit_code == 1
    assert done.output.startswith("error: no/such.onnx: no such model file")


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "uvicorn")
    done = command()
    assert done.exit_code == 1
    assert done.output == 'error: carkp view needs uvicorn: pip install "carkp[view]"\n'


def test_a_port_that_is_taken_is_told() -> None:
    with listen(0) as first:
        port = first.getsockname()[1]
        assert first.getsockname()[0] == HOST
        assert address(first) == f"http://127.0.0.1:{port}/"
        with pytest.raises(PortError, match=f"port {port} .* give another one with --port"):
            listen(port)


def test_the_page_needs_no_installation_for_training() -> None:
    done = run_without(
        """
        from carkp.predictor import Predictor
        from carkp.view.models import ViewedModel
        from carkp.view.server import create_app
        print(len(create_app([ViewedModel("carkp-car12", Predictor.load())]).routes))
        """
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
