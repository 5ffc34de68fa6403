"""Inference on files as a user runs it, on the tiny configuration."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from carkp.config.loading import ConfigError
from carkp.data import jpeg
from carkp.data.boxes import read_boxes
from carkp.data.issues import DataError
from carkp.data.pictures import Video
from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.predictor import Predictor
from carkp.stages.export import parse_alias
from tests.stages.conftest import Outcome, Project
from tests.tiny_models import TinyModels

SIZE = (90, 160)
BOX = [20, 10, 80, 50]


def picture(seed: int) -> np.ndarray:
    """(90, 160, 3) BGR."""
    image = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    return cv2.GaussianBlur(image, (0, 0), 3)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three good pictures and a cut one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index, name in enumerate(("a.jpg", "b.png", "c.jpg")):
        cv2.imwrite(str(folder / name), picture(index))
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:1500])
    (folder / "notes.txt").write_text("no picture")
    return folder


def infer(project: Project, models: TinyModels, out: Path, image: Path, *more: str, **named: str) -> Outcome:
    options = {"model": str(models.int8_onnx), "image": str(image), "output": str(out), **named}
    return project.stage("infer", "--no-track", *(f"--{name}={value}" for name, value in options.items()), *more)


def found_in(out: Path) -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads((out / "keypoints.json").read_text())
    assert content["keypoints"] == list(KEYPOINT_NAMES)
    return content


def test_a_folder_goes_on_after_a_bad_picture(
    trained: Project, tiny_models: TinyModels, images: Path, tmp_path: Path
) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a.jpg": [BOX, [500, 0, 9, 9]], "b": [BOX, BOX], "c.jpg": []}))
    out = tmp_path / "out"
    done = infer(trained, tiny_models, out, images, boxes=str(boxes))
    assert done.returncode == 1
    assert "3 images failed" in done.stderr
    assert "a.jpg: box 1 [500.0, 0.0, 9.0, 9.0]: is outside the image of 160x90 pixels" in done.stderr
    assert "its list of boxes is empty" in done.stderr
    assert "cut.jpg: image file is cut short" in done.stderr
    assert "Traceback" not in done.stderr
    content = found_in(out)
    assert set(content["errors"]) == {"a.jpg", "c.jpg", "cut.jpg"}
    (name, record), *others = content["images"].items()
    assert (name, others) == ("b.png", [])
    assert (record["width"], record["height"], len(record["cars"])) == (160, 90, 2)
    image = jpeg.decode_rgb((images / "b.png").read_bytes())
    assert image is not None
    assert record["cars"] == Predictor.load(tiny_models.int8_onnx)(image, [BOX, BOX]).cars()
    assert content["model_kind"] == "int8 ONNX"
    assert {path.name for path in out.iterdir()} == {"b.jpg", "keypoints.json"}
    drawn = cv2.imread(str(out / "b.jpg"))
    assert drawn is not None
    assert drawn.shape == (*SIZE, 3)
    assert np.abs(drawn.astype(int) - picture(1)).max() > 60


@pytest.mark.parametrize("kind", ["float checkpoint", "float ONNX", "int8 ONNX"])
def test_one_picture_without_boxes_is_one_car(
    trained: Project, tiny_models: TinyModels, images: Path, tmp_path: Path, kind: str
) -> None:
    done = infer(trained, tiny_models, tmp_path / "out", images / "a.jpg", model=str(tiny_models.all[kind]))
    assert done.returncode == 0, done.stderr
    assert "each whole picture used as one car" in done.stdout
    content = found_in(tmp_path / "out")
    assert content["images"]["a.jpg"]["cars"][0]["box"] == [0, 0, 160, 90]
    assert content["model_kind"] == kind
    assert (tmp_path / "out" / "a.jpg").is_file()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("boxes.json", "[[20, 10, 80, 50]]"),
        ("boxes.csv", "image,x,y,w,h,category\na.jpg,20,10,80,50,car\n"),
        ("boxes.txt", "[20 10 80 50],car\n\n"),
        ("other.txt", "[20, 10, 50, 80],car\n"),
        ("folder/a.txt", "[20 10 80 50],car\n"),
        ("labels/a.txt", "0 0.5 0.5 1 1\n2 0.375 0.38888888889 0.5 0.55555555556 0.9\n"),
        ("label_2/a.txt", f"DontCare -1 -1 -10 1 1 9 9 {'-1 ' * 7}\nCar 0 0 0 20 10 99 59 {'1 ' * 7}\n"),
        ("results.json", '[{"image_id": "a", "category_id": 3, "bbox": [20, 10, 80, 50], "score": 0.3}]'),
        (
            "Annotations/a.xml",
            "<annotation><object><name>car</name><bndbox><xmin>21</xmin><ymin>11</ymin><xmax>100</xmax><ymax>60</ymax>"
            "</bndbox></object></annotation>",
        ),
    ],
)
def test_every_form_of_boxes(
    trained: Project, tiny_models: TinyModels, images: Path, tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    boxes = path.parent if "/" in name else path
    done = infer(trained, tiny_models, tmp_path / "out", images / "a.jpg", boxes=str(boxes))
    assert done.returncode == 0, done.stderr
    assert [car["box"] for car in found_in(tmp_path / "out")["images"]["a.jpg"]["cars"]] == [BOX]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("boxes.json", "{", "not JSON"),
        ("boxes.json", "5", "expected an object of image names"),
        ("boxes.csv", "name,x,y,w,h\n", "the header lacks image"),
        ("boxes.csv", "", "the header lacks image, x"),
        ("boxes.txt", "[1 2 3],car", "boxes.txt:1: expected"),
        ("boxes.xml", "", "not XML"),
        ("boxes.pkl", "", "give boxes as"),
    ],
)
def test_malformed_boxes_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_boxes(tmp_path / name)


def test_a_bad_line_costs_its_own_picture_alone(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("image,x,y,w,h\na.jpg,1,2,3,4\nb.jpg,1,2,x,4\nb.jpg,1,2,3,4\nc.jpg,1,2\n")
    book = read_boxes(tmp_path / "boxes.csv")
    assert book.find("a.jpg") == [[1, 2, 3, 4]]
    for name, line in (("b.jpg", 3), ("c.jpg", 5)):
        with pytest.raises(DataError, match=rf"boxes\.csv:{line}: x, y, w, h must be numbers"):
            book.find(name)
    with pytest.raises(DataError, match="has no boxes for it"):
        book.find("d.jpg")


def test_a_video_keeps_its_frames(trained: Project, tiny_models: TinyModels, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, SIZE[::-1])
    for index in range(5):
        writer.write(picture(index))
    writer.release()
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"clip.mp4": [BOX], "clip.mp4#000003": [[0, 0, -1, 5]]}))
    done = infer(trained, tiny_models, tmp_path / "out", path, boxes=str(boxes))
    assert done.returncode == 1
    assert "clip.mp4#000003: box 0 [0.0, 0.0, -1.0, 5.0]: width and height must be positive" in done.stderr
    content = found_in(tmp_path / "out")
    assert list(content["images"]) == [f"clip.mp4#{index:06d}" for index in (0, 1, 2, 4)]
    with Video(tmp_path / "out" / "clip.mp4") as video:
        assert video.fps == 10
        assert [frame.shape for frame in video] == [(*SIZE, 3)] * 5


def test_a_broken_video_is_named(trained: Project, tiny_models: TinyModels, images: Path, tmp_path: Path) -> None:
    (images / "clip.mp4").write_bytes(b"no video")
    (images / "cut.jpg").unlink()
    done = infer(trained, tiny_models, tmp_path / "out", images)
    assert done.returncode == 1
    assert "clip.mp4: video cannot be read" in done.stderr
    assert set(found_in(tmp_path / "out")["images"]) == {"a.jpg", "b.png", "c.jpg"}


def test_wrong_parameters_are_named(trained: Project, tiny_models: TinyModels, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unnamed = tmp_path / "boxes.json"
    unnamed.write_text("[[1, 2, 3, 4]]")
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    cases: list[tuple[dict[str, str], str]] = [
        ({"image": ""}, "image: give a path"),
        ({"image": str(tmp_path / "none")}, "no such picture, video or folder"),
        ({"image": str(tmp_path)}, "no pictures or videos in it"),
        ({"output": str(images)}, "would be overwritten"),
        ({"boxes": str(tmp_path / "none.json")}, "no such file of boxes"),
        ({"boxes": str(unnamed)}, "its boxes name no picture, and 4 pictures are given"),
        ({"model": str(tmp_path / "none.onnx")}, "no such model file"),
        ({"model": str(text)}, "not a readable ONNX file"),
        ({"model": "models:/nothing@champion"}, "no such artifact"),
        ({"orientation": "on"}, "orientation=on: expected one of ignore, apply"),
        ({"boxes": "$NOT_SET_HERE/boxes.json"}, "the environment variable NOT_SET_HERE is not set"),
    ]
    for changes, message in cases:
        named = {"image": str(images), **changes}
        done = infer(trained, tiny_models, Path(named.pop("output", str(out))), Path(named.pop("image")), **named)
        if changes == {"image": ""}:
            done = trained.stage("infer", "--no-track", "--image=")
        assert done.returncode == 1, changes
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not out.exists()


def test_aliases_are_checked_first() -> None:
    assert [parse_alias(name) for name in ("", "champion", "a-b_2")] == ["", "champion", "a-b_2"]
    for name in ("latest", "v3", "a b", "3"):
        with pytest.raises(ConfigError, match="alias="):
            parse_alias(name)


def test_paths_of_a_home_and_of_variables(
    trained: Project, tiny_models: TinyModels, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS", str(tiny_models.int8_onnx.parent))
    (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": [BOX]}))
    done = infer(
        trained,
        tiny_models,
        Path("~/out"),
        Path("~/images/a.jpg"),
        boxes="${HOME}/boxes.json",
        model=f"$MODELS/{tiny_models.int8_onnx.name}",
    )
    assert done.returncode == 0, done.stderr
    assert set(found_in(tmp_path / "out")["images"]) == {"a.jpg"}


@pytest.fixture(scope="module")
def champion(trained: Project) -> Project:
    """A project whose export is registered."""
    done = trained.stage("calibration", "--target", "onnxruntime_cpu", "--set", "quant.sweep=[]")
    assert done.returncode == 0, done.stderr
    done = trained.stage("export", "--target", "onnxruntime_cpu", "--alias", "champion")
    assert done.returncode == 0, done.stderr
    assert "registered as models:/carkp@champion, version 1" in done.stdout
    return trained


def test_tracked_run_holds_pictures_and_json_of_every_model(
    champion: Project, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export, training = champion.runs("export")[0].info.run_id, champion.runs("float")[-1].info.run_id
    expected: dict[str, str] = {
        "latest": "int8 ONNX",
        f"runs:/{export}": "int8 ONNX",
        "models:/carkp@champion": "int8 ONNX",
        f"runs:/{training}": "float checkpoint",
        f"runs:/{training}/onnx/float.onnx": "float ONNX",
    }
    points = {}
    for reference, kind in expected.items():
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        words = ("--image", str(images / "a.jpg"), "--model", reference, "--output", str(out))
        done = champion.stage("infer", *words, "--set", "quant.target=onnxruntime_cpu")
        assert done.returncode == 0, done.stderr
        content = found_in(out)
        assert content["model_kind"] == kind
        assert content["model"].startswith(f"runs:/{export}/onnx/" if reference == "latest" else reference)
        points[reference] = content["images"]["a.jpg"]["cars"][0]["points"]
        run = champion.runs("infer")[0]
        assert run.info.status == "FINISHED"
        assert champion.artifacts(run, "infer") == {"infer/a.jpg", "infer/keypoints.json"}
        assert run.data.metrics["infer/num_cars"] == 1
    assert points["latest"] == points[f"runs:/{export}"] == points["models:/carkp@champion"]
    np.testing.assert_allclose(points[f"runs:/{training}"], points[f"runs:/{training}/onnx/float.onnx"], atol=0.1)


def test_a_failed_picture_fails_the_run_which_keeps_the_others(champion: Project, images: Path, tmp_path: Path) -> None:
    done = champion.stage("infer", "--image", str(images), "--output", str(tmp_path / "out"), "--model=latest")
    assert done.returncode == 1
    run = champion.runs("infer")[0]
    assert run.info.status == "FAILED"
    assert "cut.jpg" in run.data.tags["carkp.error"]
    assert champion.artifacts(run, "infer") == {
        f"infer/{name}" for name in ("a.jpg", "b.jpg", "c.jpg", "keypoints.json")
    }


def test_a_run_of_another_stage_has_no_model(champion: Project, images: Path, tmp_path: Path) -> None:
    run_id = champion.runs("calibration")[0].info.run_id
    done = champion.stage("infer", "--image", str(images), "--output", str(tmp_path / "o"), f"--model=runs:/{run_id}")
    assert done.returncode == 1
    assert "a run of calibration; give one of export, compile, float" in done.stderr


def test_registered_model_answers(champion: Project) -> None:
    mlflow.set_tracking_uri(champion.uri)
    version = MlflowClient(champion.uri).get_model_version_by_alias("carkp", "champion")
    assert version.run_id == champion.runs("export")[0].info.run_id
    model = mlflow.pyfunc.load_model("models:/carkp@champion")
    (found,) = model.predict(model.input_example)
    assert len(found["cars"]) == 1
