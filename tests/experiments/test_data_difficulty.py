"""The study of how hard the test split is: what it records."""

import runpy
from pathlib import Path

STUDY = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "data_difficulty.py"), run_name="difficulty")


def test_what_the_data_do_not_say_is_not_recorded() -> None:
    found = {"occluded": 0.3, "truncated": float("nan"), "mean_position_pck": 0.1, "nearest_crop_pck": 0.5}
    items = STUDY["findings"](found).measurements
    assert [(item.name, item.value, item.is_met) for item in items] == [
        ("occluded", 0.3, True),
        ("mean_position_pck", 0.1, True),
        ("nearest_crop_pck", 0.5, False),
    ]
