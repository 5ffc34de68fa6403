"""The car's surface, computed per pixel from car coordinates, so that lines stay sharp at any size."""

import math

from carkp.synthetic._jit import compiled
from carkp.synthetic.car_faces import front_face, rear_face
from carkp.synthetic.car_look import BUS, NO_CARGO, NO_LIVERY, CarLook
from carkp.synthetic.car_work import (
    BETWEEN_DECKS,
    bus_back,
    bus_display,
    bus_side,
    bus_window,
    cargo_surface,
    livery_paint,
    truck_side,
)
from carkp.synthetic.lighting import Rgb
from carkp.synthetic.materials import CAR_BODY, CAR_CARGO, CAR_DARK, CAR_TRIM, WHEEL
from carkp.synthetic.noise import hash_unit, ramp, value_noise
from carkp.synthetic.surfaces import CHROME, GLASS, LENS, MATTE, PAINT, Surface


@compiled
def car_surface(
    look: CarLook, material: int, x: float, y: float, z: float, at: tuple[float, float, float, float], n: Rgb
) -> Surface:
    """Return the surface at (x, y, z) in car coordinates; ``at``: the mesh's attributes there, n: its normal."""
    a, b, c, d = at
    if material == WHEEL:
        return wheel_surface(look, a, b, c, d)
    if material == CAR_DARK:
        return (MATTE, 0.008, 0.008, 0.008, 0.0)
    if material == CAR_TRIM:
        return trim_surface(look, a, y)
    if material == CAR_CARGO:
        return cargo_surface(look, x, y, z, n)
    if material == CAR_BODY and a < 1.0:
        return (MATTE, 0.012, 0.012, 0.012, 0.0)
    half = 0.5 * look.length
    if x > half - 0.62 and z < look.nose_z + 0.03:
        face = (
            front_face(look, x, abs(y), y, z, n[0]) if look.faces > 0.5 else front_surface(look, x, abs(y), y, z, n[0])
        )
        if face[0] >= 0:
            return face
    in_bed = look.has_bed > 0.5 and a > 3.03 and material == CAR_BODY
    if x < -half + 0.55 and z < look.deck_z + 0.04 and not in_bed:
        face = rear_of(look, x, y, z, n[0])
        if face[0] >= 0:
            return face
    if a > 3.0:
        return top_surface(look, a, d, y, z)
    if a > 2.0:
        return bus_window(look, x, y, z, b, c) if look.family == BUS else cabin_surface(look, d, y, z, b, c)
    if look.family == BUS:
        return bus_side(look, a, x, y, z)
    return side_surface(look, a, x, y, z, b)


@compiled
def front_of(look: CarLook, x: float, y: float, z: float, nx: float) -> Surface:
    if look.faces > 0.5:
        return front_face(look, x, abs(y), y, z, nx)
    return front_surface(look, x, abs(y), y, z, nx)


@compiled
def rear_of(look: CarLook, x: float, y: float, z: float, nx: float) -> Surface:
    if look.faces > 0.5:
        return rear_face(look, x, abs(y), y, z, nx)
    return rear_surface(look, x, abs(y), y, z, nx)


@compiled
def trim_surface(look: CarLook, kind: float, y: float) -> Surface:
    """Return the surface of mirrors, rails, or the sign of a taxi."""
    if kind > 1.5:
        letter = abs(y) < 0.2 and hash_unit(math.floor(y * 22.0), 4, int(look.seed)) > 0.5
        return (MATTE, 0.02, 0.02, 0.02, 0.0) if letter else (MATTE, 0.72, 0.60, 0.12, 0.5)
    if kind > 0.5:
        return (PAINT, look.red, look.green, look.blue, 0.0)
    return (MATTE, 0.02, 0.02, 0.02, 0.0)


@compiled
def wheel_surface(look: CarLook, ex: float, ez: float, rho: float, outer: float) -> Surface:
    if rho > 0.69 or outer < 0.5:
        shade = 0.020 if abs(rho - 0.8) > 0.02 else 0.03
        return (MATTE, shade, shade, shade, 0.0)
    tone = look.rim_tone
    if rho > 0.60 or rho < 0.17:
        return (CHROME, tone, tone, tone * 1.02, 0.0)
    spokes = look.rim_spokes
    phase = math.atan2(ez, ex) * spokes / (2.0 * math.pi) + look.seed
    off = abs(phase - math.floor(phase) - 0.5)
    if off < 0.27 - 0.10 * (rho - 0.17):
        return (CHROME, 0.9 * tone, 0.9 * tone, 0.92 * tone, 0.0)
    return (MATTE, 0.015, 0.015, 0.016, 0.0)


@compiled
def paint_at(look: CarLook, z: float, x: float, y: float) -> Surface:
    """Return the paint, with dust towards the sills."""
    if look.livery != NO_LIVERY:
        return livery_paint(look, x, y, z)
    dust = look.dirt * 0.5 * ramp(0.75, 0.2, z) * (0.6 + 0.4 * value_noise(x * 5.0, z * 7.0 + y, 3))
    r = look.red + (0.20 - look.red) * dust
    g = look.green + (0.18 - look.green) * dust
    b = look.blue + (0.15 - look.blue) * dust
    return (PAINT, r, g, b, 0.0)


@compiled
def seam(distance: float) -> bool:
    return abs(distance) < 0.007


@compiled
def side_surface(look: CarLook, a: float, x: float, y: float, z: float, below_belt: float) -> Surface:
    """Return the surface of the side below the belt line: doors, handles, sills, arches."""
    if truck_side(look, x, z):
        return (MATTE, 0.018, 0.018, 0.020, 0.0)
    arch = look.arch
    front = math.hypot(x - look.axle_front, z - look.wheel_z)
    rear = math.hypot(x - look.axle_rear, z - look.wheel_z)
    near = min(front, rear)
    if look.cladding > 0.5 and (near < arch + 0.07 or z < look.clearance + 0.17):
        return (MATTE, 0.025, 0.025, 0.025, 0.0)
    if near < arch + 0.012 or z < look.clearance + 0.03:
        return (MATTE, 0.03, 0.03, 0.03, 0.0)
    if a > 1.93:
        tone = 0.5 if look.chrome > 0.5 else 0.03
        inside = look.glass_rear < x < look.cowl_x - 0.1
        return (CHROME if look.chrome > 0.5 else MATTE, tone, tone, tone, 0.0) if inside else paint_at(look, z, x, y)
    door_front = look.cowl_x - 0.22
    if z > look.clearance + 0.12:
        lean = 0.08 * (z - 0.6)
        is_line = seam(x - door_front - lean) or seam(x - look.pillar_b)
        is_line = is_line or (look.door_rear > -50 and near > arch + 0.02 and seam(x - look.door_rear - 2 * lean))
        is_line = is_line or (seam(z - look.clearance - 0.125) and look.axle_rear < x < look.axle_front)
        is_line = is_line or (look.sliding_door > 0.5 and abs(below_belt + 0.14) < 0.012 and x < look.pillar_b)
        if is_line and x > look.axle_rear - 0.9:
            return (MATTE, 0.01, 0.01, 0.01, 0.0)
    handle = abs(below_belt + 0.12) < 0.018
    door_end = look.pillar_b + 0.08
    if handle and (door_end < x < door_end + 0.2 or look.door_rear + 0.08 < x < look.door_rear + 0.28):
        tone = 0.45 if look.chrome > 0.5 else 0.02
        return (CHROME if look.chrome > 0.5 else MATTE, tone, tone, tone, 0.0)
    return paint_at(look, z, x, y)


@compiled
def cabin_surface(look: CarLook, x: float, y: float, z: float, above_belt: float, below_edge: float) -> Surface:
    """Return the surface of the greenhouse: side windows and the pillars between them."""
    glass = above_belt > 0.015 and below_edge > 0.045
    if x > look.roof_front_x:
        glass = glass and below_edge > 0.11 and x < look.cowl_x - 0.28
    if x < look.roof_rear_x + 0.05:
        run = max(look.roof_rear_x - look.rear_base_x, 0.05)
        slope = (look.height - look.deck_z) / run
        glass = glass and below_edge > look.rear_pillar * min(slope, 2.5)
        glass = glass and x > look.rear_base_x + look.rear_pillar
    glass = glass and x > look.glass_rear
    if look.cargo_kind > NO_CARGO:
        if truck_side(look, x, z):
            return (MATTE, 0.018, 0.018, 0.020, 0.0)
        glass = glass and x > look.roof_rear_x + 0.35
    if abs(x - look.pillar_b) < 0.045 or abs(x - look.pillar_c) < 0.04:
        if glass:
            return (MATTE, 0.015, 0.015, 0.015, 0.0)
        glass = False
    if glass:
        return (GLASS, 0.02, 0.022, 0.024, 0.0)
    if above_belt < 0.0:
        return (MATTE, 0.02, 0.02, 0.02, 0.0)
    return paint_at(look, z, x, y)


@compiled
def top_surface(look: CarLook, a: float, x: float, y: float, z: float) -> Surface:
    """Return the surface of the top: bonnet, windscreen, roof, rear glass, deck or bed."""
    if look.roof_front_x + 0.02 < x < look.cowl_x:
        if x > look.cowl_x - 0.035:
            return (MATTE, 0.012, 0.012, 0.012, 0.0)
        if a > 3.05:
            return windscreen(look, y, (z - look.cowl_z) / (look.height - look.cowl_z))
        return (PAINT, look.red, look.green, look.blue, 0.0)
    if look.rear_base_x + 0.01 < x < look.roof_rear_x - 0.02:
        if look.family == BUS:
            return bus_back(look, y, z)
        if look.cargo_kind > NO_CARGO:
            return paint_at(look, z, x, y)
        margin = 3.15 if look.has_bed > 0.5 else 3.06
        if a > margin and z > look.deck_z + 0.03 and not (look.glass_rear > -1.0 and look.glass_rear > look.axle_rear):
            return rear_glass(look, y, (z - look.deck_z) / (look.height - look.deck_z))
        return paint_at(look, z, x, y)
    if look.cargo_kind > NO_CARGO and x < look.rear_base_x:
        return (MATTE, 0.018, 0.018, 0.020, 0.0)
    if look.has_bed > 0.5 and x < look.rear_base_x and a > 3.06:
        if z < look.deck_z - 0.06:
            return (MATTE, 0.02, 0.02, 0.02, 0.0)
        return (PAINT, look.red, look.green, look.blue, 0.0)
    if x >= look.cowl_x and abs(abs(y) - (0.80 * look.half_width - 0.06 * (x - look.cowl_x))) < 0.006:
        return (MATTE, 0.01, 0.01, 0.01, 0.0)
    if look.dark_roof > 0.5 and look.roof_rear_x < x < look.roof_front_x:
        return (PAINT, 0.012, 0.012, 0.012, 0.0)
    return (PAINT, look.red, look.green, look.blue, 0.0)


@compiled
def windscreen(look: CarLook, y: float, t: float) -> Surface:
    """Return the windscreen: glass with wipers and mirror, or a bus's display. t: 0 at the base, 1 at the top."""
    if look.faces > 0.5:
        if look.upper_deck > 0.0:
            z = look.cowl_z + t * (look.height - look.cowl_z)
            if look.upper_deck < z < look.upper_deck + BETWEEN_DECKS or z > look.height - 0.3:
                up = (z - look.upper_deck - 0.15) / max(look.display, 0.01)
                has_display = look.display > 0.0 and 0.0 < up < 1.0
                return bus_display(look, y, up) if has_display else paint_at(look, z, 0.5 * look.length, y)
            if abs(y) < 0.012 and look.wipers > 0.5:
                return (MATTE, 0.015, 0.015, 0.015, 0.0)
        elif look.family == BUS:
            share = look.display / (look.height - look.cowl_z)
            if t > 0.97 - share:
                return (
                    bus_display(look, y, (t - 0.97 + share) / share)
                    if share > 0.0 and t < 0.97
                    else paint_at(look, look.height, 0.5 * look.length, y)
                )
            if abs(y) < 0.012 and look.wipers > 0.5:
                return (MATTE, 0.015, 0.015, 0.015, 0.0)
        reach = 0.09 + 0.10 * abs(math.sin(2.6 * y / look.half_width + look.wipers))
        if abs(t - reach) < 0.012 and abs(y) < 0.8 * look.half_width:
            return (MATTE, 0.012, 0.012, 0.012, 0.0)
        if look.family != BUS and t > 0.84 and abs(y) < 0.11 and t < 0.94:
            return (MATTE, 0.010, 0.010, 0.010, 0.0)
    return (GLASS, 0.02, 0.022, 0.024, 0.0)


@compiled
def rear_glass(look: CarLook, y: float, t: float) -> Surface:
    """Return the rear glass with wiper, third brake lamp or seam of two doors. t: 0 at the base, 1 at the top."""
    if look.faces > 0.5:
        if look.third_brake > 0.5 and 0.86 < t < 0.925 and abs(y) < 0.17:
            return (LENS, 0.35, 0.01, 0.012, 6.0 * look.brakes)
        if look.rear_doors > 1.5 and abs(y) < 0.05:
            return (MATTE, 0.015, 0.015, 0.015, 0.0)
        if t > 0.92:
            return (PAINT, look.red, look.green, look.blue, 0.0)
        if look.rear_wiper > 0.5 and abs(t - 0.10 - 0.10 * max(y, 0.0)) < 0.018 and -0.05 < y < 0.36:
            return (MATTE, 0.008, 0.008, 0.008, 0.0)
    return (GLASS, 0.015, 0.017, 0.018, 0.0)


@compiled
def front_surface(look: CarLook, x: float, ya: float, y: float, z: float, nx: float) -> Surface:
    """Return the surface of headlights, grille, intake, plate; finish -1 where the body is visible."""
    half = 0.5 * look.length
    on_face = nx > 0.35
    slant = 0.35 * (look.light_high - z)
    if look.light_low < z < look.light_high and ya > look.light_y + slant and x > half - look.light_wrap - 0.12:
        return headlight(look, ya, z, x)
    if not on_face:
        if z < look.clearance + 0.10:
            return (MATTE, 0.02, 0.02, 0.02, 0.0)
        return (-1, 0.0, 0.0, 0.0, 0.0)
    if look.plate_front > 0.5 and ya < 0.155 and abs(z - look.intake_high - 0.08) < 0.075:
        ink = hash_unit(int((y + 1.0) * 28.0), 0, int(look.seed)) > 0.45 and abs(z - look.intake_high - 0.08) < 0.04
        return (MATTE, 0.10, 0.12, 0.25, 0.0) if ink and ya < 0.12 else (MATTE, 0.6, 0.6, 0.58, 0.0)
    if ya < look.grille_y and look.grille_low < z < look.grille_high:
        return grille(look, ya, y, z)
    low = look.clearance + 0.05
    fog = ya > 0.62 * look.half_width and low + 0.04 < z < look.intake_high - 0.02
    if fog:
        lamp = math.hypot(ya - 0.74 * look.half_width, z - 0.5 * (low + look.intake_high)) < 0.045
        return (LENS, 0.6, 0.6, 0.58, 0.0) if lamp else (MATTE, 0.012, 0.012, 0.012, 0.0)
    if ya < 0.58 * look.half_width and low < z < look.intake_high:
        return (MATTE, 0.012, 0.012, 0.012, 0.0)
    if z < low or (look.bumper_dark > 0.5 and z < look.intake_high + 0.16):
        return (MATTE, 0.028, 0.028, 0.028, 0.0)
    return (-1, 0.0, 0.0, 0.0, 0.0)


@compiled
def headlight(look: CarLook, ya: float, z: float, x: float) -> Surface:
    """Return a clear lens over a bright reflector, with an amber corner on some cars."""
    middle_z = 0.5 * (look.light_low + look.light_high)
    tall = look.light_high - look.light_low
    if min(z - look.light_low, look.light_high - z) < 0.012:
        return (MATTE, 0.03, 0.03, 0.03, 0.0)
    if look.amber > 0.5 and x < 0.5 * look.length - 0.24:
        return (LENS, 0.55, 0.20, 0.02, 0.05)
    lamp_y = look.light_y * 0.4 + look.half_width * 0.52
    distance = math.hypot(ya - lamp_y, z - middle_z)
    if distance < 0.36 * tall:
        return (LENS, 0.85, 0.85, 0.82, 0.25 + 3.0 * look.headlights)
    ribs = 0.07 * math.sin(ya * 160.0)
    return (LENS, 0.52 + ribs, 0.53 + ribs, 0.54 + ribs, 0.08)


@compiled
def grille(look: CarLook, ya: float, y: float, z: float) -> Surface:
    edge = min(look.grille_y - ya, min(z - look.grille_low, look.grille_high - z))
    if look.chrome > 0.5 and edge < 0.02:
        return (CHROME, 0.55, 0.55, 0.56, 0.0)
    middle = 0.5 * (look.grille_low + look.grille_high)
    if math.hypot(ya, z - middle) < 0.05:
        return (CHROME, 0.6, 0.6, 0.62, 0.0)
    bars = look.grille_bars
    if bars < 0.5:
        return (MATTE, 0.012, 0.012, 0.012, 0.0)
    t = (z / 0.045) if bars < 1.5 else (y / 0.05)
    if t - math.floor(t) < 0.35:
        tone = 0.4 if look.chrome > 0.5 else 0.06
        return (CHROME if look.chrome > 0.5 else MATTE, tone, tone, tone, 0.0)
    return (MATTE, 0.012, 0.012, 0.012, 0.0)


@compiled
def rear_surface(look: CarLook, x: float, ya: float, y: float, z: float, nx: float) -> Surface:
    """Return the surface of tail lights, plate, bumper, boot lines; finish -1 where the body is visible."""
    half = 0.5 * look.length
    on_face = nx < -0.35
    tall = look.tail_high - look.tail_low
    is_bar = look.tail_bar > 0.5 and on_face and abs(z - look.tail_high + 0.3 * tall) < 0.3 * tall
    in_height = look.tail_low < z < look.tail_high and x < -half + look.tail_wrap + 0.10
    if in_height and (ya > look.tail_y or is_bar):
        return tail_light(look, ya, z)
    if not on_face:
        if z < look.clearance + 0.10:
            return (MATTE, 0.02, 0.02, 0.02, 0.0)
        return (-1, 0.0, 0.0, 0.0, 0.0)
    if ya < 0.155 and abs(z - look.plate_rear) < 0.075:
        ink = hash_unit(int((y + 1.0) * 28.0), 1, int(look.seed)) > 0.45 and abs(z - look.plate_rear) < 0.04
        return (MATTE, 0.10, 0.12, 0.30, 0.0) if ink and ya < 0.12 else (MATTE, 0.58, 0.58, 0.52, 0.0)
    if ya < 0.26 and abs(z - look.plate_rear) < 0.10:
        return (MATTE, 0.05, 0.05, 0.05, 0.0)
    bumper = look.clearance + 0.40 * (look.deck_z - look.clearance)
    if abs(z - bumper) < 0.009 or (abs(ya - 0.82 * look.half_width) < 0.008 and z > bumper):
        return (MATTE, 0.012, 0.012, 0.012, 0.0)
    if z < look.clearance + 0.12 or (z < bumper and look.bumper_dark > 0.5):
        return (MATTE, 0.028, 0.028, 0.028, 0.0)
    if look.chrome > 0.5 and ya < 0.25 and abs(z - look.plate_rear - 0.11) < 0.015:
        return (CHROME, 0.5, 0.5, 0.5, 0.0)
    return (-1, 0.0, 0.0, 0.0, 0.0)


@compiled
def tail_light(look: CarLook, ya: float, z: float) -> Surface:
    """Return a red lens with a white reversing lamp in it."""
    t = (z - look.tail_low) / (look.tail_high - look.tail_low)
    if t < 0.05 or t > 0.95:
        return (MATTE, 0.05, 0.005, 0.005, 0.0)
    if 0.12 < t < 0.34 and ya < look.tail_y + 0.15:
        return (LENS, 0.55, 0.5, 0.5, 0.03)
    glow = 0.12 + 2.2 * look.brakes * (1.0 if t > 0.5 else 0.3)
    return (LENS, 0.42 + 0.05 * math.sin(z * 210.0), 0.012, 0.014, glow)
