"""The server of the page: what it answers to good requests, and the one sentence that it has for each bad one."""

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from starlette.testclient import TestClient

from carkp.data.boxes import read_boxes
from carkp.data.issues import DataError
from carkp.data.video import Video
from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.predictor import Predictor
from carkp.view.limits import MIB
from carkp.view.models import ViewedModel, labels
from carkp.view.server import create_app
from carkp.workflow.inference import InferInputs, InferResult, infer_all, write_json
from tests.tiny_models import TinyModels
from tests.view.conftest import HEIGHT, LIMITS, NUM_FRAMES, WIDTH, encoded, scene, video

BOXES = [[40, 50, 120, 90], [180.5, 100, 100, 80]]


def send(client: TestClient, data: bytes, name: str = "photo.png", orientation: str = "apply") -> dict[str, Any]:
    answer = client.post("/api/sources", params={"name": name, "orientation": orientation}, content=data)
    assert answer.status_code == 200, answer.text
    return answer.json()


def predict(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post("/api/predict", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def sentence(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert list(content) == ["error"]
    assert "\n" not in content["error"]
    return content["error"]


@pytest.mark.parametrize("path", ["/", "/view.css", "/view.js"])
def test_the_page_needs_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_the_page_knows_models_and_keypoints(client: TestClient) -> None:
    state = client.get("/api/state").json()
    assert [model["label"] for model in state["models"]] == ["int8", "float"]
    assert state["keypoints"] == list(KEYPOINT_NAMES)


def test_boxes_of_a_picture_give_what_the_predictor_gives(client: TestClient, tiny_models: TinyModels) -> None:
    source = send(client, encoded(scene()))
    assert (source["kind"], source["width"], source["height"]) == ("picture", WIDTH, HEIGHT)
    found = predict(client, key=source["key"], frame=0, boxes=BOXES)
    assert not found["is_whole"]
    expected = [Predictor.load(path)(scene(), BOXES) for path in (tiny_models.int8_onnx, tiny_models.checkpoint)]
    for result, prediction in zip(found["results"], expected, strict=True):
        assert result["document"]["images"]["photo.png"]["cars"] == prediction.cars()
    moved = np.linalg.norm(expected[1].points - expected[0].points, axis=-1)
    np.testing.assert_allclose(found["moved_px"], moved, atol=1e-3)


@pytest.mark.parametrize("boxes", [None, []])
def test_without_a_box_the_whole_picture_is_one_car(client: TestClient, boxes: list[Any] | None) -> None:
    found = predict(client, key=send(client, encoded(scene()))["key"], boxes=boxes)
    assert found["is_whole"]
    (car,) = found["results"][0]["document"]["images"]["photo.png"]["cars"]
    assert car["box"] == [0, 0, WIDTH, HEIGHT]


def test_the_result_is_of_the_form_that_infer_writes(
    client: TestClient, tiny_models: TinyModels, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(encoded(scene()))
    (tmp_path / "boxes.json").write_text(json.dumps(BOXES))
    predictor = Predictor.load(tiny_models.int8_onnx)
    inputs = InferInputs([tmp_path / "photo.png"], read_boxes(tmp_path / "boxes.json"), predictor, "tiny int8", "apply")
    result = InferResult()
    infer_all(inputs, tmp_path / "out", result)
    written = json.loads(write_json(inputs, result, tmp_path / "keypoints.json").read_text())
    found = predict(client, key=send(client, encoded(scene()))["key"], boxes=BOXES)
    document = found["results"][0]["document"]
    assert document.pop("boxes") == "drawn or imported in carkp view"
    assert written.pop("boxes").endswith("boxes.json")
    assert document == written


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("boxes.csv", "image,x,y,w,h\nphoto.png,40,50,120,90\nphoto.png,180.5,100,100,80\nother.png,1,1,9,9\n"),
        ("boxes.json", json.dumps({"photo.png": BOXES, "other.png": [[1, 1, 9, 9]]})),
        ("boxes.json", json.dumps(BOXES)),
        ("boxes.txt", "[40 50 120 90],car1\n[180.5 100 100 80],car2\n"),
    ],
)
def test_boxes_are_read_as_infer_reads_them(client: TestClient, name: str, text: str) -> None:
    key = send(client, encoded(scene()))["key"]
    answer = client.post(f"/api/sources/{key}/boxes", params={"name": name}, content=text.encode())
    assert answer.json() == {"boxes": BOXES}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("boxes.csv", "image,x,y,w,h\nother.png,1,1,9,9\n", "boxes.csv has no boxes for it"),
        ("boxes.csv", "image,x,y\n", "boxes.csv:1: the header lacks w, h"),
        ("boxes.json", "[[1, 2", "boxes.json: not JSON"),
        ("boxes.json", "[[900, 900, 10, 10]]", "is outside the image of 320x240 pixels"),
        ("boxes.xlsx", "", "give boxes as .json, .csv"),
    ],
)
def test_bad_boxes_are_told(client: TestClient, name: str, text: str, expected: str) -> None:
    key = send(client, encoded(scene()))["key"]
    answer = client.post(f"/api/sources/{key}/boxes", params={"name": name}, content=text.encode())
    assert expected in sentence(answer, 400)


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", "The file is empty."), (b"no picture at all", "image cannot be decoded"), (b"<html>", "a web page")],
)
def test_what_is_no_picture_is_told(client: TestClient, data: bytes, expected: str) -> None:
    assert expected in sentence(client.post("/api/sources", params={"name": "a.jpg"}, content=data), 400)


def test_a_picture_that_is_cut_short_is_told(client: TestClient) -> None:
    data = encoded(scene(), ".jpg")
    assert "cut short" in sentence(client.post("/api/sources", params={"name": "a.jpg"}, content=data[:-200]), 400)


@pytest.mark.parametrize(("name", "mib"), [("a.png", LIMITS.picture_mib), ("a.mp4", LIMITS.video_mib)])
@pytest.mark.parametrize("is_length_stated", [True, False])
def test_what_is_too_long_is_refused(
    client: TestClient, temporary: Path, name: str, mib: float, is_length_stated: bool
) -> None:
    data = b"\0" * (int(mib * MIB) + 1)
    content = data if is_length_stated else iter([data[:1000], data[1000:]])
    answer = client.post("/api/sources", params={"name": name}, content=content)
    assert pytest.approx(mib) == float(sentence(answer, 413).partition("larger than ")[2].partition(" ")[0])
    assert list(temporary.rglob("*.mp4")) == []


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(client: TestClient) -> None:
    data = encoded(np.zeros((1000, 1000, 3), np.uint8))
    answer = client.post("/api/sources", params={"name": "a.png"}, content=data)
    assert "1000x1000 pixels, at most 0.4 million" in sentence(answer, 413)


def test_too_many_boxes_and_bad_ones_are_refused(client: TestClient) -> None:
    key = send(client, encoded(scene()))["key"]
    many = [[10, 10, 50, 50]] * (LIMITS.boxes + 1)
    assert "at most 4" in sentence(client.post("/api/predict", json={"key": key, "boxes": many}), 413)
    for boxes, expected in (([[10, 10, -5, 5]], "must be positive"), ("all", "boxes"), ([[1, 2, 3]], "boxes")):
        assert expected in sentence(client.post("/api/predict", json={"key": key, "boxes": boxes}), 400)


def test_bad_requests_are_told(client: TestClient) -> None:
    assert "not JSON" in sentence(client.post("/api/predict", content=b"{"), 400)
    assert "JSON object" in sentence(client.post("/api/predict", content=b"[]"), 400)
    assert "open it again" in sentence(client.post("/api/predict", json={"key": "none"}), 404)
    key = send(client, encoded(scene()))["key"]
    assert "whole number" in sentence(client.get(f"/api/sources/{key}/picture", params={"frame": "-1"}), 400)
    assert "orientation=up" in sentence(client.post("/api/sources?orientation=up", content=encoded(scene())), 400)
    assert "/no/such" in sentence(client.get("/no/such"), 404)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_a_foreign_host_is_refused(client: TestClient, host: str) -> None:
    for path in ("/", "/api/state", "/view.js"):
        assert "only" in sentence(client.get(path, headers={"Host": host}), 403)


def test_a_foreign_page_is_refused(client: TestClient) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9999"):
        answer = client.post("/api/sources", content=encoded(scene()), headers={"Origin": origin})
        assert "only" in sentence(answer, 403)
    own = {"Origin": "http://localhost:8765", "Host": "localhost:8765"}
    assert client.post("/api/sources", content=encoded(scene()), headers=own).status_code == 200


def test_a_video_gives_its_frames_and_leaves_no_file(
    models: list[ViewedModel], tmp_path: Path, temporary: Path
) -> None:
    data = video(tmp_path / "clip.mp4").read_bytes()
    with TestClient(create_app(models), base_url="http://localhost:8765") as client:
        source = send(client, data, "clip.mp4")
        assert (source["kind"], source["num_frames"], source["fps"]) == ("video", NUM_FRAMES, 10.0)
        assert len(list(temporary.rglob("*.mp4"))) == 1
        for frame in (7, 2, 3, NUM_FRAMES - 1, 0):
            shown = client.get(f"/api/sources/{source['key']}/picture", params={"frame": frame}).content
            pixels = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_COLOR)
            assert abs(int(pixels[40, 40, 2]) - 20 * frame) < 9
        found = predict(client, key=source["key"], frame=7, boxes=BOXES)
        assert found["image"] == "clip.mp4#000007"
        assert list(found["results"][0]["document"]["images"]) == ["clip.mp4#000007"]
        answer = client.get(f"/api/sources/{source['key']}/picture", params={"frame": 500})
        assert "frame 500" in sentence(answer, 400)
        client.delete(f"/api/sources/{source['key']}")
        assert list(temporary.rglob("*.mp4")) == []
        send(client, data, "clip.mp4")
    assert list(temporary.iterdir()) == []


def test_what_only_looks_like_a_video_leaves_no_file(client: TestClient, temporary: Path) -> None:
    answer = client.post("/api/sources", params={"name": "a.mp4"}, content=b"\0\0\0\x18ftypisom" + b"\0" * 100)
    assert "video cannot be decoded" in sentence(answer, 400)
    assert list(temporary.rglob("*.mp4")) == []


def test_the_oldest_picture_is_given_up(client: TestClient) -> None:
    keys = [send(client, encoded(scene(index)))["key"] for index in range(LIMITS.sources + 1)]
    assert client.get(f"/api/sources/{keys[0]}/picture").status_code == 404
    assert client.get(f"/api/sources/{keys[-1]}/picture").status_code == 200


def test_a_picture_is_shown_upright_unless_asked_otherwise(client: TestClient) -> None:
    stream, exif = io.BytesIO(), PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(scene()).save(stream, "JPEG", exif=exif)
    upright = send(client, stream.getvalue(), "a.jpg")
    assert upright["is_turned"]
    assert (upright["width"], upright["height"]) == (HEIGHT, WIDTH)
    stored = send(client, stream.getvalue(), "a.jpg", "ignore")
    assert (stored["width"], stored["height"]) == (WIDTH, HEIGHT)


def test_one_model_moves_nothing(models: list[ViewedModel]) -> None:
    with TestClient(create_app(models[:1], "No torch."), base_url="http://localhost") as client:
        assert client.get("/api/state").json()["note"] == "No torch."
        found = predict(client, key=send(client, encoded(scene()))["key"])
        assert found["moved_px"] is None
        assert len(found["results"]) == 1
    assert labels([models[0], models[0]]) == ["int8 1", "int8 2"]


def test_frames_are_found_in_any_order(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4")
    with Video(path) as read:
        expected = list(read)
    with Video(path) as sought:
        assert sought.count_frames() == NUM_FRAMES
        for index in (5, 6, 1, 11, 0):
            np.testing.assert_array_equal(sought.frame(index), expected[index])
        for index in (-1, NUM_FRAMES):
            with pytest.raises(DataError, match=f"frame {index}"):
                sought.frame(index)
