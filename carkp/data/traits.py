"""Traits of a car in an annotation, in addition to box and keypoints: its kind, visible side, occlusion and so on."""

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
"""Heading, which is the visible side of the car -> view."""


@dataclass(frozen=True)
class Traits:
    """Labels of a whole car; ``unknown`` or None if not annotated.

    Attributes:
        kind: kind of vehicle, for example car, suv, van, pickup, truck, bus.
        heading: visible side of the car, a key of ``VIEWS``.
        occluded: whether something hides a part of the car.
        truncated: whether the border of the picture cuts the car.
        source: origin of the picture.
    """

    kind: str = UNKNOWN
    heading: str = UNKNOWN
    occluded: bool | None = None
    truncated: bool | None = None
    source: str = UNKNOWN

    @property
    def view(self) -> str:
        """View of the car: ``front``, ``rear``, ``side``, ``three-quarter`` or ``unknown``."""
        return VIEWS.get(self.heading, UNKNOWN)

    def in_words(self) -> dict[str, str]:
        """Return all traits and the view as words, by name; flags become yes, no or ``unknown``."""
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
        """Return the known traits, by name."""
        return {name: value for name, value in vars(self).items() if value is not None and value != UNKNOWN}


NO_TRAITS = Traits()


def read_traits(annotation: Mapping[str, Any], where: str, issues: Issues) -> Traits:
    """Read the traits of an annotation; an unusable value is counted in ``issues`` and stays unknown."""
    heading = _word(annotation, "heading", where, issues).lower().replace("-", "_").replace(" ", "_")
    if heading not in (*VIEWS, UNKNOWN):
        issues.skip(f"heading is not one of {', '.join(VIEWS)}", f"{where}: {heading}")
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
        issues.skip(f"{name} of a car is not text", where)
        return UNKNOWN
    return printable(value.strip()) or UNKNOWN


def _flag(annotation: Mapping[str, Any], name: str, where: str, issues: Issues) -> bool | None:
    """Read true or false, which may also be 1 or 0; None if the value is missing or unusable."""
    value = annotation.get(name)
    if value is None or value == UNKNOWN:
        return None
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    issues.skip(f"{name} of a car is neither true nor false", where)
    return None
