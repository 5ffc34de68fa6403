"""A pixel's centre has whole coordinates: from a frame's label to the predicted point, nothing is off by a half.

A dot is drawn where a keypoint is, and is measured in the pixels of every picture on the way: the mean of the pixels'
columns and rows, weighted by how bright they are. ``tests/synthetic/test_frame.py`` does the same for generated frames.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from carkp.data import jpeg
from carkp.data.carfusion import list_frames
from carkp.data.crops import write_crops
from carkp.data.geometry import choose_reduction
from carkp.data.issues import Issues
from carkp.data.transforms import EvalTransform, TrainTransform
from carkp.keypoints.codec import codec_for_input
from carkp.keypoints.schema import FLIP_ORDER, VISIBLE
from carkp.predictor import Predictor

SIZE = (128, 128)


def measured(picture: np.ndarray) -> np.ndarray:
    """(x, y) of the dot in ``picture`` (H, W): each pixel counts by its brightness, at its column and row."""
    rows, columns = np.indices(picture.shape)
    weights = picture.astype(np.float64)
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


def dotted(size: tuple[int, int], place: np.ndarray, sigma: float, level: int = 250) -> np.ndarray:
    """(H, W, 3) uint8, black with a soft white dot at ``place`` (x, y)."""
    rows, columns = np.indices(size)
    light = level * np.exp(-((columns - place[0]) ** 2 + (rows - place[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(light).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("place", [(60.0, 50.0), (61.3, 48.6), (80.75, 62.25)])
def test_a_crop_keeps_the_dot_on_its_label(place: tuple[float, float], tmp_path: Path) -> None:
    scene = tmp_path / "raw/train/car_a"
    for name in ("images_jpg", "gt", "bb"):
        (scene / name).mkdir(parents=True)
    cv2.imwrite(str(scene / "images_jpg/1_1.jpg"), dotted((120, 160), np.array(place), 3.0))
    (scene / "gt/1_1.txt").write_text(f"{place[0]},{place[1]},1,0,1\n{place[0]},{place[1]},4,0,1\n")
    (scene / "bb/1_1.txt").write_text("[41 33 57 45],car\n")
    issues = Issues()
    (record,) = write_crops(list_frames(tmp_path / "raw", issues), tmp_path / "out", 95, 1, issues, show_progress=False)
    crop = jpeg.decode_rgb(record.jpeg)
    assert crop is not None
    assert record.validity[0] == VISIBLE
    assert np.abs(measured(crop[..., 1]) - record.points[0]).max() < 0.1


def test_a_dot_on_the_first_or_last_pixel_is_inside_the_frame(tmp_path: Path) -> None:
    scene = tmp_path / "raw/train/car_a"
    for name in ("images_jpg", "gt", "bb"):
        (scene / name).mkdir(parents=True)
    cv2.imwrite(str(scene / "images_jpg/1_1.jpg"), np.zeros((120, 160, 3), np.uint8))
    places = [(-0.4, 50), (-0.6, 50), (159.4, 50), (159.6, 50), (80, -0.4), (80, -0.6), (80, 119.4), (80, 119.6)]
    lines = [f"{x},{y},{number},0,1" for number, (x, y) in enumerate(places, 1)]
    (scene / "gt/1_1.txt").write_text("\n".join(lines))
    (scene / "bb/1_1.txt").write_text("[0 0 160 120],car\n")
    issues = Issues()
    (record,) = write_crops(list_frames(tmp_path / "raw", issues), tmp_path / "out", 95, 1, issues, show_progress=False)
    assert (record.validity[:8] == VISIBLE).tolist() == [True, False] * 4


TRANSFORMS = {
    "evaluation": EvalTransform(SIZE),
    "training": TrainTransform(SIZE, flip_probability=0.5, random_padding=True, noise_probability=0.0, noise_sigma=0.0),
    "strong": TrainTransform(
        SIZE,
        flip_probability=0.5,
        random_padding=True,
        noise_probability=0.0,
        noise_sigma=0.0,
        min_scale=0.8,
        max_scale=1.2,
        max_rotation_deg=25,
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("extent", [60, 128, 201, 420, 1040])
def test_the_input_keeps_the_dot_on_its_label(name: str, extent: int) -> None:
    """Crops that are enlarged, kept, scaled down, and decoded at 1/2, 1/4 or 1/8 of their size."""
    transform = TRANSFORMS[name]
    size = (extent * 3 // 4, extent)
    place = np.array([0.45 * extent + 0.3, 0.4 * extent + 0.7])
    data = jpeg.encode_bgr(dotted(size, place, max(2.0, extent / 50)), 98)
    reduction = choose_reduction(size, SIZE, transform.largest_zoom)
    for seed in range(6):
        crop = jpeg.decode_rgb(data, reduction)
        assert crop is not None
        points = np.tile(place, (12, 1)).astype(np.float32)
        done = transform(crop, points, np.full(12, VISIBLE, np.uint8), np.random.default_rng(seed), size)
        assert np.abs(measured(done.image[0]) - done.points[0]).max() < 0.1


def test_flipped_points_are_those_of_the_flipped_picture() -> None:
    transform = replace(TRANSFORMS["training"], flip_probability=1.0, random_padding=False)
    place = np.array([40.25, 30.5])
    points = np.tile(place, (12, 1)).astype(np.float32)
    picture = dotted((96, 128), place, 2.0)
    done = transform(picture, points, np.full(12, VISIBLE, np.uint8), np.random.default_rng(0))
    assert np.abs(measured(np.ascontiguousarray(picture[:, ::-1])[..., 0]) - done.points[0]).max() < 0.01
    assert np.allclose(done.points[list(FLIP_ORDER)], done.points)


@pytest.mark.parametrize("decoder", ["averaged", "dark"])
def test_heatmaps_have_no_bias(decoder: str) -> None:
    codec = codec_for_input(SIZE, 1.0, decoder, "auto", 0.1)
    points = torch.from_numpy(np.random.default_rng(0).uniform(20, 108, (200, 12, 2)).astype(np.float32))
    decoded = codec.decode(codec.encode(points, torch.ones(200, 12)).heatmaps).points
    assert (decoded - points).mean(dim=(0, 1)).abs().max() < 0.02


@pytest.mark.parametrize(("width", "height"), [(90, 60), (128, 110), (250, 170), (500, 400), (900, 560)])
def test_the_predictor_finds_the_dot_where_it_is(width: int, height: int) -> None:
    """The network is a stand-in: its heatmaps are the input's brightness at every fourth pixel."""
    codec = codec_for_input(SIZE, 1.0, "dark", "auto", 0.1)

    def forward(images: np.ndarray) -> np.ndarray:
        return np.repeat(images[:, :1, ::4, ::4] + 1, 12, axis=1)

    predictor = Predictor(forward, codec, SIZE, "stand-in", 1)
    scale = min(128 / (1.2 * width), 128 / (1.4 * height))
    rng = np.random.default_rng(width)
    errors = []
    for _ in range(12):
        corner = np.array([width * 0.2, height * 0.25]) + rng.uniform(0, 8, 2)
        place = corner + (width, height) * rng.uniform(0.2, 0.8, 2)
        frame = dotted((height * 2, width * 2), place, 4.0 / scale, 120)
        (points,) = predictor(frame, [[*corner, width, height]]).points
        errors.append((points[0] - place) * scale)
    assert np.abs(np.mean(errors, axis=0)).max() < 0.06
    assert np.abs(errors).max() < 0.25
