"""The look of a car other than its shape, as numbers for the shader: colours, lamps, grille, glass, livery, cargo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from carkp.synthetic.car_body import arch_radius
from carkp.synthetic.car_styles import CarMeasures, Paint

CAR, BUS, TRUCK = 0.0, 1.0, 2.0
FAMILIES = {"bus": BUS, "truck": TRUCK}
NO_LIVERY, LOW_BAND, TWO_TONE, SWOOSH, SCHOOL, WRITING = 0.0, 1.0, 2.0, 3.0, 4.0, 5.0
ROUND_LAMP, REFLECTORS, PROJECTORS, LED_LAMP, BROW_LAMP, RIBBED_LAMP = 0.0, 1.0, 2.0, 3.0, 4.0, 5.0
CLOSED, BARS, SLATS, MESH_GRILLE, KIDNEYS, TALL_GRILLE, SLOT = 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0
PLAIN_TAIL, LED_TAIL, CLEAR_TAIL, STACKED_TAIL, ROUND_TAIL, SMOKED_TAIL = 0.0, 1.0, 2.0, 3.0, 4.0, 5.0
US_PLATE, WHITE_PLATE, YELLOW_PLATE = 0.0, 1.0, 2.0
NO_CARGO, BOX, CURTAIN, TANK, BED = 0.0, 1.0, 2.0, 3.0, 4.0


class CarLook(NamedTuple):
    """Input of the car's shader in addition to the mesh: metres in the car's own axes, linear colours, 0/1 switches."""

    red: float
    green: float
    blue: float
    metallic: float
    length: float
    half_width: float
    height: float
    cowl_x: float
    cowl_z: float
    roof_front_x: float
    roof_rear_x: float
    rear_base_x: float
    axle_front: float
    axle_rear: float
    wheel_z: float
    arch: float
    clearance: float
    nose_z: float
    deck_z: float
    pillar_b: float
    pillar_c: float
    door_rear: float
    glass_rear: float  # side windows end here
    rear_pillar: float
    sliding_door: float
    has_bed: float
    bed_floor: float
    cladding: float  # black sills and arches
    bumper_dark: float
    light_y: float  # inner edge of the headlight
    light_low: float
    light_high: float
    light_wrap: float
    grille_y: float
    grille_low: float
    grille_high: float
    grille_bars: float
    chrome: float
    intake_high: float
    tail_y: float
    tail_low: float
    tail_high: float
    tail_wrap: float
    tail_bar: float
    plate_rear: float
    plate_front: float
    brakes: float
    headlights: float
    amber: float
    tint: float
    dirt: float
    rim_spokes: float
    rim_tone: float
    dark_roof: float
    seed: float
    family: float  # CAR, BUS or TRUCK
    faces: float  # 1: detailed front, rear and cabin
    trim_red: float  # the livery's second colour, and letters on it
    trim_green: float
    trim_blue: float
    livery: float  # NO_LIVERY and so on
    livery_z: float
    lamp_kind: float
    drl: float
    grille_kind: float
    badge: float
    fog_kind: float
    skid: float  # silver plate under the bumper
    plate_kind: float  # US, white, white and yellow
    wipers: float
    driver: float
    passenger: float
    seat_tone: float
    tail_kind: float
    tails_lit: float
    reverse: float
    exhausts: float
    rear_wiper: float
    third_brake: float
    rear_doors: float  # 2: a seam down the middle, windows in both
    handle: float
    lettering: float
    reflectors: float
    display: float  # height of a bus's destination display; 0: none
    upper_deck: float  # height of the lower deck's ceiling; 0: there is no upper deck
    kerb: float  # side of a bus's doors: 1 left, -1 right
    window_period: float
    rear_window: float  # 0: none
    cargo_kind: float
    cargo_red: float
    cargo_green: float
    cargo_blue: float
    cargo_front: float
    cargo_low: float
    cargo_high: float
    cargo_half: float


_RECORD = np.dtype([(name, np.float64) for name in CarLook._fields])


def look_table(look: CarLook) -> Sequence[CarLook]:
    """Return ``look`` as a table with one row: kernels pass a row by its address, but a tuple number by number."""
    return cast(Sequence[CarLook], np.array([tuple(look)], _RECORD))


def draw_look(m: CarMeasures, paint: Paint, rng: np.random.Generator, has_faces: bool, is_night: bool) -> CarLook:
    """Draw lights, grille, windows, trim and dirt for a car with these measures."""
    half = m.width / 2
    doors = _door_lines(m, rng)
    return CarLook(
        red=paint.colour[0],
        green=paint.colour[1],
        blue=paint.colour[2],
        metallic=paint.metallic,
        length=m.length,
        half_width=half,
        height=m.height,
        cowl_x=m.cowl_x,
        cowl_z=m.cowl,
        roof_front_x=m.roof_front_x,
        roof_rear_x=m.roof_rear_x,
        rear_base_x=m.rear_base_x,
        axle_front=m.axle_front,
        axle_rear=m.axle_rear,
        wheel_z=m.wheel_radius,
        arch=arch_radius(m),
        clearance=m.clearance,
        nose_z=m.nose,
        deck_z=m.deck,
        **doors,
        rear_pillar=m.rear_pillar,
        has_bed=float(m.has_bed),
        bed_floor=0.55 * m.deck,
        **_front_look(m, rng),
        **_rear_look(m, rng),
        cladding=float((m.family in ("suv", "pickup", "van") or m.style == "wagon") and rng.uniform() < 0.4),
        bumper_dark=float(rng.uniform() < (0.45 if m.family in ("van", "pickup", "bus", "truck") else 0.12)),
        chrome=float(rng.uniform() < 0.55),
        brakes=float(rng.uniform() < 0.35),
        headlights=float(rng.uniform() < (0.85 if is_night else 0.25)),
        tint=float(rng.uniform(0.15, 0.75)),
        dirt=float(rng.uniform(0, 1) ** 2),
        rim_spokes=float(rng.integers(5, 11)),
        rim_tone=float(rng.choice([0.03, 0.25, 0.45, 0.6])),
        dark_roof=float(rng.uniform() < 0.05),
        seed=float(rng.uniform(0, 1000)),
        family=FAMILIES.get(m.family, CAR),
        faces=float(has_faces),
        **_livery(m, rng),
        **_front_details(m, rng),
        **_rear_details(m, rng, is_night),
        **_cabin_details(m, rng),
        **_cargo_look(m, rng),
    )


def _door_lines(m: CarMeasures, rng: np.random.Generator) -> dict[str, float]:
    front = m.cowl_x - 0.25
    door = 1.25 if m.doors == 2 else min(1.05, 0.45 * (front - m.axle_rear))
    pillar_b = front - door
    rear = pillar_b - 0.85 if m.doors == 4 else pillar_b
    wants_quarter = m.glass_sides == 3
    glass_rear = pillar_b if m.glass_sides == 1 else m.rear_base_x
    return {
        "pillar_b": pillar_b,
        "pillar_c": rear - 0.03 if wants_quarter else -99.0,
        "door_rear": max(rear, m.axle_rear + 0.02) if m.doors == 4 else -99.0,
        "glass_rear": glass_rear,
        "sliding_door": float(m.style == "minivan" or m.family == "van"),
    }


def _front_look(m: CarMeasures, rng: np.random.Generator) -> dict[str, float]:
    half, face = m.width / 2, m.nose - m.clearance
    high = m.nose - rng.uniform(0.05, 0.09)
    tall = rng.uniform(0.16, 0.26) * face / 0.6
    light_y = half * rng.uniform(0.48, 0.66)
    return {
        "light_y": light_y,
        "light_low": high - tall,
        "light_high": high,
        "light_wrap": rng.uniform(0.22, 0.45),
        "grille_y": light_y - rng.uniform(0.03, 0.16),
        "grille_low": high - tall * rng.uniform(0.8, 1.4),
        "grille_high": high - rng.uniform(-0.01, 0.02),
        "grille_bars": float(rng.integers(0, 3)),
        "intake_high": m.clearance + face * rng.uniform(0.24, 0.36),
        "plate_front": float(rng.uniform() < 0.6),
        "amber": float(rng.uniform() < 0.5),
    }


def _rear_look(m: CarMeasures, rng: np.random.Generator) -> dict[str, float]:
    half = m.width / 2
    tall = (m.family != "car" or m.style in ("minivan", "wagon", "hatchback")) and rng.uniform() < 0.75
    high = m.deck - rng.uniform(0.07, 0.12)
    height = rng.uniform(0.26, 0.42) if tall else rng.uniform(0.14, 0.22)
    return {
        "tail_y": half - (rng.uniform(0.22, 0.30) if tall else rng.uniform(0.34, 0.55)),
        "tail_low": high - height,
        "tail_high": high,
        "tail_wrap": rng.uniform(0.10, 0.20) if tall else rng.uniform(0.18, 0.34),
        "tail_bar": float(not tall and rng.uniform() < 0.15),
        "plate_rear": high - height - rng.uniform(-0.06, 0.12),
    }


def _pick(rng: np.random.Generator, shares: dict[float, float]) -> float:
    weights = np.array(list(shares.values()))
    return float(rng.choice(list(shares), p=weights / weights.sum()))


def _bright(rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw the colour of a livery: white or a saturated one."""
    if rng.uniform() < 0.3:
        return (0.7, 0.7, 0.68)
    low, high = rng.uniform(0.01, 0.06), rng.uniform(0.15, 0.55)
    r, g, b = rng.permutation([low, float(rng.uniform(low, high)), high])
    return (float(r), float(g), float(b))


def _livery(m: CarMeasures, rng: np.random.Generator) -> dict[str, float]:
    red, green, blue = _bright(rng)
    kind = NO_LIVERY
    if m.style == "school_bus":
        kind, (red, green, blue) = SCHOOL, (0.012, 0.012, 0.012)
    elif m.family == "bus":
        kind = _pick(rng, {NO_LIVERY: 0.15, LOW_BAND: 0.25, TWO_TONE: 0.3, SWOOSH: 0.2, WRITING: 0.1})
    elif m.family in ("van", "truck"):
        kind = _pick(rng, {NO_LIVERY: 0.6, LOW_BAND: 0.1, TWO_TONE: 0.05, SWOOSH: 0.05, WRITING: 0.2})
    at = rng.uniform(0.25, 0.6)
    return {
        "trim_red": red,
        "trim_green": green,
        "trim_blue": blue,
        "livery": kind,
        "livery_z": m.clearance + at * (m.cowl - m.clearance),
        "kerb": -1.0 if rng.uniform() < 0.85 else 1.0,
        "window_period": rng.uniform(1.1, 1.8),
        "display": rng.uniform(0.22, 0.36) if m.family == "bus" and rng.uniform() < 0.85 else 0.0,
        "upper_deck": rng.uniform(2.05, 2.25) if m.style == "double_decker" else 0.0,
    }


def _front_details(m: CarMeasures, rng: np.random.Generator) -> dict[str, float]:
    is_work = m.family in ("bus", "truck")
    lamps = {ROUND_LAMP: 0.05, REFLECTORS: 0.27, PROJECTORS: 0.22, LED_LAMP: 0.17, BROW_LAMP: 0.14, RIBBED_LAMP: 0.15}
    if m.style in ("suv_boxy", "city_car") or is_work:
        lamps[ROUND_LAMP] = 0.3
    grilles = {BARS: 0.28, SLATS: 0.12, MESH_GRILLE: 0.2, KIDNEYS: 0.06, TALL_GRILLE: 0.16, SLOT: 0.12, CLOSED: 0.06}
    if m.family == "bus":
        grilles = {CLOSED: 0.45, BARS: 0.25, SLOT: 0.2, MESH_GRILLE: 0.1}
    return {
        "lamp_kind": _pick(rng, lamps),
        "drl": float(rng.uniform() < 0.4),
        "grille_kind": _pick(rng, grilles),
        "badge": float(rng.integers(0, 5)),
        "fog_kind": float(rng.integers(0, 4)),
        "skid": float(m.family == "suv" and rng.uniform() < 0.4),
        "plate_kind": _pick(rng, {US_PLATE: 0.35, WHITE_PLATE: 0.5, YELLOW_PLATE: 0.15}),
        "wipers": float(rng.integers(0, 3)),
    }


def _rear_details(m: CarMeasures, rng: np.random.Generator, is_night: bool) -> dict[str, float]:
    tails = {PLAIN_TAIL: 0.3, LED_TAIL: 0.22, CLEAR_TAIL: 0.12, STACKED_TAIL: 0.14, ROUND_TAIL: 0.07, SMOKED_TAIL: 0.15}
    if m.family in ("van", "truck", "bus"):
        tails = {PLAIN_TAIL: 0.25, STACKED_TAIL: 0.5, ROUND_TAIL: 0.2, LED_TAIL: 0.05}
    has_wiper = m.family in ("suv", "van") or m.style in ("hatchback", "wagon", "minivan", "city_car")
    return {
        "tail_kind": _pick(rng, tails),
        "tails_lit": float(rng.uniform() < (0.85 if is_night else 0.15)),
        "reverse": float(rng.uniform() < 0.03),
        "exhausts": float(rng.choice([0, 1, 2], p=[0.35, 0.4, 0.25])) if m.family in ("car", "suv", "pickup") else 0.0,
        "rear_wiper": float(has_wiper and rng.uniform() < 0.8),
        "third_brake": float(rng.uniform() < 0.75),
        "rear_doors": 2.0 if m.family == "van" and rng.uniform() < 0.6 else 1.0,
        "handle": float(rng.integers(0, 4)),
        "lettering": float(rng.uniform() < 0.7),
        "reflectors": float(rng.uniform() < 0.55),
        "rear_window": float(m.family != "bus" or rng.uniform() < 0.75),
    }


def _cabin_details(m: CarMeasures, rng: np.random.Generator) -> dict[str, float]:
    return {
        "driver": float(rng.uniform() < 0.55),
        "passenger": float(rng.uniform() < 0.25),
        "seat_tone": float(rng.choice([0.02, 0.05, 0.12, 0.30], p=[0.4, 0.3, 0.2, 0.1])),
    }


def _cargo_look(m: CarMeasures, rng: np.random.Generator) -> dict[str, float]:
    kinds = {"": NO_CARGO, "tank": TANK, "bed": BED}
    kind = kinds[m.cargo] if m.cargo in kinds else _pick(rng, {BOX: 0.75, CURTAIN: 0.25})
    red, green, blue = (0.68, 0.68, 0.66) if rng.uniform() < 0.55 else _bright(rng)
    return {
        "cargo_kind": kind,
        "cargo_red": red,
        "cargo_green": green,
        "cargo_blue": blue,
        "cargo_front": m.rear_base_x - 0.08,
        "cargo_low": m.deck + 0.01,
        "cargo_high": m.cargo_high,
        "cargo_half": m.cargo_half,
    }
