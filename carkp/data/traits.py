"""What an annotation may say of a car beside its box and keypoints: its kind, the side that is seen, what hides it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carkp.data.issues import Issues, printable

UNKNOWN = "unknown"

VIEWS: dict[str, str] = {
    "front": "front",
    "rear": "rear",
    "left": "side",
    "right": "side",
    "front_left": "three-quarter",
    "front_right": "three-quarter",
    "rear_left": "three-quarter",
    "rear_right": "three-quarter",
}
"""Heading, the side of the car that is seen -> view."""


@dataclass(frozen=True)
class Traits:
    """Labels of a car as a whole; ``unknown`` and None where nobody said.

    Attributes:
        kind: such as car, suv, van, pickup, truck, bus.
        heading: the side of the car that is seen, a key of ``VIEWS``.
        occluded: whether something hides a part of it.
        truncated: whether the border of the picture cuts it.
        source: where the picture comes from.
    """

    kind: str = UNKNOWN
    heading: str = UNKNOWN
    occluded: bool | None = None
    truncated: bool | None = None
    source: str = UNKNOWN

    @property
    def view(self) -> str:
        """``front``, ``rear``, ``side``, ``three-quarter`` or ``unknown``."""
        return VIEWS.get(self.heading, UNKNOWN)

    def in_words(self) -> dict[str, str]:
        """All of them by name, with the view; yes, no or ``unknown`` for what is true or false."""
        words = {True: "yes", False: "no", None: UNKNOWN}
        return {
            "kind": self.kind,
            "heading": self.heading,
            "view": self.view,
            "occluded": words[self.occluded],
            "truncated": words[self.truncated],
            "source": self.source,
        }

    def known(self) -> dict[str, str | bool]:
        """What is known, by name."""
        return {name: value for name, value in vars(self).items() if value is not None and value != UNKNOWN}


NO_TRAITS = Traits()


def read_traits(annotation: Mapping[str, Any], where: str, issues: Issues) -> Traits:
    """The traits that an annotation has; a value that cannot be used is counted in ``issues`` and left unknown."""
    heading = _word(annotation, "heading", where, issues).lower().replace("-", "_").replace(" ", "_")
    if heading not in (*VIEWS, UNKNOWN):
        issues.skip(f"heading is none of {', '.join(VIEWS)}", f"{where}: {heading}")
        heading = UNKNOWN
    return Traits(
        kind=_word(annotation, "kind", where, issues).lower(),
        heading=heading,
        occluded=_flag(annotation, "occluded", where, issues),
        truncated=_flag(annotation, "truncated", where, issues),
        source=_word(annotation, "source", where, issues),
    )


def _word(annotation: Mapping[str, Any], name: str, where: str, issues: Issues) -> str:
    value = annotation.get(name)
    if value is None or value == "":
        return UNKNOWN
    if not isinstance(value, str):
        issues.skip(f"{name} of a car is no text", where)
        return UNKNOWN
    return printable(value.strip()) or UNKNOWN


def _flag(annotation: Mapping[str, Any], name: str, where: str, issues: Issues) -> bool | None:
    """True, false, and 1 and 0 for them."""
    value = annotation.get(name)
    if value is None or value == UNKNOWN:
        return None
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    issues.skip(f"{name} of a car is neither true nor false", where)
    return None
