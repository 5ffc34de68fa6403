import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

import carkp
from carkp.data import jpeg
from carkp.data.dataset import normalise
from carkp.data.frames import Box
from carkp.data.geometry import choose_reduction, fit_scale, reduce_image
from carkp.data.rectangles import crop_rectangle
from carkp.data.transforms import EvalTransform
from carkp.deploy.compiled import compile_for_onnxruntime
from carkp.deploy.cpu import cpu_features
from carkp.deploy.int8_onnx import Int8OnnxError, load_program
from carkp.deploy.runtime import OnnxRunner
from carkp.keypoints.codec import codec_for_input, codec_from_json, codec_to_json
from carkp.predictor import BATCH_SIZE, BoxError, HeatmapError, ModelError, Predictor
from carkp.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from carkp.training.evaluate import eval_forward
from carkp.workflow.executions import onnx_forward
from tests.tiny_models import SIZE, TinyModels

KINDS = ("float checkpoint", "float ONNX", "int8 ONNX", "int8 ONNX of batch 1")
NO_LABELS = np.zeros((12, 2), np.float32), np.zeros(12, np.uint8)
SMALL_BOXES = [[30.0, 20.0, 60.0, 40.0], [-10.5, 100.25, 80.0, 50.0], [260.0, 130.0, 70.0, 70.0]]


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    """(200, 320, 3): a smooth picture, so that where it is sampled matters little."""
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.integers(0, 256, (200, 320, 3)).astype(np.uint8), (0, 0), 3)


@pytest.fixture(scope="module")
def predictor(tiny_models: TinyModels) -> Predictor:
    return carkp.Predictor.load(tiny_models.int8_onnx)


def forward_of(kind: str, models: TinyModels):
    if kind == "float checkpoint":
        return eval_forward(models.net, normalise, channels_last=True)
    return onnx_forward(OnnxRunner(models.all[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_evaluation_of_the_same_crops(kind: str, tiny_models: TinyModels, frame: np.ndarray) -> None:
    predictor = Predictor.load(tiny_models.all[kind])
    assert kind.startswith(predictor.kind)
    prediction = predictor(frame, SMALL_BOXES)
    transform, forward = EvalTransform(SIZE), forward_of(kind, tiny_models)
    for box, points, scores in zip(SMALL_BOXES, prediction.points, prediction.scores, strict=True):
        x1, y1, x2, y2 = crop_rectangle(Box(*box), frame.shape[:2])
        crop = frame[y1:y2, x1:x2]
        image = transform(np.ascontiguousarray(crop), *NO_LABELS).image
        decoded = tiny_models.codec.decode(forward(torch.from_numpy(image)[None]))
        expected = decoded.points[0].numpy() / fit_scale(crop.shape[:2], SIZE) + (x1, y1)
        np.testing.assert_allclose(points, expected, atol=1e-3)
        np.testing.assert_allclose(scores, decoded.scores[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("extent", [129, 150, 257, 300, 515, 700])
def test_large_crops_are_reduced_as_the_data_set_decodes_them(predictor: Predictor, extent: int) -> None:
    rng = np.random.default_rng(extent)
    crop = cv2.GaussianBlur(rng.integers(0, 256, (extent, extent // 2 + 1, 3)).astype(np.uint8), (0, 0), 2)
    reduction = choose_reduction(crop.shape[:2], SIZE, 1.0)
    assert reduction > 1
    decoded = jpeg.decode_rgb(jpeg.encode_bgr(cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), 100), reduction)
    assert decoded is not None
    expected = EvalTransform(SIZE)(decoded, *NO_LABELS, crop_size=crop.shape[:2]).image
    boxes = np.array([[0.0, 0.0, crop.shape[1], crop.shape[0]]])
    found = predictor.prepare(crop, boxes).images[0] * 128 + 128
    difference = np.abs(found - expected.astype(np.float32))
    assert difference.mean() < 1.5
    assert (difference.max(axis=(1, 2)) < 16).all()


@pytest.mark.parametrize("shape", [(1, 9, 3), (9, 1, 3), (7, 13, 3), (16, 16, 3)])
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_reduction_keeps_means_and_never_empties(shape: tuple[int, ...], reduction: int) -> None:
    image = np.full(shape, 77, np.uint8)
    reduced = reduce_image(image, reduction)
    assert (reduced == 77).all()
    assert min(reduced.shape) >= 1
    assert reduced.shape[0] in (max(shape[0] // reduction, 1), shape[0])


def test_the_batch_does_not_matter(predictor: Predictor, frame: np.ndarray) -> None:
    together = predictor(frame, SMALL_BOXES)
    for index, box in enumerate(SMALL_BOXES):
        alone = predictor(frame, [box])
        np.testing.assert_array_equal(alone.points[0], together.points[index])
        np.testing.assert_array_equal(alone.scores[0], together.scores[index])


def many_boxes(frame: np.ndarray, count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    extents = rng.uniform(20, 120, (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([frame.shape[1], frame.shape[0]]) - 20)
    return np.concatenate([corners, extents], 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_boxes", [1, 15, 16, 17, 40])
def test_many_cars_go_in_batches_and_get_the_same_keypoints(
    kind: str, num_boxes: int, tiny_models: TinyModels, frame: np.ndarray
) -> None:
    predictor = Predictor.load(tiny_models.all[kind])
    boxes = many_boxes(frame, num_boxes)
    sizes: list[int] = []
    forward = predictor._forward
    predictor._forward = lambda images: sizes.append(len(images)) or forward(images)  # type: ignore[func-returns-value]
    found = predictor(frame, boxes)
    assert max(sizes) <= BATCH_SIZE
    assert sum(sizes) == num_boxes
    inputs = predictor.prepare(frame, boxes)
    points, scores = predictor.locate(forward(inputs.images), inputs)  # all at once, as before
    if "int8" in kind:  # whole numbers add up to the same in any order
        np.testing.assert_array_equal(found.points, points)
        np.testing.assert_array_equal(found.scores, scores)
    else:  # a kernel may add the floats of a larger batch in another order
        np.testing.assert_allclose(found.points, points, atol=1e-3)
        np.testing.assert_allclose(found.scores, scores, atol=1e-5)


def test_a_thousand_cars_need_no_more_memory_than_a_batch(predictor: Predictor, frame: np.ndarray) -> None:
    counts: list[int] = []
    predictor = Predictor(
        lambda images: counts.append(images.nbytes) or np.zeros((len(images), 12, 16, 16), np.float32),  # type: ignore[func-returns-value]
        predictor.codec,
        predictor.input_size,
        "counted",
        1,
        batch_size=8,
    )
    assert len(predictor(frame, many_boxes(frame, 1000))) == 1000
    assert max(counts) == 8 * 3 * SIZE[0] * SIZE[1] * 4
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        Predictor(predictor.heatmaps, predictor.codec, predictor.input_size, "none", 1, batch_size=0)


def test_a_model_of_nan_gives_no_keypoints(predictor: Predictor, frame: np.ndarray) -> None:
    for value in (np.nan, np.inf):
        broken = Predictor(
            lambda images, value=value: np.full((len(images), 12, 16, 16), value, np.float32),
            predictor.codec,
            predictor.input_size,
            "broken",
            1,
        )
        with pytest.raises(HeatmapError, match=r"NaN or infinite values"):
            broken(frame, SMALL_BOXES)


def test_without_boxes_the_whole_picture_is_one_car(predictor: Predictor, frame: np.ndarray) -> None:
    prediction = predictor(frame)
    assert prediction.boxes.tolist() == [[0, 0, 320, 200]]
    np.testing.assert_array_equal(prediction.points, predictor(frame, [[0, 0, 320, 200]]).points)


def test_no_boxes_no_cars(predictor: Predictor, frame: np.ndarray) -> None:
    prediction = predictor(frame, [])
    assert (prediction.points.shape, prediction.scores.shape, prediction.boxes.shape) == ((0, 12, 2), (0, 12), (0, 4))
    assert prediction.cars() == []


def test_views_of_a_frame_give_what_copies_give(predictor: Predictor, frame: np.ndarray) -> None:
    bgr = np.ascontiguousarray(frame[..., ::-1])
    expected = predictor(frame, SMALL_BOXES)
    before = bgr.copy()
    np.testing.assert_array_equal(predictor(bgr[..., ::-1], SMALL_BOXES).points, expected.points)
    np.testing.assert_array_equal(bgr, before)


def test_result_types(predictor: Predictor, frame: np.ndarray) -> None:
    prediction = predictor(frame, np.array(SMALL_BOXES, np.float32))
    assert prediction.points.dtype == prediction.scores.dtype == np.float32
    assert prediction.boxes.dtype == np.float64
    assert len(prediction) == 3
    car = prediction.cars()[1]
    assert car["box"] == SMALL_BOXES[1]
    assert np.shape(car["points"]) == (12, 2)
    assert np.shape(car["scores"]) == (12,)


def test_thread_settings_are_put_back(tiny_models: TinyModels, frame: np.ndarray) -> None:
    previous = cv2.getNumThreads(), torch.get_num_threads()
    try:
        cv2.setNumThreads(3)
        torch.set_num_threads(2)
        Predictor.load(tiny_models.checkpoint, num_threads=1)(frame, SMALL_BOXES)
        with pytest.raises(BoxError):
            Predictor.load(tiny_models.checkpoint)(frame, [[0, 0, 0, 0]])
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (3, 2)
    finally:
        cv2.setNumThreads(previous[0])
        torch.set_num_threads(previous[1])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([np.nan, 0, 5, 5], "finite"),
        ([0, 0, np.inf, 5], "finite"),
        ([0, 0, -5, 5], "positive"),
        ([0, 0, 5, 0], "positive"),
        ([320, 0, 5, 5], "is outside the image of 320x200"),
        ([0, 200, 5, 5], "is outside the image"),
        ([-50, 10, 50, 20], "is outside the image"),
        ([10, -30, 10, 30], "is outside the image"),
        ([10, 10, 0.5, 30], "less than 2 pixels"),
        ([0.1, 0.2, 0.5, 0.6], "relative to the image's size: give pixels"),
        ([319.5, 10, 20, 20], None),
        ([-1e300, 10, 1e308, 20], None),
    ],
)
def test_bad_boxes_are_named(predictor: Predictor, frame: np.ndarray, box: list[float], message: str | None) -> None:
    boxes = [SMALL_BOXES[0], box]
    if message is None:
        assert np.isfinite(predictor(frame, boxes).points).all()
        return
    with pytest.raises(BoxError, match=rf"^box 1 \[.*{message}"):
        predictor(frame, boxes)


@pytest.mark.parametrize(
    "boxes", [[1, 2, 3, 4], [[1, 2, 3]], [[1, 2, 3, 4], [1, 2]], "box", [["1", "2", "3", "4"]], 5, {}]
)
def test_boxes_of_other_shapes_are_refused(predictor: Predictor, frame: np.ndarray, boxes: object) -> None:
    with pytest.raises(BoxError, match="boxes must be"):
        predictor(frame, boxes)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32), "a.jpg", None],
)
def test_other_images_are_refused(predictor: Predictor, image: object) -> None:
    with pytest.raises(ValueError, match="expected an RGB image"):
        predictor(image, SMALL_BOXES)


def test_an_empty_image_is_refused(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="too small"):
        predictor(np.zeros((0, 8, 3), np.uint8))


@pytest.mark.parametrize("name", ["artifacts/model.onnx", "model.onnx"])
def test_opens_folders_of_models(tiny_models: TinyModels, tmp_path: Path, frame: np.ndarray, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(tiny_models.int8_onnx.read_bytes())
    expected = Predictor.load(tiny_models.int8_onnx)(frame, SMALL_BOXES).points
    np.testing.assert_array_equal(Predictor.load(tmp_path)(frame, SMALL_BOXES).points, expected)


def test_missing_and_foreign_files_are_named(tiny_models: TinyModels, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such model file"):
        Predictor.load(tmp_path / "none.onnx")
    with pytest.raises(FileNotFoundError, match=r"holds none of artifacts/model\.onnx"):
        Predictor.load(tmp_path)
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError, match="not a readable ONNX file"):
        Predictor.load(tmp_path / "text.onnx")
    (tmp_path / "cut.pt").write_bytes(tiny_models.checkpoint.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        Predictor.load(tmp_path / "cut.pt")


def test_a_file_without_a_codec_needs_one(tiny_models: TinyModels, tmp_path: Path, frame: np.ndarray) -> None:
    model = onnx.load(str(tiny_models.float_onnx))
    del model.metadata_props[:]
    path = tmp_path / "old.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ModelError, match="no codec in its metadata"):
        Predictor.load(path)
    given = Predictor.load(path, codec=tiny_models.codec)(frame, SMALL_BOXES)
    np.testing.assert_array_equal(given.points, Predictor.load(tiny_models.float_onnx)(frame, SMALL_BOXES).points)
    with pytest.raises(ModelError, match="the codec is for inputs of"):
        Predictor.load(path, codec=codec_for_input((128, 128), 1.0, "dark", "auto", 0.1))
    onnx.helper.set_model_props(model, {"codec": "{}"})
    onnx.save(model, str(path))
    with pytest.raises(ModelError, match="cannot be read"):
        Predictor.load(path)


def test_a_compiled_file_is_int8_with_its_codec(tiny_models: TinyModels, tmp_path: Path, frame: np.ndarray) -> None:
    path = tmp_path / "compiled.onnx"
    compile_for_onnxruntime(tiny_models.int8_onnx, path, cpu_features())
    compiled, source = Predictor.load(path), Predictor.load(tiny_models.int8_onnx)
    assert (compiled.kind, compiled.codec) == ("int8 ONNX", tiny_models.codec)
    np.testing.assert_array_equal(compiled(frame, SMALL_BOXES).points, source(frame, SMALL_BOXES).points)
    np.testing.assert_array_equal(compiled(frame, SMALL_BOXES).scores, source(frame, SMALL_BOXES).scores)
    with pytest.raises(Int8OnnxError, match=r"no longer contains its program; give the export .* int8\.onnx"):
        load_program(path)


def foreign_onnx(path: Path, num_maps: int, size: int, notes: dict[str, str]) -> Path:
    """A network that carkp did not write: one convolution, as other pose networks look from outside."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.3, (num_maps, 3, 4, 4)).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["image", "w"], ["heatmaps"], kernel_shape=[4, 4], strides=[4, 4])
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "foreign",
        [onnx.helper.make_tensor_value_info("image", kind, ["batch", 3, size, size])],
        [onnx.helper.make_tensor_value_info("heatmaps", kind, ["batch", num_maps, size // 4, size // 4])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.helper.set_model_props(model, notes)
    onnx.save(model, str(path))
    return path


def test_networks_of_others_are_refused_when_opened(tiny_models: TinyModels, tmp_path: Path) -> None:
    codec = codec_to_json(tiny_models.codec)
    with pytest.raises(ModelError, match=r"not from carkp\).*or give Predictor\.load the codec"):
        Predictor.load(foreign_onnx(tmp_path / "a.onnx", 12, 64, {"names": "{0: 'person'}"}))
    with pytest.raises(ModelError, match="codec in its metadata cannot be read"):
        Predictor.load(foreign_onnx(tmp_path / "b.onnx", 12, 64, {"codec": "simcc"}))
    with pytest.raises(ModelError, match=r"heatmaps of shape \(17, 16, 16\).*expects \(12, 16, 16\)"):
        Predictor.load(foreign_onnx(tmp_path / "c.onnx", 17, 64, {"codec": codec}))
    with pytest.raises(ModelError, match="the codec is for inputs of"):
        Predictor.load(foreign_onnx(tmp_path / "d.onnx", 12, 256, {"codec": codec}))
    given = Predictor.load(foreign_onnx(tmp_path / "e.onnx", 12, 64, {}), codec=tiny_models.codec)
    assert given.kind == "ONNX of unknown origin"


def test_a_checkpoint_without_heatmap_settings_needs_a_codec(tiny_models: TinyModels, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.checkpoint)
    checkpoint.config.pop("heatmap")
    save_checkpoint(checkpoint, tmp_path / "old.pt")
    with pytest.raises(ModelError, match="has no codec"):
        Predictor.load(tmp_path / "old.pt")
    assert Predictor.load(tmp_path / "old.pt", codec=tiny_models.codec).codec == tiny_models.codec


def test_a_calibrated_checkpoint_is_refused(tiny_models: TinyModels, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models.checkpoint)
    checkpoint.architecture["fake_quant"] = {}
    save_checkpoint(checkpoint, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="run export on it"):
        Predictor.load(tmp_path / "model.pt")


def test_codec_survives_json() -> None:
    for decoder in ("averaged", "dark"):
        codec = codec_for_input((64, 96), 1.5, decoder, "auto", 0.25)
        assert codec_from_json(codec_to_json(codec)) == codec
    for text in ("", "[]", '{"sigma": 1}', codec_to_json(codec).replace("dark", "other")):
        with pytest.raises(ValueError, match=r"codec|Expecting value"):
            codec_from_json(text)


def test_the_decoder_of_the_model_is_used(tiny_models: TinyModels, frame: np.ndarray) -> None:
    dark = codec_for_input(SIZE, 1.0, "dark", "auto", 0.1)
    found = Predictor.load(tiny_models.int8_onnx, codec=dark)(frame, SMALL_BOXES).points
    assert not np.array_equal(found, Predictor.load(tiny_models.int8_onnx)(frame, SMALL_BOXES).points)


def test_importing_carkp_stays_cheap() -> None:
    script = "import sys, carkp; assert not {'torch', 'cv2', 'onnxruntime'} & set(sys.modules); carkp.Predictor"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="nothing"):
        carkp.nothing  # noqa: B018
