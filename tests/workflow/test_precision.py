"""The search for the fewest tensors of 16 bits."""

import pytest

from carkp.keypoints.paired import Interval
from carkp.workflow.precision import Found, Trial, find_fewest

COSTS = {"a": 0.005, "b": 0.003, "c": 0.002, "d": 0.001, "e": 0.0005, "f": 0.0005, "g": 0.0001, "h": 0.0001}
FLOOR = 0.0003


def search(max_loss: float, ranked: str = "abcdefgh") -> tuple[Found, list[tuple[str, ...]]]:
    """Costs add up; what is in 16 bits costs nothing, the weights cost ``FLOOR``."""
    asked: list[tuple[str, ...]] = []

    def measure(wide: tuple[str, ...]) -> Trial:
        asked.append(wide)
        loss = FLOOR + sum(cost for name, cost in COSTS.items() if name not in wide)
        return Trial(wide, Interval(loss, loss, loss), shift_px=loss, predicted_us=100 + len(wide))

    return find_fewest(list(ranked), max_loss, measure), asked


@pytest.mark.parametrize(
    ("max_loss", "chosen"),
    [
        (0.02, ""),
        (0.0125, ""),
        (0.0105, "a"),
        (0.005, "ab"),
        (0.0028, "abc"),
        (0.0016, "abcd"),
        (0.0011, "abcde"),
        (0.0003, "abcdefgh"),
    ],
)
def test_the_fewest_are_found(max_loss: float, chosen: str) -> None:
    found, asked = search(max_loss)
    assert found.chosen is not None
    assert found.chosen.wide == tuple(chosen)
    assert len(set(asked)) == len(asked) == len(found.trials)
    sizes = [len(trial.wide) for trial in found.trials]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0


def test_what_a_wrong_order_brought_in_is_left_out_again() -> None:
    found, _ = search(0.005, ranked="hgabcdef")
    assert found.chosen is not None
    assert found.chosen.wide == ("a", "b")


def test_sixteen_bits_everywhere_can_be_too_few() -> None:
    found, asked = search(0.0002)
    assert found.chosen is None
    assert asked == [(), tuple("abcdefgh")]
