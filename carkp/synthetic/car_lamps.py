"""Headlamps and tail lamps. u goes from a lamp's inner to its outer end, v from its lower to its upper edge, 0 to 1."""

import math

from carkp.synthetic._jit import compiled
from carkp.synthetic.car_look import (
    BROW_LAMP,
    CLEAR_TAIL,
    LED_LAMP,
    LED_TAIL,
    PROJECTORS,
    REFLECTORS,
    RIBBED_LAMP,
    ROUND_LAMP,
    ROUND_TAIL,
    SMOKED_TAIL,
    STACKED_TAIL,
    CarLook,
)
from carkp.synthetic.surfaces import CHROME, LENS, MATTE, NOTHING, Surface

_BODY: Surface = (NOTHING, 0.0, 0.0, 0.0, 0.0)
BEAM = 14.0
"""Light emitted by a headlamp's bulb, as a multiple of its colour."""


@compiled
def head_lamp(look: CarLook, u: float, v: float, wide: float, tall: float) -> Surface:
    """Return the surface of a lamp, ``wide`` times ``tall`` metres; NOTHING where the paint around it is visible."""
    kind, lit = look.lamp_kind, look.headlights
    if kind == ROUND_LAMP:
        return round_head_lamp(lit, (u - 0.5) * wide, (v - 0.5) * tall, 0.5 * min(tall, wide))
    is_swept = kind in (LED_LAMP, BROW_LAMP, PROJECTORS)
    if is_swept and (v < 0.5 - 1.1 * u or v > 1.25 - 0.5 * (1.0 - u)):
        return _BODY
    if min(min(u, 1.0 - u) * wide, min(v, 1.0 - v) * tall) < 0.010:
        return (MATTE, 0.025, 0.025, 0.025, 0.0)
    if kind == RIBBED_LAMP:
        if u > 0.78:
            return (LENS, 0.55, 0.20, 0.02, 0.0)
        rib = 0.10 * math.sin(u * wide * 190.0)
        core = math.hypot((u - 0.42) * wide, (v - 0.5) * tall) < 0.35 * tall
        return (CHROME, 0.62 + rib, 0.62 + rib, 0.62 + rib, lit * (BEAM if core else 2.0))
    if kind == BROW_LAMP and v > 0.74:
        return (LENS, 0.85, 0.86, 0.9, 3.0 * max(look.drl, lit))
    if kind == LED_LAMP and (v < 0.24 or u > 0.88):
        return (LENS, 0.85, 0.86, 0.9, 3.0 * max(look.drl, lit))
    return lamp_bowls(look, u, v, wide, tall)


@compiled
def lamp_bowls(look: CarLook, u: float, v: float, wide: float, tall: float) -> Surface:
    """Return the surface of two bulbs side by side, in bright bowls or behind small projector lenses."""
    kind, lit = look.lamp_kind, look.headlights
    centre = 0.33 if u < 0.53 else 0.72
    radius = min(0.42 * tall, 0.19 * wide)
    reach = math.hypot((u - centre) * wide, (v - 0.48) * tall) / radius
    main = u > 0.53
    if kind == REFLECTORS:
        if reach < 1.0:
            tone = 0.9 - 0.35 * abs(math.sin(5.0 * reach))
            return (CHROME, tone, tone, tone, lit * ((BEAM if main else 3.0) if reach < 0.75 else 2.0))
        if u > 0.9 and look.amber > 0.5:
            return (LENS, 0.55, 0.20, 0.02, 0.0)
        return (CHROME, 0.42, 0.43, 0.44, 0.6 * lit)
    if reach < 0.8:
        return (LENS, 0.35, 0.37, 0.42, 2.0 * lit * BEAM if main else 3.0 * lit)
    if reach < 1.1:
        return (CHROME, 0.6, 0.6, 0.62, 1.0 * lit)
    tone = 0.10 if v > 0.3 else 0.03
    return (LENS, tone, tone, 1.05 * tone, 0.3 * lit)


@compiled
def round_head_lamp(lit: float, across: float, up: float, radius: float) -> Surface:
    reach = math.hypot(across, up) / radius
    if reach > 1.0:
        return _BODY
    if reach > 0.86:
        return (CHROME, 0.55, 0.55, 0.56, 0.0)
    rib = 0.12 * math.sin(across * 180.0)
    return (CHROME, 0.70 + rib, 0.70 + rib, 0.70 + rib, lit * (BEAM if reach < 0.5 else 3.0))


@compiled
def tail_lamp(look: CarLook, u: float, v: float, wide: float, tall: float) -> Surface:
    """Return the surface of a lamp, ``wide`` times ``tall`` metres; NOTHING where the paint around it is visible."""
    kind = look.tail_kind
    border = min(min(u, 1.0 - u) * wide, min(v, 1.0 - v) * tall)
    red = 0.9 * look.tails_lit + 7.0 * look.brakes
    if kind == ROUND_TAIL:
        return round_tail_lamps(look, u, v, wide, tall, red)
    if kind in (LED_TAIL, SMOKED_TAIL) and v < 0.55 - 0.9 * u:
        return _BODY
    if border < 0.008:
        return (MATTE, 0.03, 0.006, 0.006, 0.0)
    if kind == LED_TAIL:
        if 0.018 < border < 0.045:
            return (LENS, 0.55, 0.02, 0.02, 0.3 + red)
        return (LENS, 0.16, 0.006, 0.008, 0.25 * red)
    if kind == CLEAR_TAIL:
        return clear_tail_lamp(look, u, v, wide, tall, red)
    if kind == STACKED_TAIL:
        if v > 0.66:
            return (LENS, 0.42, 0.012, 0.014, red)
        if v > 0.36:
            return (LENS, 0.55, 0.20, 0.02, 0.0)
        if v > 0.18:
            return (LENS, 0.62, 0.60, 0.58, 6.0 * look.reverse)
        return (LENS, 0.36, 0.012, 0.014, 0.3 * red)
    if kind == SMOKED_TAIL:
        return (LENS, 0.10, 0.006, 0.008, red if abs(v - 0.6) < 0.14 else 0.1 * red)
    if v < 0.30 and u < 0.5:
        return (LENS, 0.60, 0.56, 0.55, 6.0 * look.reverse)
    if look.amber > 0.5 and 0.30 < v < 0.48:
        return (LENS, 0.50, 0.17, 0.02, 0.0)
    return (LENS, 0.38 + 0.05 * math.sin(v * tall * 210.0), 0.012, 0.014, red if v > 0.48 else 0.3 * red)


@compiled
def clear_tail_lamp(look: CarLook, u: float, v: float, wide: float, tall: float, red: float) -> Surface:
    """Return the surface of a lamp with red round lights in a bright bowl, which has a reversing light below."""
    if min(wide, tall) < 0.5 * max(wide, tall):
        place = 2.0 * (u if wide > tall else v)
        across = place - math.floor(min(place, 1.99)) - 0.5
        reach = math.hypot(across * 0.5 * max(wide, tall), ((v if wide > tall else u) - 0.5) * min(wide, tall))
    else:
        reach = math.hypot((u - 0.5) * wide, (v - 0.5) * tall)
    radius = 0.36 * min(wide, tall)
    if reach < radius:
        return (LENS, 0.42, 0.012, 0.014, red)
    return (CHROME, 0.50, 0.47, 0.47, 4.0 * look.reverse if v < 0.3 else 0.1 * red)


@compiled
def round_tail_lamps(look: CarLook, u: float, v: float, wide: float, tall: float, red: float) -> Surface:
    """Return the surface of two round lights, side by side or one above the other."""
    flat = wide > tall
    place = 2.0 * (u if flat else v)
    number = math.floor(min(place, 1.99))
    long, short = (wide, tall) if flat else (tall, wide)
    radius = 0.48 * min(short, 0.5 * long)
    reach = math.hypot((place - number - 0.5) * 0.5 * long, ((v if flat else u) - 0.5) * short) / radius
    if reach > 1.0:
        return _BODY
    if reach > 0.85:
        return (MATTE, 0.03, 0.03, 0.03, 0.0)
    if number < 0.5:
        return (LENS, 0.42, 0.012, 0.014, red) if reach > 0.3 else (LENS, 0.3, 0.01, 0.01, red)
    if look.amber > 0.5:
        return (LENS, 0.50, 0.17, 0.02, 0.0)
    return (LENS, 0.42, 0.012, 0.014, 0.5 * red)
