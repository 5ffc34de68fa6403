"""The yardstick of real cars: known predictions give known figures, whatever opens the model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from carkp.data.issues import DataError
from carkp.keypoints.codec import HeatmapCodec, codec_for_input
from carkp.keypoints.orientation import EXCHANGES, Orientation
from carkp.predictor import Predictor
from carkp.report.colours import ERROR_RGB, RIGHT_RGB
from carkp.workflow.real_cars import (
    ALPHAS,
    RealCars,
    RealCarScores,
    load_real_cars,
    score_predictors,
    score_real_cars,
)
from carkp.workflow.real_cars_report import (
    ModelCard,
    car_lines,
    car_pck,
    cars_sheet,
    compare,
    figures,
    group_lines,
    worst_first,
    write_report,
)
from carkp.workflow.real_cars_tables import comparison_table, groups_table, headline_table
from tests.real_cars import DrawnCar, write_list
from tests.tiny_models import TinyModels

SIZE = (128, 128)
CARD = ModelCard("a.onnx", "int8 ONNX", "00")
CARS = [
    DrawnCar("a.png", traits={"kind": "suv", "heading": "rear", "occluded": False}),
    DrawnCar("a.png", box=(100.0, 30.0, 80.0, 60.0), traits={"kind": "bus", "heading": "left", "occluded": True}),
    DrawnCar("b.png", hidden=(0, 1, 2), traits={"kind": "suv", "heading": "front_left", "truncated": True}),
    DrawnCar("c.png", missing=range(3, 12)),
    DrawnCar("d.png", missing=(4, 5)),
]


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> RealCars:
    return load_real_cars([write_list(tmp_path_factory.mktemp("real") / "set", CARS)])


def codec(size: tuple[int, int] = SIZE) -> HeatmapCodec:
    return codec_for_input(size, sigma=1.5, decoder="dark", window="auto", background_weight=0.1)


class Oracle(nn.Module):
    """A network that knows the labels: heatmaps of the points given to it, in the order of the cars."""

    def __init__(self, points: torch.Tensor, own: HeatmapCodec) -> None:
        super().__init__()
        self.heatmaps = own.encode(points, torch.ones(points.shape[:2])).heatmaps
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (3, *SIZE)
        assert images.dtype == torch.float32
        return self.heatmaps * self.scale


def labels(cars: RealCars, size: tuple[int, int] = SIZE) -> torch.Tensor:
    (batch,) = cars.split(size).batches
    return batch["points"]


def scores_of(cars: RealCars, points: torch.Tensor) -> RealCarScores:
    return score_real_cars(Oracle(points, codec()), codec(), cars, num_resamples=200)


def test_the_labels_themselves_reach_everything(cars: RealCars) -> None:
    net = Oracle(labels(cars), codec()).train()
    scores = score_real_cars(net, codec(), cars)
    assert net.training
    assert scores.total.num_cars == 5
    assert scores.total.num_points == 12 + 12 + 12 + 3 + 10
    assert [scores.total.pck[alpha].value for alpha in ALPHAS] == [1, 1, 1]
    assert scores.metrics() == {
        "real/pck_0.05": 1,
        "real/pck_0.1": 1,
        "real/pck_0.2": 1,
        "real/turned": 0,
        "real/mirrored": 0,
    }
    assert scores.total.num_judged == 4  # one has three keypoints


def test_groups_are_those_of_the_labels(cars: RealCars) -> None:
    points = labels(cars).clone()
    points[1] += 60  # the bus is lost
    groups = {
        breakdown: {row.name: (row.num_cars, row.num_points, row.pck[0.1].value) for row in rows}
        for breakdown, rows in scores_of(cars, points.clamp(0, 127)).groups.items()
    }
    assert groups["kind"] == {"suv": (2, 24, 1.0), "unknown": (2, 13, 1.0), "bus": (1, 12, 0.0)}
    assert groups["view"] == {
        "unknown": (2, 13, 1.0),
        "rear": (1, 12, 1.0),
        "side": (1, 12, 0.0),
        "three-quarter": (1, 12, 1.0),
    }
    assert groups["occluded"] == {"unknown": (3, 25, 1.0), "no": (1, 12, 1.0), "yes": (1, 12, 0.0)}
    assert groups["truncated"] == {"no": (4, 37, pytest.approx(25 / 37)), "yes": (1, 12, 1.0)}
    assert groups["size"] == {"96 to 191 px": (5, 49, pytest.approx(37 / 49))}
    assert groups["keypoint"] == {"visible": (5, 46, pytest.approx(34 / 46)), "occluded": (1, 3, 1.0)}


@pytest.mark.parametrize(
    ("exchange", "turned", "mirrored"),
    [(Orientation.TURNED, 1, 0), (Orientation.FRONT_BACK, 1, 0), (Orientation.MIRRORED, 0, 1)],
)
def test_exchanged_names_are_counted(cars: RealCars, exchange: Orientation, turned: int, mirrored: int) -> None:
    points = labels(cars).clone()
    points[[0, 4]] = points[[0, 4]][:, list(EXCHANGES[exchange])]
    scores = scores_of(cars, points)
    right = Orientation.AS_LABELLED
    assert scores.orientation == [exchange, right, right, Orientation.UNKNOWN, exchange]
    (rear,) = [row for row in scores.groups["view"] if row.name == "rear"]
    assert (rear.num_turned, rear.num_mirrored, rear.num_judged) == (turned, mirrored, 1)
    assert (scores.turned.value, scores.mirrored.value) == (turned / 2, mirrored / 2)


def test_intervals_are_over_photographs(cars: RealCars) -> None:
    resampled = scores_of(cars, labels(cars)).predictions.units.resampled
    assert (resampled.num_scenes, resampled.num_cameras, resampled.num_cars) == (4, 0, 5)


def test_worst_cars_come_first(cars: RealCars) -> None:
    points = labels(cars).clone()
    points[2, :6] = 120 - points[2, :6]
    points[0] = 127
    scores = scores_of(cars, points)
    order = worst_first(scores)
    assert order[:2] == [0, 2]
    assert car_pck(scores, 0.1)[order].tolist() == sorted(car_pck(scores, 0.1).tolist())
    lines = car_lines("net", scores, cars)
    assert [line["car"] for line in lines[:2]] == ["set/a/0", "set/b/0"]
    assert (lines[1]["kind"], lines[1]["view"], lines[1]["num_points"]) == ("suv", "three-quarter", 12)
    assert (lines[1]["crop_width_px"], lines[1]["crop_height_px"]) == (108, 84)


def test_models_are_paired(cars: RealCars) -> None:
    worse = labels(cars).clone()
    worse[0] = (worse[0] + 40).clamp(0, 127)
    scores = {
        "good": scores_of(cars, labels(cars)),
        "worse": scores_of(cars, worse),
        "same": scores_of(cars, labels(cars)),
    }
    first, second = compare(scores)
    assert (first.reference, first.other, second.other) == ("good", "worse", "same")
    assert first.tests[0.1].difference.value == pytest.approx(-12 / 49)
    assert first.tests[0.1].num_lost == 12
    assert (second.tests[0.1].difference.value, second.tests[0.1].p_value) == (0, 1)
    assert second.turned.value == 0


@pytest.mark.parametrize("name", ["float checkpoint", "float ONNX", "int8 ONNX", "int8 ONNX of batch 1"])
def test_a_model_file_gives_what_its_network_gives(cars: RealCars, tiny_models: TinyModels, name: str) -> None:
    predictor = Predictor.load(tiny_models.all[name])
    (scores,) = score_predictors({name: predictor}, cars, num_resamples=50).values()
    expected = score_real_cars(tiny_models.net, tiny_models.codec, cars, num_resamples=50)
    assert scores.input_size == (64, 64)
    assert np.array_equal(scores.predictions.targets, expected.predictions.targets)
    if name.startswith("float"):
        assert np.allclose(scores.predictions.points, expected.predictions.points, atol=1e-2)
        assert scores.metrics() == pytest.approx(expected.metrics())


def test_models_of_other_input_sizes_are_put_on_one_scale(cars: RealCars, tiny_models: TinyModels) -> None:
    small = Predictor.load(tiny_models.checkpoint)
    size = (96, 128)
    large = Predictor(lambda images: np.zeros((len(images), 12, 24, 32), np.float32), codec(size), size, "made up", 1)
    scores = score_predictors({"large": large, "small": small}, cars, num_resamples=50)
    assert {item.input_size for item in scores.values()} == {size}
    alone = score_predictors({"small": small}, cars, num_resamples=50)["small"]
    assert scores["small"].metrics() == pytest.approx(alone.metrics())
    (found,) = compare(scores)  # refused where the labels of the two lie elsewhere
    assert found.tests[0.1].num_points == 49


def test_the_sheet_holds_every_car(cars: RealCars) -> None:
    points = labels(cars).clone()
    points[1] = 100
    sheet = cars_sheet(scores_of(cars, points), cars)
    num_rows, row_height, pair_width = 2, 256 + 22 + 8, 2 * 256 + 2 + 8
    assert sheet.shape[1] == 8 + 4 * pair_width
    tiles = sheet[-num_rows * row_height :]
    (x, y) = np.rint(labels(cars)[1, 0].numpy() * 2).astype(int)
    assert tuple(tiles[y, 8 + x]) == RIGHT_RGB  # the label of the worst car's right front wheel, at twice the size
    num_pink = [(pair == ERROR_RGB).all(axis=-1).sum() for pair in np.split(tiles[:256, 8:], 4, axis=1)]
    assert num_pink[0] > 1000 > max(num_pink[1:]) * 10


def test_files_hold_every_figure(cars: RealCars, tmp_path: Path) -> None:
    worse = labels(cars).clone()
    worse[0] = 0
    scores = {"good": scores_of(cars, labels(cars)), "worse": scores_of(cars, worse)}
    paths = write_report(scores, {"good": CARD, "worse": replace(CARD, reference="b")}, cars, tmp_path / "out")
    assert [path.name for path in paths] == [
        "figures.json",
        "groups.csv",
        "cars.csv",
        "cars_1.jpg",
        "predictions_1.npz",
        "cars_2.jpg",
        "predictions_2.npz",
    ]
    assert all(path.stat().st_size for path in paths)
    found = json.loads(paths[0].read_text())
    assert found["cars"]["num_photographs"] == 4
    assert found["cars"]["sha256"] == cars.digest
    assert found["models"]["good"]["groups"]["kind"]["bus"]["pck"]["0.05"]["value"] == 1
    assert found["models"]["worse"]["reference"] == "b"
    assert found["comparisons"][0]["pck"]["0.1"]["num_lost"] == scores["worse"].total.num_points - round(
        scores["worse"].total.pck[0.1].value * 49
    )
    assert len(paths[2].read_text().splitlines()) == 1 + 2 * 5
    assert len(paths[1].read_text().splitlines()) == 1 + sum(
        len(group_lines(name, item)) for name, item in scores.items()
    )


def test_one_model_needs_no_numbers(cars: RealCars, tmp_path: Path) -> None:
    scores = {"good": scores_of(cars, labels(cars))}
    names = [path.name for path in write_report(scores, {"good": CARD}, cars, tmp_path)]
    assert names[3:] == ["cars.jpg", "predictions.npz"]
    assert figures(scores, [], {"good": CARD}, cars)["comparisons"] == []


def test_tables_have_a_line_a_model_and_a_group(cars: RealCars) -> None:
    scores = {"good": scores_of(cars, labels(cars)), "same": scores_of(cars, labels(cars))}
    assert headline_table(scores).row_count == 2
    num_groups = sum(len(rows) for breakdown, rows in scores["good"].groups.items() if breakdown != "all")
    assert groups_table(scores).row_count == num_groups
    assert comparison_table(compare(scores)).row_count == 1


def test_the_digest_is_of_pictures_and_labels(tmp_path: Path) -> None:
    one = load_real_cars([write_list(tmp_path / "set", CARS)])
    again = load_real_cars([tmp_path / "set"])
    other = load_real_cars([write_list(tmp_path / "other" / "set", [*CARS[:-1], replace(CARS[-1], missing=(4,))])])
    assert one.digest == again.digest != other.digest


def test_a_crop_that_cannot_be_decoded_is_named(cars: RealCars) -> None:
    broken = replace(cars.cars[0], record=replace(cars.cars[0].record, jpeg=b"no picture"))
    with pytest.raises(DataError, match=r"set/a/0: its crop cannot be decoded"):
        replace(cars, cars=[broken], _batches={}).split(SIZE)
