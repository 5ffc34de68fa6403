import pytest

from carkp.data.issues import Issues
from carkp.data.traits import NO_TRAITS, Traits, read_traits


def read(annotation: dict) -> tuple[Traits, dict[str, int]]:
    issues = Issues()
    found = read_traits(annotation, "here", issues)
    return found, {reason: tally.count for reason, tally in issues.skipped.items()}


def test_all_are_read() -> None:
    found, skipped = read(
        {"kind": "Van", "heading": "front-left", "occluded": True, "truncated": 0, "source": "a street", "area": 12}
    )
    assert found == Traits("van", "front_left", True, False, "a street")
    assert not skipped


def test_what_nobody_said_is_unknown() -> None:
    found, skipped = read({"kind": "", "heading": None, "occluded": "unknown"})
    assert found == NO_TRAITS
    assert not skipped
    assert set(found.in_words().values()) == {"unknown"}
    assert found.known() == {}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("kind", 7, "kind of a car is not text"),
        ("heading", "north", "heading is not one of front, rear, left, right, front_left"),
        ("occluded", "partly", "occluded of a car is neither true nor false"),
        ("truncated", 2, "truncated of a car is neither true nor false"),
    ],
)
def test_what_cannot_be_used_is_counted(name: str, value: object, reason: str) -> None:
    found, skipped = read({name: value})
    assert found == NO_TRAITS
    (said,) = skipped
    assert said.startswith(reason)


@pytest.mark.parametrize(
    ("heading", "view"),
    [("front", "front"), ("rear", "rear"), ("left", "side"), ("rear_right", "three-quarter"), ("unknown", "unknown")],
)
def test_the_view_follows_from_the_heading(heading: str, view: str) -> None:
    assert Traits(heading=heading).view == view


def test_words_and_what_is_known() -> None:
    traits = Traits(kind="bus", occluded=False)
    assert traits.known() == {"kind": "bus", "occluded": False}
    assert traits.in_words() == {
        "kind": "bus",
        "heading": "unknown",
        "view": "unknown",
        "occluded": "no",
        "truncated": "unknown",
        "source": "unknown",
    }
