"""Sides and tails of buses and lorries: windows, doors, liveries, displays, cargo."""

import math

from carkp.synthetic._jit import compiled
from carkp.synthetic.car_look import BED, CURTAIN, LOW_BAND, SCHOOL, SWOOSH, TANK, TWO_TONE, WRITING, CarLook
from carkp.synthetic.noise import hash_unit, ramp, value_noise
from carkp.synthetic.surfaces import CHROME, GLASS, MATTE, PAINT, Surface


@compiled
def livery_paint(look: CarLook, x: float, y: float, z: float) -> Surface:
    """Return the body's paint or the livery's second colour."""
    kind = look.livery
    second = False
    if kind == LOW_BAND:
        second = abs(z - look.livery_z) < 0.12
    elif kind == TWO_TONE:
        second = z < look.livery_z + 0.05
    elif kind == SWOOSH:
        along = (x + 0.5 * look.length) / look.length
        second = z < look.clearance + (look.height - look.clearance) * (0.95 - 1.25 * along)
    elif kind == SCHOOL:
        second = abs(z - look.livery_z) < 0.025 or abs(z - look.livery_z - 0.35) < 0.025
    elif kind == WRITING:
        second = abs(y) > 0.8 * look.half_width and writing(look, x, z - look.livery_z - 0.25, 0.34)
    if second:
        return (PAINT, look.trim_red, look.trim_green, look.trim_blue, 0.0)
    dust = look.dirt * 0.5 * ramp(0.9, 0.2, z) * (0.6 + 0.4 * value_noise(x * 5.0, z * 7.0 + y, 3))
    return (
        PAINT,
        look.red + (0.20 - look.red) * dust,
        look.green + (0.18 - look.green) * dust,
        look.blue + (0.15 - look.blue) * dust,
        0.0,
    )


@compiled
def writing(look: CarLook, along: float, up: float, tall: float) -> bool:
    """Return whether (along, up) is on one of some broad letters, ``tall`` metres high, centred at height 0."""
    if abs(up) > 0.5 * tall:
        return False
    cell = along / (0.7 * tall) + 300.0
    number = math.floor(cell)
    across, above = cell - number, up / tall + 0.5
    if across > 0.78 or hash_unit(math.floor(number / 7.0), 9, int(look.seed)) < 0.35:
        return False
    stroke = math.floor(across * 3.9) + 4 * math.floor(above * 5.0)
    return hash_unit(number, stroke, int(look.seed) + 2) > 0.42


BETWEEN_DECKS = 0.65
"""Height of the band between the windows of the two decks of a double-decker, in metres."""


@compiled
def in_door(look: CarLook, x: float, y: float) -> float:
    """Return the distance of (x, y) inside a bus's door from its edge, in metres; negative outside."""
    if y * look.kerb < 0.0:
        return -1.0
    front = 0.5 * look.length - 0.85
    if look.cowl_x < 0.5 * look.length - 0.6:
        front = look.cowl_x - 0.95
    first = 0.55 - abs(x - front)
    middle = 0.65 - abs(x + 0.04 * look.length)
    return max(first, middle if look.display > 0.0 and look.livery != SCHOOL else -1.0)


@compiled
def bus_side(look: CarLook, a: float, x: float, y: float, z: float) -> Surface:
    """Return the surface of a bus below and beside its windows: glass doors, hatches, livery."""
    near = min(math.hypot(x - look.axle_front, z - look.wheel_z), math.hypot(x - look.axle_rear, z - look.wheel_z))
    if near < look.arch + 0.02 or z < look.clearance + 0.04:
        return (MATTE, 0.025, 0.025, 0.025, 0.0)
    door = in_door(look, x, y)
    if door > 0.0 and z > look.clearance + 0.08:
        return door_glass(look, x, door, z)
    hatch = x / 1.35
    if z < look.livery_z and abs(hatch - math.floor(hatch + 0.5)) < 0.006:
        return (MATTE, 0.02, 0.02, 0.02, 0.0)
    if abs(z - look.livery_z + 0.14) < 0.007:
        return (MATTE, 0.03, 0.03, 0.03, 0.0)
    return livery_paint(look, x, y, z)


@compiled
def door_glass(look: CarLook, x: float, door: float, z: float) -> Surface:
    if door < 0.05 or abs(door - 0.56) < 0.04 or z < look.clearance + 0.16:
        return (MATTE, 0.02, 0.02, 0.02, 0.0)
    return (GLASS, 0.02, 0.022, 0.024, 0.0)


@compiled
def bus_window(look: CarLook, x: float, y: float, z: float, above_belt: float, below_edge: float) -> Surface:
    """Return the surface of the rows of side windows and their frames."""
    door = in_door(look, x, y)
    if look.upper_deck > 0.0:
        if z > look.upper_deck + BETWEEN_DECKS:
            above_belt, door = z - look.upper_deck - BETWEEN_DECKS, -1.0
        else:
            below_edge = look.upper_deck + 0.30 - z
    if door > 0.0 and below_edge > 0.30:
        return door_glass(look, x, door, z)
    is_window = above_belt > 0.03 and below_edge > 0.30 and abs(x) < 0.5 * look.length - 0.25
    t = x / look.window_period
    pillar = abs(t - math.floor(t + 0.5)) * look.window_period
    if is_window and x < look.cowl_x - 0.15:
        if pillar < 0.045 or above_belt < 0.06 or below_edge < 0.34:
            return (MATTE, 0.015, 0.015, 0.015, 0.0)
        if abs(below_edge - 0.62) < 0.012:
            return (MATTE, 0.03, 0.03, 0.03, 0.0)
        return (GLASS, 0.02, 0.022, 0.024, 0.0)
    return livery_paint(look, x, y, z)


@compiled
def bus_display(look: CarLook, y: float, up: float) -> Surface:
    """Return lit letters on black; ``up`` goes from 0 to 1 over the height of the display."""
    if 0.2 < up < 0.8 and abs(y) < 0.62 * look.half_width:
        cell = y / 0.16 + 100.0
        number = math.floor(cell)
        across = cell - number
        stroke = math.floor(across * 4.0) + 5 * math.floor(up * 8.0)
        if across < 0.75 and hash_unit(number, stroke, int(look.seed) + 8) > 0.5:
            return (MATTE, 0.85, 0.45, 0.03, 1.6)
    return (MATTE, 0.012, 0.012, 0.012, 0.0)


@compiled
def bus_back(look: CarLook, y: float, z: float) -> Surface:
    """Return the tail above the engine: a window if there is one, a route number, the livery."""
    ya, low = abs(y), look.deck_z
    if look.upper_deck > 0.0:
        low = look.upper_deck + 0.4 * BETWEEN_DECKS
        if z < low:
            return livery_paint(look, -0.5 * look.length, y, z)
    t = (z - low) / (look.height - low)
    if look.rear_window > 0.5 and 0.12 < t < 0.78 and ya < 0.80 * look.half_width:
        if ya > 0.77 * look.half_width or t < 0.15 or t > 0.75:
            return (MATTE, 0.015, 0.015, 0.015, 0.0)
        return (GLASS, 0.015, 0.017, 0.018, 0.0)
    if look.display > 0.0 and 0.80 < t < 0.95 and ya < 0.35 * look.half_width:
        return bus_display(look, y, (t - 0.80) / 0.15)
    if t > 0.93 and abs(ya - 0.8 * look.half_width) < 0.10:
        return (PAINT, 0.38, 0.01, 0.012, 0.7 * look.tails_lit + 5.0 * look.brakes)
    return livery_paint(look, -0.5 * look.length, y, z)


@compiled
def cargo_surface(look: CarLook, x: float, y: float, z: float, n: tuple[float, float, float]) -> Surface:
    """Return the surface of a lorry's box, curtain, tank or bed."""
    red, green, blue = look.cargo_red, look.cargo_green, look.cargo_blue
    kind = look.cargo_kind
    if n[2] < -0.6:
        return (MATTE, 0.01, 0.01, 0.01, 0.0)
    if kind == TANK:
        seam = abs(x / 1.5 - math.floor(x / 1.5 + 0.5)) < 0.012
        if seam or (abs(abs(y) - 0.05) < 0.006 and n[0] < -0.7):
            return (CHROME, 0.2, 0.2, 0.2, 0.0)
        return (CHROME, 0.25 + 0.5 * red, 0.25 + 0.5 * green, 0.25 + 0.5 * blue, 0.0)
    if kind == BED:
        board = z / 0.14
        tone = 0.7 if board - math.floor(board) < 0.1 else 1.0
        return (MATTE, 0.5 * tone * red, 0.5 * tone * green, 0.5 * tone * blue, 0.0)
    if n[0] < -0.7:
        return cargo_doors(look, y, z)
    rim = min(look.cargo_high - z, z - look.cargo_low)
    if rim < 0.06 or (abs(n[1]) > 0.7 and min(look.cargo_front - x, x + 0.5 * look.length) < 0.06):
        return (CHROME, 0.42, 0.42, 0.43, 0.0)
    if abs(n[1]) > 0.7:
        if kind == CURTAIN:
            fold = 0.85 + 0.15 * math.sin(x * 11.0)
            red, green, blue = red * fold, green * fold, blue * fold
            if rim < 0.16 and abs(x / 0.6 - math.floor(x / 0.6 + 0.5)) < 0.03:
                return (MATTE, 0.02, 0.02, 0.02, 0.0)
        middle = look.cargo_low + 0.58 * (look.cargo_high - look.cargo_low)
        if look.livery != 0.0 and writing(look, x, z - middle, 0.62):
            return (PAINT, look.trim_red, look.trim_green, look.trim_blue, 0.0)
        if look.livery == TWO_TONE and z < middle - 0.5:
            return (PAINT, look.trim_red, look.trim_green, look.trim_blue, 0.0)
        if kind != CURTAIN and abs(x / 1.2 - math.floor(x / 1.2 + 0.5)) < 0.006:
            return (MATTE, 0.7 * red, 0.7 * green, 0.7 * blue, 0.0)
    return (PAINT, red, green, blue, 0.0)


@compiled
def cargo_doors(look: CarLook, y: float, z: float) -> Surface:
    """Return the tail of a box: two doors with lock rods, or a shutter of slats; marker lamps in the corners."""
    ya, rim = abs(y), look.cargo_high - z
    if rim < 0.09 and look.cargo_half - ya < 0.35 and rim > 0.03 and look.cargo_half - ya > 0.12:
        return (PAINT, 0.38, 0.01, 0.012, 0.8 * look.tails_lit + 2.0 * look.brakes)
    if rim < 0.10 or look.cargo_half - ya < 0.07 or z - look.cargo_low < 0.08:
        return (CHROME, 0.40, 0.40, 0.41, 0.0)
    red, green, blue = 0.92 * look.cargo_red, 0.92 * look.cargo_green, 0.92 * look.cargo_blue
    if look.seed % 1.0 < 0.4:
        slat = z / 0.30
        if slat - math.floor(slat) < 0.06:
            return (MATTE, 0.4 * red, 0.4 * green, 0.4 * blue, 0.0)
        if ya < 0.12 and 0.05 < z - look.cargo_low - 0.08 < 0.13:
            return (MATTE, 0.02, 0.02, 0.02, 0.0)
        return (PAINT, red, green, blue, 0.0)
    if ya < 0.012 or abs(ya - 0.22) < 0.020 or abs(ya - 0.62 * look.cargo_half) < 0.020:
        return (CHROME, 0.35, 0.35, 0.35, 0.0) if ya > 0.05 else (MATTE, 0.01, 0.01, 0.01, 0.0)
    if look.cargo_half - ya < 0.13 and abs(z / 0.6 - math.floor(z / 0.6 + 0.5)) < 0.05:
        return (MATTE, 0.03, 0.03, 0.03, 0.0)
    if look.livery != 0.0 and writing(look, y, z - 0.62 * look.cargo_high - 0.38 * look.cargo_low, 0.36):
        return (PAINT, look.trim_red, look.trim_green, look.trim_blue, 0.0)
    return (PAINT, red, green, blue, 0.0)


@compiled
def truck_side(look: CarLook, x: float, z: float) -> bool:
    """Return whether a point on a lorry's side is on the chassis: behind the cab, under the cargo."""
    return look.cargo_kind > 0.5 and x < look.rear_base_x + 0.02 and z < look.cargo_low + 0.05
