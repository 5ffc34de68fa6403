"""The registered model: its pyfunc in this process, and the real server over HTTP."""

import base64
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations
from mlflow.tracking import MlflowClient

import carkp
from carkp.data import jpeg
from carkp.predictor import ModelError, Predictor
from carkp.serving import KeypointModel, example_row
from carkp.tracking.tracker import NullTracker, tracked_run
from carkp.workflow.registering import register
from tests.model_server import encoded, post, serving, tracking_store
from tests.tiny_models import ROOT, SIZE, TinyModels

BOXES = [[5, 5, 60, 40], [20.5, 10, 30, 30]]


LIMITS = {"max_boxes": 20, "max_pixels": 20_000, "max_request_mib": 0.05}


@dataclass(frozen=True)
class Registry:
    """A tracking store in which ``carkp`` was registered twice; champion is the second version."""

    folder: Path
    uri: str


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """(80, 120, 3) BGR."""
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3)).astype(np.uint8)
    return cv2.GaussianBlur(image, (0, 0), 3)


@pytest.fixture(scope="module")
def registry(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    with tracking_store(folder) as uri:
        for expected in ("1", "2"):
            with tracked_run("export", "tiny", 10.0) as tracker:
                assert register(tiny_models.int8_onnx, "champion", folder / expected, tracker) == expected
        yield Registry(folder, uri)


@pytest.fixture(scope="module")
def served(registry: Registry) -> Any:
    mlflow.set_tracking_uri(registry.uri)
    return mlflow.pyfunc.load_model("models:/carkp@champion")


def test_registered_model_is_the_onnx_file_and_no_pickle(
    registry: Registry, served: Any, tiny_models: TinyModels, tmp_path: Path
) -> None:
    assert MlflowClient(registry.uri).get_model_version_by_alias("carkp", "champion").version in (2, "2")
    assert served.metadata.signature.inputs.input_names() == ["image", "boxes"]
    mlflow.set_tracking_uri(registry.uri)
    folder = Path(mlflow.artifacts.download_artifacts("models:/carkp@champion", dst_path=str(tmp_path)))
    assert (folder / "artifacts" / "model.onnx").read_bytes() == tiny_models.int8_onnx.read_bytes()
    assert not list(folder.rglob("*.pkl"))
    assert Predictor.load(folder).kind == "int8 ONNX"


def test_a_loaded_model_leaves_the_installed_carkp_where_it_is(served: Any) -> None:
    """Its own copy has what serving imports and no more: a spawned process would lack the rest."""
    assert served.metadata.flavors["python_function"]["code"] == "code"
    found = importlib.util.find_spec("carkp")
    assert found is not None
    assert found.origin == carkp.__file__
    holding = [path for path in sys.path if (Path(path) / "carkp").is_dir() and Path(path).name == "code"]
    assert not holding


def test_answers_as_the_predictor_does(served: Any, tiny_models: TinyModels, picture: np.ndarray) -> None:
    rows = pd.DataFrame([{"image": encoded(picture), "boxes": BOXES}, {"image": encoded(picture)}])
    with_boxes, whole = served.predict(rows)
    decoded = jpeg.decode_rgb(jpeg.encode_bgr(picture, 95))
    assert decoded is not None
    predictor = Predictor.load(tiny_models.int8_onnx)
    assert with_boxes == {"width": 120, "height": 80, "cars": predictor(decoded, BOXES).cars()}
    assert whole["cars"] == predictor(decoded).cars()
    json.dumps([with_boxes, whole])


def test_example_is_answered(served: Any) -> None:
    (found,) = served.predict(pd.DataFrame([example_row()]))
    assert len(found["cars"]) == 1


BAD_ROWS = {
    "no image": ({"boxes": BOXES}, "image"),
    "null image": ({"image": None}, "image: expected a picture file in base64"),
    "broken base64": ({"image": "$$$"}, "row 0: image: not base64"),
    "cut base64": ({"image": "abcde"}, "row 0: image: not base64"),
    "no picture": ({"image": base64.b64encode(b"hello").decode()}, "image cannot be decoded"),
    "short box": ({"boxes": [[1, 2, 3]]}, "boxes must be (N, 4)"),
    "flat boxes": ({"boxes": [1, 2, 3, 4]}, "boxes must be (N, 4)"),
    "ragged boxes": ({"boxes": [[1, 2, 3, 4], [1, 2]]}, "boxes must be (N, 4)"),
    "text boxes": ({"boxes": "all"}, "boxes must be (N, 4)"),
    "text in a box": ({"boxes": [["a", 2, 3, 4]]}, "boxes must be numbers"),
    "box off the image": (
        {"boxes": [[1, 1, 9, 9], [500, 2, 3, 4]]},
        "box 1 [500.0, 2.0, 3.0, 4.0]: is outside the image",
    ),
}


def bad_row(name: str, picture: np.ndarray) -> dict[str, Any]:
    row = BAD_ROWS[name][0]
    return row if "image" in row or name == "no image" else {"image": encoded(picture), **row}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_malformed_rows_are_named(served: Any, picture: np.ndarray, name: str) -> None:
    with pytest.raises(MlflowException) as failed:
        served.predict(pd.DataFrame([bad_row(name, picture)]))
    assert BAD_ROWS[name][1] in failed.value.message
    assert failed.value.get_http_status_code() == 400


def ask(model: Any, body: object) -> tuple[int, Any]:
    """Status and predictions or message, by the code that MLflow's server runs for a request."""
    try:
        reply = invocations(json.dumps(body), "application/json", model, model.metadata.get_input_schema())
    except MlflowException as error:
        return error.get_http_status_code(), error.message
    return reply.status, json.loads(reply.response)["predictions"]


def test_all_forms_of_a_request_get_the_same_answer(served: Any, picture: np.ndarray) -> None:
    image, one = encoded(picture), [[3, 4, 30, 40]]
    rows = [{"image": image, "boxes": BOXES}, {"image": image, "boxes": one}]
    (first, second), (whole,) = served.predict(pd.DataFrame(rows)), served.predict(pd.DataFrame([{"image": image}]))
    split = {"columns": ["boxes", "image"], "data": [[BOXES, image], [one, image]], "index": [7, 3]}
    bodies = [
        ({"dataframe_records": rows}, [first, second]),
        ({"dataframe_records": [rows[1], {"image": image}]}, [second, whole]),
        ({"dataframe_records": [{"image": image, "boxes": None}]}, [whole]),
        ({"dataframe_split": split}, [first, second]),
        ({"dataframe_split": {"columns": ["image"], "data": [[image]]}}, [whole]),
        ({"inputs": rows}, [first, second]),
        ({"inputs": [rows[0], {"image": image}]}, [first, whole]),
        ({"inputs": {"image": [image, image], "boxes": [BOXES, one]}}, [first, second]),
        ({"inputs": {"image": [image, image]}}, [whole, whole]),
        ({"inputs": {"image": image}}, [whole]),
        ({"instances": rows[:1]}, [first]),
        ({"instances": [rows[1], rows[1]]}, [second, second]),
        ({"instances": [{"image": image}]}, [whole]),
        ({"dataframe_records": rows, "params": {"threshold": 0.5}}, [first, second]),
    ]
    for body, expected in bodies:
        assert ask(served, body) == (200, expected), str(body)[:60]
    assert ask(served, {"inputs": [{"image": image, "boxes": []}]}) == (200, [{"width": 120, "height": 80, "cars": []}])


def test_other_requests_are_refused_with_what_to_send(served: Any, picture: np.ndarray) -> None:
    image = encoded(picture)
    refused = {
        "no rows": (
            {"dataframe_split": {"columns": ["image", "boxes"], "data": []}},
            "the request contains no picture",
        ),
        "no columns": ({"dataframe_records": []}, "missing inputs ['image']"),
        "columns without names": ({"dataframe_split": {"data": [[image, BOXES]]}}, "missing inputs ['image']"),
        "boxes alone": ({"inputs": [{"boxes": BOXES}]}, "missing inputs ['image']"),
        "a record": ({"dataframe_records": {"image": image}}, "must be a list of records"),
        "one record as columns": ({"inputs": {"image": image, "boxes": BOXES}}, "put a single box into a list"),
        "one image missing": ({"inputs": [{"image": image}, {"boxes": BOXES}]}, "row 1: image: expected a picture"),
        "two forms": ({"inputs": [], "instances": []}, "exactly one of the input fields"),
        "no form": ({"pictures": [image]}, "exactly one of the input fields"),
    }
    for name, (body, message) in refused.items():
        status, text = ask(served, body)
        assert (name, status) == (name, 400)
        assert message in text


def test_a_refusal_does_not_repeat_the_pictures(served: Any, picture: np.ndarray) -> None:
    image = encoded(picture)
    status, text = ask(served, {"inputs": [{"image": image, "boxes": [[1, 2, 3]]}]})
    assert status == 400
    assert text == "row 0: boxes must be (N, 4), with x, y, width, height per car, got shape (1, 3)"


def test_limits_are_changed_when_the_model_is_loaded(registry: Registry, served: Any, picture: np.ndarray) -> None:
    mlflow.set_tracking_uri(registry.uri)
    limited = mlflow.pyfunc.load_model("models:/carkp@champion", model_config=LIMITS)
    row = {"image": encoded(picture), "boxes": BOXES * 6}
    large = {"image": encoded(np.zeros((100, 201, 3), np.uint8)), "boxes": BOXES}
    heavy = {"image": encoded(np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8))}
    refusals = [
        ([row, row], "asks for 24 boxes, at most 20: send fewer boxes.*max_boxes.*MLFLOW_PYFUNC_INFERENCE_CONFIG"),
        (
            [large],
            r"row 0: image: has 201x100 = 20,100 pixels, at most 20,000: scale it down.*max_pixels",
        ),
        ([heavy, heavy], r"MiB of base64, at most 0\.05 MiB: send fewer or smaller pictures.*max_request_mib"),
    ]
    for rows, message in refusals:
        status, text = ask(limited, {"dataframe_records": rows})
        assert status == 400
        assert re.search(message, text), text
        assert ask(served, {"dataframe_records": rows})[0] == 200
    assert ask(limited, {"dataframe_records": [row]})[0] == 200


@pytest.mark.parametrize(
    "limits", [{"max_boxes": 0}, {"max_pixels": "many"}, {"max_request_mib": -1}, {"orientation": "turn"}]
)
def test_limits_that_make_no_sense_are_refused_when_the_model_is_loaded(
    registry: Registry, limits: dict[str, Any]
) -> None:
    mlflow.set_tracking_uri(registry.uri)
    with pytest.raises(MlflowException, match=next(iter(limits))):
        mlflow.pyfunc.load_model("models:/carkp@champion", model_config=limits)


def test_a_broken_model_is_not_the_fault_of_the_request(tiny_models: TinyModels, picture: np.ndarray) -> None:
    working = Predictor.load(tiny_models.int8_onnx)
    model = KeypointModel()
    model.predictor = Predictor(
        lambda images: np.full((len(images), 12, 16, 16), np.nan, np.float32), working.codec, SIZE, "broken", 1
    )
    with pytest.raises(MlflowException, match="NaN or infinite values") as failed:
        model.predict(None, pd.DataFrame([{"image": encoded(picture)}]))  # type: ignore[arg-type]
    assert failed.value.get_http_status_code() == 500


def test_what_cannot_be_served_is_not_registered(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError, match="not a readable ONNX file"):
        register(tmp_path / "text.onnx", "champion", tmp_path / "out", NullTracker())


@pytest.fixture(scope="module")
def server(registry: Registry) -> Iterator[str]:
    """The address of ``mlflow models serve`` on the registered model, in the environment of the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": registry.uri}
    environment["MLFLOW_PYFUNC_INFERENCE_CONFIG"] = json.dumps({"max_boxes": 20})
    with serving(["-m", "models:/carkp@champion", "--env-manager", "local"], environment, registry.folder) as address:
        yield address


@pytest.mark.slow
def test_server_answers_good_and_bad_requests(server: str, tiny_models: TinyModels, picture: np.ndarray) -> None:
    row = {"image": encoded(picture), "boxes": BOXES}
    decoded = jpeg.decode_rgb(jpeg.encode_bgr(picture, 95))
    assert decoded is not None
    expected = {"width": 120, "height": 80, "cars": Predictor.load(tiny_models.int8_onnx)(decoded, BOXES).cars()}
    for body in ({"dataframe_records": [row, row]}, {"inputs": [row, row]}):
        assert post(server, json.dumps(body).encode()) == (200, {"predictions": [expected, expected]})
    for name, (_, message) in BAD_ROWS.items():
        status, answer = post(server, json.dumps({"dataframe_records": [bad_row(name, picture)]}).encode())
        assert (name, status) == (name, 400)
        assert message in answer["message"]
        assert "Traceback" not in json.dumps(answer)
    for body in (b"", b"no json", b"{}", b"[]", b'{"dataframe_records": 5}', b'{"dataframe_records": []}'):
        status, answer = post(server, body)
        assert (body, status) == (body, 400)
        assert "Traceback" not in json.dumps(answer)
    status, answer = post(server, json.dumps({"inputs": [{**row, "boxes": BOXES * 11}]}).encode())
    assert status == 400
    assert answer["message"].startswith("the request asks for 22 boxes, at most 20: send fewer")
    assert post(server, json.dumps({"inputs": [row]}).encode())[0] == 200
