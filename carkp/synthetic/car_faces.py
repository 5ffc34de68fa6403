"""Details of fronts and rears: grilles, badges, plates, bumpers, exhausts.

y points to the car's left, ya is the distance from the middle, z is the height.
"""

import math

from carkp.synthetic._jit import compiled
from carkp.synthetic.car_lamps import head_lamp, tail_lamp
from carkp.synthetic.car_look import (
    BARS,
    BUS,
    CLOSED,
    KIDNEYS,
    MESH_GRILLE,
    SLATS,
    SLOT,
    TALL_GRILLE,
    TRUCK,
    US_PLATE,
    YELLOW_PLATE,
    CarLook,
)
from carkp.synthetic.noise import hash_unit
from carkp.synthetic.surfaces import CHROME, MATTE, NOTHING, PAINT, Surface

_BODY: Surface = (NOTHING, 0.0, 0.0, 0.0, 0.0)


@compiled
def front_face(look: CarLook, x: float, ya: float, y: float, z: float, nx: float) -> Surface:
    """Return the surface of the front below the bonnet's edge; NOTHING where the paint is visible."""
    half = 0.5 * look.length
    tall = look.light_high - look.light_low
    v = (z - look.light_low) / tall
    inner = look.light_y + 0.35 * tall * (1.0 - v)
    wide = look.half_width - 0.03 - inner
    u = (ya - inner) / wide
    if 0.0 < v < 1.0 and u > 0.0 and x > half - look.light_wrap - 0.12:
        lamp = head_lamp(look, min(u, 1.0), v, wide, tall)
        if lamp[0] != NOTHING:
            return lamp
    low = look.clearance + 0.05
    if nx <= 0.35:
        return (MATTE, 0.02, 0.02, 0.02, 0.0) if z < low + 0.05 else _BODY
    plate = number_plate(look, y, z - look.intake_high - 0.08, look.plate_front > 0.5, False)
    if plate[0] != NOTHING:
        return plate
    bottom = look.grille_low
    if look.grille_kind == TALL_GRILLE:
        bottom = look.clearance + 0.30 * (look.grille_low - look.clearance)
    side = look.grille_y
    if look.grille_kind == TALL_GRILLE:
        side = 0.85 * look.grille_y - 0.25 * max(0.5 * (bottom + look.grille_high) - z, 0.0)
    if look.grille_kind != CLOSED and ya < side and bottom < z < look.grille_high:
        opening = grille_detail(look, ya, y, z, side, bottom)
        if opening[0] != NOTHING:
            return opening
    emblem = badge(look, y, z - 0.5 * (look.grille_low + look.grille_high))
    if emblem[0] != NOTHING:
        return emblem
    return front_bumper(look, ya, y, z, low)


@compiled
def front_bumper(look: CarLook, ya: float, y: float, z: float, low: float) -> Surface:
    """Return the surface of the bumper: lower intake, fog lamps, skid plate, gaps between parts."""
    middle = 0.5 * (low + look.intake_high)
    if look.skid > 0.5 and z < low + 0.06 and ya < 0.6 * look.half_width:
        return (CHROME, 0.4, 0.4, 0.41, 0.0)
    outer = ya > 0.62 * look.half_width
    if outer and low + 0.03 < z < look.intake_high:
        kind = look.fog_kind
        reach = math.hypot(ya - 0.76 * look.half_width, z - middle)
        if kind < 0.5 and reach < 0.075:
            return (CHROME, 0.75, 0.75, 0.75, 0.0) if reach < 0.05 else (MATTE, 0.02, 0.02, 0.02, 0.0)
        if 0.5 < kind < 1.5 and ya < 0.9 * look.half_width:
            strip = look.drl > 0.5 and abs(z - middle) < 0.018
            return (CHROME, 0.8, 0.8, 0.82, 2.0) if strip else (MATTE, 0.014, 0.014, 0.014, 0.0)
        if 1.5 < kind < 2.5 and abs(ya - 0.83 * look.half_width) < 0.05:
            return (MATTE, 0.014, 0.014, 0.014, 0.0)
    edge = 0.60 * look.half_width + 0.25 * (middle - z)
    if ya < edge and low < z < look.intake_high:
        t = z / 0.05
        bar = t - math.floor(t) < 0.25
        tone = 0.035 if bar else 0.009
        return (MATTE, tone, tone, tone, 0.0)
    if z < low or (look.bumper_dark > 0.5 and z < look.intake_high + 0.16):
        return (MATTE, 0.028, 0.028, 0.028, 0.0)
    if abs(z - look.nose_z + 0.03) < 0.006 and ya < 0.8 * look.half_width:
        return (MATTE, 0.008, 0.008, 0.008, 0.0)
    return _BODY


@compiled
def number_plate(look: CarLook, y: float, up: float, is_there: bool, is_rear: bool) -> Surface:
    """Return the surface of a plate: letters on white or yellow, with a blue end on European plates.

    ``up`` is the height over the middle of the plate.
    """
    is_short = look.plate_kind == US_PLATE
    wide, tall = (0.152, 0.076) if is_short else (0.26, 0.056)
    ya = abs(y)
    if not is_there or ya > wide or abs(up) > tall:
        return _BODY
    if ya > wide - 0.007 or abs(up) > tall - 0.007:
        return (MATTE, 0.04, 0.04, 0.04, 0.0)
    right = y if is_rear else -y  # negated below, and then positive to the reader's right
    right = -right
    if not is_short and right < -wide + 0.045:
        return (MATTE, 0.01, 0.04, 0.30, 0.0)
    pitch = 0.040 if is_short else 0.058
    cell = right / pitch + 50.0
    number = math.floor(cell)
    across, above = cell - number, (up + 0.042) / 0.084
    if 0.12 < across < 0.82 and 0.0 < above < 1.0 and ya < wide - 0.02 and hash_unit(number, 3, int(look.seed)) > 0.12:
        stroke = hash_unit(
            number * 7 + math.floor(across * 4.0), math.floor(above * 5.0), int(look.seed) + int(is_rear)
        )
        if stroke > 0.38:
            return (MATTE, 0.02, 0.02, 0.05, 0.0)
    if look.plate_kind == YELLOW_PLATE and is_rear:
        return (MATTE, 0.66, 0.48, 0.02, 0.0)
    return (MATTE, 0.66, 0.66, 0.64, 0.0)


@compiled
def grille_detail(look: CarLook, ya: float, y: float, z: float, side: float, bottom: float) -> Surface:
    kind, high = look.grille_kind, look.grille_high
    edge = min(side - ya, min(z - bottom, high - z))
    is_bright = look.chrome > 0.5
    if kind == KIDNEYS:
        if abs(ya - 0.16) > 0.13:
            return _BODY
        edge = min(edge, 0.13 - abs(ya - 0.16))
    if kind == SLOT and z < high - 0.45 * (high - bottom):
        return _BODY
    emblem = badge(look, y, z - 0.5 * (look.grille_low + high))
    if emblem[0] != NOTHING:
        return emblem
    if is_bright and edge < 0.022:
        return (CHROME, 0.6, 0.6, 0.61, 0.0)
    t, share = z / 0.055, 0.30
    if kind in (SLATS, KIDNEYS):
        t = y / 0.055
    solid = t - math.floor(t) < share
    if kind in (MESH_GRILLE, TALL_GRILLE):
        s = y / 0.035 + 0.5 * (math.floor(z / 0.03) % 2.0)
        solid = abs(s - math.floor(s) - 0.5) > 0.40 or z / 0.03 - math.floor(z / 0.03) < 0.18
    if kind == BARS:
        t = z / 0.07
        solid = t - math.floor(t) < 0.4
    if solid:
        tone = 0.5 if is_bright else 0.05
        return (CHROME if is_bright else MATTE, tone, tone, tone, 0.0)
    return (MATTE, 0.007, 0.007, 0.007, 0.0)


@compiled
def badge(look: CarLook, y: float, up: float) -> Surface:
    """Return the surface of a maker's badge about (0, 0)."""
    kind, reach = look.badge, math.hypot(y, up)
    if kind < 0.5 and reach < 0.055:
        return (CHROME, 0.65, 0.65, 0.66, 0.0) if reach > 0.040 or abs(y) < 0.008 else (MATTE, 0.02, 0.02, 0.02, 0.0)
    if 0.5 < kind < 1.5 and math.hypot(y / 1.9, up) < 0.045:
        if math.hypot(y / 1.9, up) > 0.037:
            return (CHROME, 0.6, 0.6, 0.6, 0.0)
        return (MATTE, 0.01, 0.03, 0.20, 0.0)
    if 1.5 < kind < 2.5 and ((abs(y) < 0.085 and abs(up) < 0.016) or (abs(y) < 0.035 and abs(up) < 0.035)):
        return (CHROME, 0.60, 0.42, 0.12, 0.0)
    if 2.5 < kind < 3.5 and reach < 0.075 and (reach > 0.062 or abs(y) < 0.010 or abs(up + 0.5 * abs(y)) < 0.010):
        return (CHROME, 0.7, 0.7, 0.71, 0.0)
    return _BODY


@compiled
def rear_face(look: CarLook, x: float, ya: float, y: float, z: float, nx: float) -> Surface:
    """Return the surface of the rear below the glass; NOTHING where the paint is visible."""
    half = 0.5 * look.length
    on_face = nx < -0.35
    tall = look.tail_high - look.tail_low
    v = (z - look.tail_low) / tall
    outer = look.half_width - 0.02
    u = (ya - look.tail_y) / (outer - look.tail_y)
    in_reach = 0.0 < v < 1.0 and x < -half + look.tail_wrap + 0.10
    if in_reach and u > 0.0:
        lamp = tail_lamp(look, min(u, 1.0), v, outer - look.tail_y, tall)
        if lamp[0] != NOTHING:
            return lamp
    if in_reach and look.tail_bar > 0.5 and on_face and abs(v - 0.7) < 0.18:
        return (PAINT, 0.30, 0.012, 0.014, 0.4 * look.tails_lit + 3.0 * look.brakes)
    if not on_face:
        return (MATTE, 0.02, 0.02, 0.02, 0.0) if z < look.clearance + 0.10 else _BODY
    plate = number_plate(look, y, z - look.plate_rear, True, True)
    if plate[0] != NOTHING:
        return plate
    if look.family == TRUCK:
        return (MATTE, 0.02, 0.02, 0.022, 0.0)
    if look.family == BUS:
        return bus_engine(look, ya, z)
    return rear_panels(look, ya, y, z)


@compiled
def bus_engine(look: CarLook, ya: float, z: float) -> Surface:
    """Return the surface of the engine hatch of a bus: slats, and a seam around them."""
    middle = look.clearance + 0.45 * (look.deck_z - look.clearance)
    if ya < 0.66 * look.half_width and abs(z - middle) < 0.22 * (look.deck_z - look.clearance):
        t = z / 0.06
        tone = 0.012 if t - math.floor(t) < 0.5 else 0.06
        return (MATTE, tone, tone, tone, 0.0)
    if abs(ya - 0.74 * look.half_width) < 0.008 or z < look.clearance + 0.14:
        return (MATTE, 0.02, 0.02, 0.02, 0.0)
    return _BODY


@compiled
def rear_panels(look: CarLook, ya: float, y: float, z: float) -> Surface:
    """Return the surface of the tailgate or doors with handle, letters and badge, or of the bumper below."""
    bumper = look.clearance + 0.40 * (look.deck_z - look.clearance)
    if ya < 0.30 and abs(z - look.plate_rear) < 0.085:
        return (MATTE, 0.035, 0.035, 0.035, 0.0)
    if abs(z - bumper) < 0.010 or (abs(ya - 0.82 * look.half_width) < 0.009 and z > bumper):
        return (MATTE, 0.010, 0.010, 0.010, 0.0)
    if look.rear_doors > 1.5 and ya < 0.010:
        return (MATTE, 0.010, 0.010, 0.010, 0.0)
    if z < bumper:
        return rear_bumper(look, ya, z, bumper)
    over = z - look.plate_rear
    if look.handle < 0.5 and ya < 0.34 and abs(over - 0.105) < 0.018:
        tone = 0.55 if look.chrome > 0.5 else 0.02
        return (CHROME if look.chrome > 0.5 else MATTE, tone, tone, tone, 0.0)
    if 0.5 < look.handle < 1.5 and ya < 0.12 and abs(over - 0.10) < 0.022:
        return (MATTE, 0.010, 0.010, 0.010, 0.0)
    emblem = badge(look, y, over - 0.19)
    if emblem[0] != NOTHING and look.deck_z - look.plate_rear > 0.24:
        return emblem
    if look.lettering > 0.5 and abs(z - look.tail_low - 0.05) < 0.020 and 0.40 < ya / look.half_width < 0.68:
        cell = y / 0.030 + 90.0
        dark = hash_unit(math.floor(cell * 3.0), math.floor(z * 90.0), int(look.seed) + 5) > 0.4
        if dark and cell - math.floor(cell) < 0.75:
            return (CHROME, 0.5, 0.5, 0.5, 0.0)
    return _BODY


@compiled
def rear_bumper(look: CarLook, ya: float, z: float, bumper: float) -> Surface:
    low = look.clearance
    if look.reflectors > 0.5 and 0.66 < ya / look.half_width < 0.88 and abs(z - low - 0.45 * (bumper - low)) < 0.020:
        return (PAINT, 0.35, 0.01, 0.012, 0.0)
    pipe = math.hypot(ya - 0.58 * look.half_width, z - low - 0.085)
    if look.exhausts > 0.5 and pipe < 0.048:
        return (CHROME, 0.5, 0.5, 0.5, 0.0) if pipe > 0.034 else (MATTE, 0.004, 0.004, 0.004, 0.0)
    if look.exhausts > 1.5 and abs(ya - 0.70 * look.half_width) < 0.07 and abs(z - low - 0.085) < 0.032:
        return (CHROME, 0.45, 0.45, 0.45, 0.0)
    if z < low + 0.13 or look.bumper_dark > 0.5 or look.cladding > 0.5:
        return (MATTE, 0.024, 0.024, 0.024, 0.0)
    return _BODY
