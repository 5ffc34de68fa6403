"""Ingredients of a generated set in addition to plain cars by daylight; each can be left out to measure its effect."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Ingredients:
    """The ingredients of a set.

    vehicles: buses, lorries, more vans, pickups, SUVs and taxis. faces: detailed fronts, rears and cabins.
    close_ups: cars that fill or leave the frame. occluders: people, posts and fences close by, queues of cars.
    light: night, fog, wet roads, hard shadows, glare. sensor: noise, blur, posterising, low resolution, heavy JPEG.
    cameras: long lenses, low and high positions.
    """

    vehicles: bool = True
    faces: bool = True
    close_ups: bool = True
    occluders: bool = True
    light: bool = True
    sensor: bool = True
    cameras: bool = True

    @classmethod
    def of(cls, names: Iterable[str]) -> Ingredients:
        """Return only the named ingredients.

        Raises:
            ValueError: a name is not that of an ingredient.
        """
        wanted = set(names)
        unknown = wanted - set(INGREDIENTS)
        if unknown:
            raise ValueError(
                f"no ingredient is called {', '.join(sorted(unknown))}; there are {', '.join(INGREDIENTS)}"
            )
        return cls(**{name: name in wanted for name in INGREDIENTS})


INGREDIENTS = tuple(field.name for field in fields(Ingredients))
ALL = Ingredients()
