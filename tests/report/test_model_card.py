"""The card of a model shows its data and nothing else: credits, figures with intervals, weaknesses."""

from typing import Any

import pytest

from carkp.report.model_card import (
    Card,
    CardError,
    Difference,
    Figure,
    card_from_yaml,
    card_page,
    card_to_yaml,
    show_difference,
    show_figure,
    weaknesses,
)

ALPHAS = ("0.05", "0.1", "0.2")


def figure(value: float | None) -> dict[str, float | None]:
    return {"value": value, "low": value and value - 0.1, "high": value and value + 0.1}


def group(value: float | None, num_cars: int = 12) -> dict[str, Any]:
    return {"num_cars": num_cars, "num_points": 9 * num_cars, "pck": {alpha: figure(value) for alpha in ALPHAS}}


def model(value: float, **kinds: dict[str, Any]) -> dict[str, Any]:
    groups = {"all": {"all": group(value, 40)}, **({"kind": kinds} if kinds else {})}
    return {"sha256": "a" * 64, "turned": figure(0.025), "mirrored": figure(None), "groups": groups}


def cars(title: str, float_: dict[str, Any], int8: dict[str, Any]) -> dict[str, Any]:
    difference = {alpha: {**figure(-0.004), "p_value": 0.2} for alpha in ALPHAS}
    return {
        "title": title,
        "sha256": "c" * 64,
        "unit": "Intervals over 30 photographs",
        "float_": float_,
        "int8": int8,
        "difference": difference,
    }


MESH = {"name": "bus_3", "author": "A. <b> | C.", "licence": "CC-BY-4.0", "source": "https://example.org/bus"}
SOURCE = {
    "name": "rendered",
    "what": "rendered from car meshes",
    "is_generated": True,
    "share": 0.35,
    "num_cars": {"train": 2855, "val": 100, "test": 101},
    "sha256": "d" * 64,
    "seed": 7,
    "meshes": [MESH],
}
KINDS = {"car": group(0.91), "bus": group(0.42), "tram": group(0.1, 2), "van": group(0.7)}


def made_up(**changes: Any) -> Card:
    making = {
        "commands": ["mlflow run . -P config=configs/shipped.yaml", "python experiments/ship_model.py"],
        "commit": "f" * 40,
        "is_dirty": False,
        "date": "2030-01-02 03:04",
        "versions": {"torch": "9.9"},
        "config": {"train": {"epochs": 17}},
        "config_sha256": "e" * 64,
        "first_weights": "drawn at random",
        "best_epoch": 16,
    }
    content: dict[str, Any] = {
        "name": "carkp-car12",
        "inputs": "1234",
        "input_size": [128, 96],
        "files": {"int8.onnx": {"num_bytes": 4_500_000, "sha256": "b" * 64}},
        "data": [SOURCE],
        "making": making,
        "rounding": {"alpha": 0.1, "float32": 0.97123, "float16": 0.97117},
        "generated": {"test": cars("Generated cars, test", model(0.97), model(0.968))},
        "real": [cars("Fifty cars", model(0.9, **KINDS), model(0.89, **KINDS))],
    }
    return Card.model_validate(content | changes)


def test_yaml_holds_all_of_it() -> None:
    text = card_to_yaml(made_up())
    assert card_from_yaml(text) == made_up()
    assert "  float:\n" in text
    for text in ("name: [", "name: carkp-car12", "3"):
        with pytest.raises(CardError, match="not a model card"):
            card_from_yaml(text)


def test_authors_of_meshes_are_credited_whatever_they_are_called() -> None:
    page = card_page(made_up())
    assert r"| bus_3 | A. \<b> \| C. | CC-BY-4.0 | https://example.org/bus |" in page
    assert "Thanks to their authors." in page
    assert "authors" not in card_page(made_up(data=[{**SOURCE, "meshes": []}]))


def test_a_note_on_the_making_stands_beside_the_epoch() -> None:
    plain = made_up()
    noted = plain.model_copy(update={"making": plain.making.model_copy(update={"note": "Trained on a tram."})})
    assert card_from_yaml(card_to_yaml(noted)).making.note == "Trained on a tram."
    assert "chose epoch 16. Trained on a tram. The configuration" in card_page(noted)
    assert "chose epoch 16. The configuration" in card_page(plain)


def test_data_are_said_with_counts_seed_and_digest() -> None:
    page = card_page(made_up())
    assert "| rendered | rendered from car meshes | 35 % | 2855 | 100 | 101 | 7 | `dddddddddddddddd` |" in page
    assert "trained on generated cars alone" in page
    real = {**SOURCE, "name": "carfusion", "is_generated": False, "seed": None}
    page = card_page(made_up(data=[SOURCE, real]))
    assert "| carfusion | rendered from car meshes | 35 % | 2855 | 100 | 101 | – |" in page
    assert "generated cars alone" not in page
    taught = made_up()
    config = {"train": {"teacher": "latest:teacher"}}
    taught = taught.model_copy(update={"making": taught.making.model_copy(update={"config": config})})
    assert "drawn at random. The heatmaps of a teacher, `latest:teacher`, were a further target." in card_page(taught)


def test_every_figure_has_its_interval() -> None:
    page = card_page(made_up())
    row = "0.890 (0.790 to 0.990)"
    assert f"| | int8 | {row} | {row} | {row} | 0.025 (-0.075 to 0.125) | – |".replace("| |", "|  |") in page
    assert "| | int8 − float, points | -0.40 (-10.40 to +9.60) |" in page
    assert "from 0.9712 to 0.9712" in page
    assert "| kind of vehicle | car | 12 | 108 |" in page
    assert "to 96x128 pixels, width by height" in page
    assert "epochs: 17" in page
    assert "with uncommitted changes" not in page
    assert "`int8.onnx` | 4.29 MiB" in page


def test_weaknesses_are_the_groups_that_fail_worst_first() -> None:
    found = [(item.name, item.title) for item in weaknesses(made_up())]
    assert found == [("bus", "Fifty cars"), ("van", "Fifty cars")]  # two trams say nothing
    page = card_page(made_up())
    assert page.index("bus has PCK@0.1 0.420") < page.index("van has PCK@0.1 0.700")
    assert "tram has" not in page


def test_without_real_cars_the_card_says_so() -> None:
    page = card_page(made_up(real=[]))
    assert "It has not been scored on photographs." in page
    assert "Fifty cars" not in page
    assert "has not been scored" not in card_page(made_up())


def test_numbers_that_are_not_known_are_dashes() -> None:
    assert [show_figure(item) for item in (None, Figure(value=None), Figure(value=0.5))] == ["–", "–", "0.500"]
    assert show_difference(Difference(value=None)) == show_difference(None) == "–"
    assert show_difference(Difference(value=0.0125)) == "+1.25"
