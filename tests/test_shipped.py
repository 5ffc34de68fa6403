"""The models that come with carkp: found by name, predicting, and missing with a word on what to do."""

from pathlib import Path

import numpy as np
import pytest

import carkp
from carkp import shipped
from carkp.disk import file_digest
from carkp.predictor import Predictor, find_model_file
from carkp.report.model_card import card_from_yaml, card_page
from carkp.shipped import (
    DEFAULT_MODEL,
    FILES,
    MAX_BYTES,
    ShippedModelError,
    find_shipped,
    find_shipped_file,
    is_shipped,
    shipped_names,
)
from carkp.training.checkpoint import load_checkpoint
from tests.tiny_models import TinyModels

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8)
HERE = Path(shipped.__file__).parent / "models"


def test_files_are_found_by_name(shipped_folder: Path) -> None:
    model = find_shipped()
    assert model.name == DEFAULT_MODEL
    assert model.files == tuple(shipped_folder / name for name in FILES)
    assert model == find_shipped("carkp-car12")
    assert shipped_names() == ("carkp-car12",)


@pytest.mark.parametrize("reference", ["carkp-car12", "carkp-car12/", "carkp-car12/weights.safetensors"])
def test_names_and_files_of_names_are_told_from_paths(reference: str) -> None:
    assert is_shipped(reference)
    assert not is_shipped(f"./{reference}")
    assert not is_shipped(f"/models/{reference}")


def test_a_predictor_without_a_name_is_the_shipped_one(shipped_folder: Path, tiny_models: TinyModels) -> None:
    expected = Predictor.load(tiny_models.int8_onnx)(IMAGE)
    for predictor in (carkp.Predictor.load(), Predictor.load("carkp-car12"), Predictor.load(Path("carkp-car12"))):
        assert predictor.kind == "int8 ONNX"
        np.testing.assert_array_equal(predictor(IMAGE).points, expected.points)
    assert find_model_file(Path("carkp-car12")) == shipped_folder / "int8.onnx"


def test_its_float_weights_predict_too(shipped_folder: Path, tiny_models: TinyModels) -> None:
    predictor = Predictor.load("carkp-car12/weights.safetensors")
    assert predictor.kind == "float checkpoint"
    assert predictor.codec == tiny_models.codec
    images = np.random.default_rng(1).uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    exact = Predictor.load(tiny_models.checkpoint).heatmaps(images)
    np.testing.assert_allclose(predictor.heatmaps(images), exact, atol=0.01 * np.abs(exact).max())


def test_what_is_missing_is_named_with_what_to_do(shipped_folder: Path) -> None:
    with pytest.raises(ShippedModelError, match=r"no such file, it has int8\.onnx, weights\.safetensors"):
        find_shipped_file("carkp-car12/int4.onnx", "int8.onnx")
    (shipped_folder / "int8.onnx").unlink()
    for load in (find_shipped, Predictor.load, lambda: Predictor.load("carkp-car12/weights.safetensors")):
        with pytest.raises(ShippedModelError, match=r"lacks int8\.onnx\): install a release.*or name another model"):
            load()
    with pytest.raises(
        ValueError, match="'carkp-car13' is not a model that comes with carkp; the models are carkp-car12"
    ):
        find_shipped("carkp-car13")


@pytest.mark.parametrize("name", shipped_names())
def test_what_comes_with_carkp_is_small(name: str) -> None:
    folder = HERE / shipped.FOLDERS[name]
    if not folder.is_dir():
        pytest.skip(f"{name} is not in this checkout")
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_BYTES


@pytest.mark.parametrize("name", shipped_names())
def test_what_comes_with_carkp_is_what_its_card_says(name: str) -> None:
    folder = HERE / shipped.FOLDERS[name]
    if not folder.is_dir():
        pytest.skip(f"{name} is not in this checkout")
    card = card_from_yaml((folder / shipped.FIGURES_FILE).read_text())
    assert card.name == name
    assert {file: file_digest(folder / file) for file in card.files} == {
        file: facts.sha256 for file, facts in card.files.items()
    }
    page = (folder / shipped.CARD_FILE).read_text()
    assert page == card_page(card), "python experiments/ship_model.py --render makes it anew"
    checkpoint = load_checkpoint(folder / shipped.WEIGHTS_FILE)
    assert tuple(checkpoint.architecture["input_size"]) == Predictor.load(name).input_size == card.input_size
