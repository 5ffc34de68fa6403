"""The view through windows: seats, head rests, wheel and driver in a dim cabin, and daylight from the far windows."""

import math

from carkp.synthetic._jit import compiled
from carkp.synthetic.car_look import BUS, CarLook
from carkp.synthetic.lighting import Light, Rgb
from carkp.synthetic.noise import hash_unit

SKIN, CLOTH, SEAT, DASH, VOID, DAYLIGHT = 0, 1, 2, 3, 4, 5


@compiled
def cabin_view(light: Light, look: CarLook, p: Rgb, d: Rgb, behind: Rgb) -> Rgb:
    """Return the radiance seen through glass at ``p`` in direction ``d``, both in the car's axes."""
    clear = (1.0 - look.tint) ** 1.5
    if look.glass_rear < p[0] and p[0] > look.pillar_b - 0.05:
        clear = 0.35 + 0.65 * clear  # front windows are rarely tinted
    inside = 0.55 * clear
    what = first_inside(look, p, d)
    r, g, b = 0.012, 0.012, 0.013
    if what == DAYLIGHT:
        r, g, b = 0.62 * clear, 0.62 * clear, 0.62 * clear
    elif what == SEAT:
        r, g, b = inside * look.seat_tone, inside * 0.95 * look.seat_tone, inside * 0.9 * look.seat_tone
    elif what == SKIN:
        r, g, b = inside * 0.26, inside * 0.17, inside * 0.12
    elif what == CLOTH:
        hue = hash_unit(1, 7, int(look.seed))
        r, g, b = inside * (0.03 + 0.2 * hue), inside * 0.08, inside * (0.22 - 0.18 * hue)
    elif what == DASH:
        r, g, b = inside * 0.03, inside * 0.03, inside * 0.03
    return (
        behind[0] * 0.3 + r * light.horizon_red + 0.006 * light.horizon_red,
        behind[1] * 0.3 + g * light.horizon_green + 0.006 * light.horizon_green,
        behind[2] * 0.3 + b * light.horizon_blue + 0.006 * light.horizon_blue,
    )


@compiled
def first_inside(look: CarLook, p: Rgb, d: Rgb) -> int:
    """Return what a ray meets first: the planes of front seats and dashboard and of rear seats, then far windows."""
    is_big = look.family == BUS
    front_seat = 0.5 * look.length - 1.5 if is_big else look.pillar_b + 0.12
    rear_seat = max(front_seat - 0.95, look.rear_base_x + 0.25)
    floor = look.height - 1.05 if not is_big else look.clearance + 0.75
    first, second = (front_seat, rear_seat) if d[0] < 0.0 else (rear_seat, front_seat)
    for k in range(2):
        at = first if k == 0 else second
        if is_big and k == 1:
            break
        if abs(d[0]) < 0.02 or (at - p[0]) / d[0] <= 0.0:
            continue
        t = (at - p[0]) / d[0]
        y, z = p[1] + t * d[1], p[2] + t * d[2]
        if abs(y) < look.half_width - 0.08:
            met = at_seat(look, y, z, at == front_seat, d[0] < 0.0, floor)
            if met != VOID:
                return met
    return far_window(look, p, d, floor)


@compiled
def at_seat(look: CarLook, y: float, z: float, is_front: bool, from_front: bool, floor: float) -> int:
    """Return what a ray meets in the plane of seats: seat back, head rest, person, steering wheel or dashboard."""
    offset = 0.21 * (2.0 * look.half_width)
    if look.family == BUS:
        offset = 0.75
    top = floor + 0.62
    if is_front and look.driver > 0.5 and is_person(y - offset, z - top, from_front):
        return SKIN if z > top - 0.02 and (from_front or z < top + 0.02) else CLOTH
    if is_front and look.passenger > 0.5 and is_person(y + offset, z - top, from_front):
        return SKIN if z > top - 0.02 and from_front else CLOTH
    if is_front and from_front:
        if z < floor + 0.12:
            return DASH
        rim = math.hypot(y - offset, (z - floor - 0.10) / 0.6)
        if abs(rim - 0.19) < 0.018:
            return DASH
    across = abs(abs(y) - offset)
    if z < floor + 0.36 and across < 0.25 - 0.08 * max(z - floor - 0.2, 0.0):
        return SEAT
    if floor + 0.40 < z < floor + 0.58 and across < 0.12:
        return SEAT
    if floor + 0.36 <= z <= floor + 0.40 and abs(across - 0.05) < 0.012:
        return SEAT
    return VOID


@compiled
def is_person(across: float, up: float, from_front: bool) -> bool:
    """Return whether a point is on a person's head or shoulders; coordinates are relative to the seat's top."""
    if math.hypot(across / 0.085, (up - 0.02) / 0.125) < 1.0:
        return True
    return math.hypot(across / 0.24, (up + 0.36) / 0.24) < 1.0 and (from_front or up > -0.3)


@compiled
def far_window(look: CarLook, p: Rgb, d: Rgb, floor: float) -> int:
    """Return DAYLIGHT if the ray leaves through a far side window, the rear window or the windscreen, else VOID."""
    side_t, end_t = 1e6, 1e6
    if abs(d[1]) > 0.02:
        side = 1.0 if d[1] > 0.0 else -1.0
        side_t = (side * (look.half_width - 0.14) - p[1]) / d[1]
    if abs(d[0]) > 0.02:
        end = look.rear_base_x if d[0] < 0.0 else look.cowl_x - 0.2
        end_t = (end - p[0]) / d[0]
    t = min(side_t, end_t)
    if t < 0.25 or t > 1e5:
        return VOID
    x, y, z = p[0] + t * d[0], p[1] + t * d[1], p[2] + t * d[2]
    is_high = z > max(floor + 0.10, look.deck_z + 0.02) and z < look.height - 0.16
    if not is_high:
        return VOID
    if side_t < end_t:
        is_open = look.rear_base_x + 0.2 < x < look.cowl_x - 0.35 and x > look.glass_rear
        is_post = abs(x - look.pillar_b) < 0.06 or abs(x - look.pillar_c) < 0.05
        return DAYLIGHT if is_open and not is_post else VOID
    has_glass = look.rear_window > 0.5 and (d[0] > 0.0 or look.glass_rear < look.axle_rear) and look.cargo_kind < 0.5
    return DAYLIGHT if has_glass and abs(y) < look.half_width - 0.28 else VOID
