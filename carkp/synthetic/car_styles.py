"""The styles of cars with the ranges of their measures, and the paints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """Ranges from which the measures of a car of this style are drawn, in metres; x points forward from its middle."""

    length: Range
    width: Range
    height: Range
    wheel_radius: Range
    clearance: Range
    front_overhang: Range
    rear_overhang: Range
    nose: Range  # height of the bonnet's front edge
    cowl: Range  # height of the windscreen's base
    cowl_back: Range  # distance of the windscreen's base behind the front axle
    screen_run: Range  # horizontal extent of the windscreen
    rear_run: Range  # horizontal extent of the rear glass
    deck_run: Range  # boot lid, or bed
    deck: Range  # height of the rear glass's base
    tumblehome: Range  # inward lean of the cabin, as a slope
    rear_pillar: Range  # thickness of the pillar beside the rear glass
    roof_fall: Range  # depth of the roof's rear edge below its top
    doors: int = 4
    has_bed: bool = False
    glass_sides: int = 3  # windows per side; cargo vans have 1
    family: str = "car"  # car, suv, pickup, van, bus or truck
    least_bonnet: float = 0.25
    cargo: str = ""  # part behind a lorry's cab: box, tank or bed
    cargo_height: Range = (0.0, 0.0)


SEDAN = Style(
    (4.4, 5.05), (1.72, 1.88), (1.38, 1.51), (0.30, 0.345), (0.15, 0.20), (0.80, 0.98), (0.90, 1.12),
    (0.68, 0.82), (0.92, 1.02), (0.30, 0.62), (0.62, 0.90), (0.50, 0.85), (0.50, 0.85), (0.95, 1.08),
    (0.30, 0.46), (0.16, 0.34), (0.03, 0.08), glass_sides=2,
)  # fmt: skip
COUPE = Style(
    (4.15, 4.75), (1.74, 1.90), (1.26, 1.39), (0.31, 0.355), (0.12, 0.17), (0.82, 0.98), (0.85, 1.05),
    (0.62, 0.74), (0.86, 0.96), (0.40, 0.70), (0.70, 0.95), (0.75, 1.05), (0.35, 0.65), (0.90, 1.02),
    (0.38, 0.52), (0.22, 0.40), (0.04, 0.09), doors=2, glass_sides=2,
)  # fmt: skip
HATCHBACK = Style(
    (3.75, 4.35), (1.66, 1.80), (1.42, 1.56), (0.285, 0.33), (0.14, 0.19), (0.74, 0.90), (0.60, 0.78),
    (0.72, 0.86), (0.94, 1.06), (0.18, 0.48), (0.65, 0.95), (0.28, 0.60), (0.04, 0.14), (0.98, 1.12),
    (0.26, 0.42), (0.16, 0.36), (0.05, 0.13), glass_sides=2,
)  # fmt: skip
WAGON = Style(
    (4.45, 4.95), (1.72, 1.86), (1.42, 1.56), (0.30, 0.345), (0.15, 0.21), (0.82, 0.96), (0.88, 1.05),
    (0.70, 0.82), (0.93, 1.03), (0.28, 0.55), (0.65, 0.90), (0.25, 0.50), (0.03, 0.10), (0.98, 1.10),
    (0.24, 0.40), (0.12, 0.24), (0.04, 0.10),
)  # fmt: skip
SUV = Style(
    (4.25, 5.10), (1.78, 2.00), (1.60, 1.90), (0.345, 0.405), (0.19, 0.27), (0.80, 0.95), (0.78, 1.02),
    (0.88, 1.06), (1.06, 1.20), (0.25, 0.55), (0.50, 0.85), (0.12, 0.48), (0.03, 0.09), (1.10, 1.26),
    (0.18, 0.34), (0.12, 0.34), (0.02, 0.10), family="suv",
)  # fmt: skip
SUV_BOXY = Style(
    (3.90, 4.85), (1.76, 1.98), (1.78, 1.98), (0.36, 0.41), (0.22, 0.30), (0.66, 0.86), (0.72, 0.95),
    (0.98, 1.12), (1.14, 1.26), (0.30, 0.60), (0.20, 0.42), (0.04, 0.12), (0.02, 0.05), (1.12, 1.26),
    (0.08, 0.18), (0.08, 0.18), (0.01, 0.04), family="suv",
)  # fmt: skip
SUV_COMPACT = Style(
    (3.95, 4.45), (1.74, 1.84), (1.52, 1.66), (0.32, 0.36), (0.17, 0.22), (0.78, 0.90), (0.66, 0.86),
    (0.82, 0.96), (1.00, 1.12), (0.18, 0.45), (0.62, 0.92), (0.28, 0.60), (0.03, 0.10), (1.04, 1.18),
    (0.22, 0.38), (0.20, 0.44), (0.05, 0.12), glass_sides=2, family="suv",
)  # fmt: skip
SUV_COUPE = Style(
    (4.40, 4.95), (1.84, 2.00), (1.56, 1.70), (0.36, 0.41), (0.18, 0.24), (0.82, 0.94), (0.84, 1.02),
    (0.86, 1.00), (1.04, 1.16), (0.25, 0.55), (0.65, 0.92), (0.75, 1.15), (0.16, 0.32), (1.10, 1.22),
    (0.26, 0.40), (0.22, 0.42), (0.08, 0.16), glass_sides=2, family="suv",
)  # fmt: skip
SUV_LARGE = Style(
    (5.05, 5.70), (1.96, 2.08), (1.82, 1.98), (0.39, 0.43), (0.22, 0.28), (0.88, 1.02), (1.05, 1.30),
    (1.02, 1.16), (1.18, 1.28), (0.35, 0.60), (0.48, 0.72), (0.10, 0.26), (0.02, 0.06), (1.18, 1.30),
    (0.14, 0.26), (0.10, 0.22), (0.02, 0.06), family="suv",
)  # fmt: skip
CITY_CAR = Style(
    (2.70, 3.65), (1.56, 1.68), (1.44, 1.60), (0.27, 0.30), (0.14, 0.19), (0.58, 0.72), (0.45, 0.62),
    (0.74, 0.88), (0.96, 1.06), (0.05, 0.25), (0.60, 0.85), (0.16, 0.42), (0.02, 0.08), (0.98, 1.10),
    (0.22, 0.36), (0.14, 0.30), (0.04, 0.10), doors=2, glass_sides=2,
)  # fmt: skip
MINIVAN = Style(
    (4.65, 5.20), (1.84, 2.00), (1.68, 1.82), (0.31, 0.35), (0.15, 0.20), (0.86, 0.98), (0.85, 1.05),
    (0.80, 0.94), (1.02, 1.12), (-0.05, 0.22), (0.85, 1.15), (0.12, 0.36), (0.03, 0.07), (1.08, 1.18),
    (0.20, 0.32), (0.10, 0.18), (0.04, 0.09),
)  # fmt: skip
PICKUP = Style(
    (5.15, 5.90), (1.86, 2.03), (1.72, 1.96), (0.37, 0.42), (0.24, 0.32), (0.86, 0.98), (1.05, 1.25),
    (0.98, 1.14), (1.14, 1.28), (0.35, 0.62), (0.45, 0.72), (0.10, 0.26), (1.45, 1.95), (1.18, 1.34),
    (0.20, 0.32), (0.10, 0.20), (0.01, 0.05), has_bed=True, glass_sides=2, family="pickup",
)  # fmt: skip
PICKUP_SINGLE = Style(
    (4.90, 5.80), (1.78, 2.03), (1.64, 1.92), (0.34, 0.40), (0.22, 0.30), (0.82, 0.96), (1.00, 1.25),
    (0.92, 1.12), (1.10, 1.26), (0.35, 0.60), (0.45, 0.70), (0.08, 0.22), (2.00, 2.40), (1.10, 1.30),
    (0.18, 0.32), (0.10, 0.20), (0.01, 0.05), doors=2, has_bed=True, glass_sides=2, family="pickup",
)  # fmt: skip
VAN = Style(
    (4.95, 5.85), (1.92, 2.06), (1.95, 2.45), (0.34, 0.38), (0.20, 0.26), (0.84, 1.00), (0.95, 1.35),
    (0.98, 1.14), (1.18, 1.36), (-0.05, 0.25), (0.45, 0.80), (0.05, 0.12), (0.02, 0.04), (1.20, 1.40),
    (0.08, 0.18), (0.12, 0.22), (0.01, 0.05), doors=2, family="van",
)  # fmt: skip
VAN_SMALL = Style(
    (4.10, 4.75), (1.72, 1.84), (1.78, 1.92), (0.30, 0.34), (0.16, 0.21), (0.80, 0.92), (0.70, 0.95),
    (0.84, 0.98), (1.04, 1.16), (0.02, 0.28), (0.60, 0.90), (0.06, 0.16), (0.02, 0.05), (1.06, 1.20),
    (0.10, 0.20), (0.10, 0.20), (0.02, 0.06), family="van",
)  # fmt: skip
VAN_TALL = Style(
    (5.30, 7.00), (1.95, 2.10), (2.45, 2.80), (0.34, 0.38), (0.20, 0.27), (0.90, 1.05), (1.05, 1.60),
    (0.98, 1.16), (1.20, 1.36), (-0.10, 0.20), (0.60, 0.95), (0.05, 0.12), (0.02, 0.04), (1.24, 1.44),
    (0.05, 0.12), (0.12, 0.20), (0.01, 0.04), doors=2, family="van",
)  # fmt: skip
MINIBUS = Style(
    (4.80, 7.00), (1.90, 2.08), (1.95, 2.75), (0.32, 0.37), (0.19, 0.26), (0.86, 1.02), (1.00, 1.50),
    (0.94, 1.12), (1.14, 1.32), (-0.08, 0.22), (0.55, 0.95), (0.06, 0.16), (0.02, 0.05), (1.16, 1.34),
    (0.06, 0.16), (0.10, 0.18), (0.02, 0.05), family="van",
)  # fmt: skip
BUS = Style(
    (9.0, 11.8), (2.40, 2.55), (2.90, 3.20), (0.47, 0.52), (0.28, 0.36), (1.10, 2.40), (2.00, 2.80),
    (1.20, 1.30), (1.38, 1.52), (-2.40, -2.20), (0.12, 0.25), (0.04, 0.10), (0.02, 0.04), (1.50, 1.60),
    (0.04, 0.10), (0.12, 0.20), (0.01, 0.04), doors=2, family="bus",
)  # fmt: skip
CITY_BUS = Style(
    (8.6, 12.4), (2.35, 2.55), (2.80, 3.20), (0.45, 0.50), (0.26, 0.36), (2.20, 2.75), (2.40, 3.30),
    (0.82, 1.00), (0.95, 1.15), (-9.0, -8.0), (0.06, 0.40), (0.04, 0.14), (0.02, 0.04), (1.40, 1.90),
    (0.01, 0.06), (0.12, 0.20), (0.01, 0.04), doors=2, family="bus", least_bonnet=0.09,
)  # fmt: skip
DOUBLE_DECKER = Style(
    (9.4, 11.6), (2.40, 2.55), (4.05, 4.45), (0.46, 0.51), (0.26, 0.36), (2.20, 2.75), (2.20, 2.90),
    (0.84, 1.02), (0.96, 1.15), (-9.0, -8.0), (0.06, 0.60), (0.04, 0.20), (0.02, 0.04), (1.40, 1.75),
    (0.01, 0.04), (0.12, 0.20), (0.02, 0.05), doors=2, family="bus", least_bonnet=0.09,
)  # fmt: skip
COACH = Style(
    (9.4, 12.9), (2.44, 2.55), (3.15, 3.75), (0.48, 0.52), (0.28, 0.38), (2.20, 2.80), (2.60, 3.40),
    (0.92, 1.12), (1.05, 1.30), (-9.0, -8.0), (0.25, 0.80), (0.06, 0.25), (0.02, 0.05), (1.60, 2.10),
    (0.02, 0.07), (0.12, 0.20), (0.02, 0.06), doors=2, family="bus", least_bonnet=0.09,
)  # fmt: skip
SCHOOL_BUS = Style(
    (8.6, 11.6), (2.30, 2.45), (2.85, 3.15), (0.46, 0.50), (0.40, 0.52), (0.85, 1.05), (2.40, 3.20),
    (1.05, 1.25), (1.42, 1.58), (0.10, 0.45), (0.20, 0.40), (0.04, 0.10), (0.02, 0.04), (1.50, 1.65),
    (0.03, 0.08), (0.12, 0.20), (0.02, 0.05), doors=2, family="bus",
)  # fmt: skip
BOX_TRUCK = Style(
    (5.6, 8.2), (1.95, 2.25), (2.15, 2.50), (0.37, 0.46), (0.34, 0.46), (1.00, 1.30), (1.10, 1.90),
    (0.98, 1.16), (1.12, 1.34), (-9.0, -8.0), (0.18, 0.55), (0.04, 0.10), (3.5, 5.4), (0.86, 1.02),
    (0.08, 0.20), (0.12, 0.20), (0.02, 0.05), doors=2, family="truck", least_bonnet=0.12,
    cargo="box", cargo_height=(2.75, 3.55),
)  # fmt: skip
BONNET_TRUCK = Style(
    (6.0, 8.4), (2.00, 2.20), (2.05, 2.40), (0.38, 0.48), (0.36, 0.48), (0.85, 1.05), (1.20, 2.00),
    (1.08, 1.24), (1.28, 1.42), (0.20, 0.50), (0.40, 0.65), (0.05, 0.12), (3.2, 4.9), (0.90, 1.05),
    (0.12, 0.24), (0.12, 0.20), (0.02, 0.05), doors=2, family="truck", cargo="box", cargo_height=(2.85, 3.60),
)  # fmt: skip
LORRY = Style(
    (7.6, 10.6), (2.35, 2.52), (2.80, 3.50), (0.48, 0.53), (0.40, 0.55), (1.25, 1.45), (1.60, 2.60),
    (1.15, 1.35), (1.45, 1.80), (-9.0, -8.0), (0.06, 0.30), (0.04, 0.10), (5.4, 7.9), (1.00, 1.20),
    (0.03, 0.10), (0.12, 0.20), (0.02, 0.06), doors=2, family="truck", least_bonnet=0.08,
    cargo="box", cargo_height=(3.20, 3.95),
)  # fmt: skip
FLATBED = Style(
    (5.6, 9.2), (2.00, 2.50), (2.15, 3.00), (0.40, 0.52), (0.38, 0.52), (1.05, 1.40), (1.20, 2.20),
    (1.00, 1.25), (1.18, 1.60), (-9.0, -8.0), (0.10, 0.45), (0.04, 0.10), (3.4, 6.2), (0.90, 1.15),
    (0.05, 0.16), (0.12, 0.20), (0.02, 0.06), doors=2, family="truck", least_bonnet=0.10,
    cargo="bed", cargo_height=(1.35, 1.85),
)  # fmt: skip
TANKER = Style(
    (7.4, 10.0), (2.30, 2.50), (2.70, 3.20), (0.48, 0.53), (0.40, 0.55), (1.25, 1.45), (1.60, 2.40),
    (1.15, 1.35), (1.45, 1.75), (-9.0, -8.0), (0.08, 0.30), (0.04, 0.10), (5.2, 7.2), (1.00, 1.15),
    (0.03, 0.10), (0.12, 0.20), (0.02, 0.06), doors=2, family="truck", least_bonnet=0.08,
    cargo="tank", cargo_height=(2.70, 3.10),
)  # fmt: skip

STYLES: dict[str, Style] = {
    "sedan": SEDAN,
    "hatchback": HATCHBACK,
    "wagon": WAGON,
    "suv": SUV,
    "suv_boxy": SUV_BOXY,
    "suv_compact": SUV_COMPACT,
    "suv_coupe": SUV_COUPE,
    "suv_large": SUV_LARGE,
    "city_car": CITY_CAR,
    "coupe": COUPE,
    "minivan": MINIVAN,
    "pickup": PICKUP,
    "pickup_single": PICKUP_SINGLE,
    "van": VAN,
    "van_small": VAN_SMALL,
    "van_tall": VAN_TALL,
    "minibus": MINIBUS,
    "bus": BUS,
    "city_bus": CITY_BUS,
    "double_decker": DOUBLE_DECKER,
    "coach": COACH,
    "school_bus": SCHOOL_BUS,
    "box_truck": BOX_TRUCK,
    "bonnet_truck": BONNET_TRUCK,
    "lorry": LORRY,
    "flatbed": FLATBED,
    "tanker": TANKER,
}
PLAIN_SHARES = {
    "sedan": 0.30,
    "suv": 0.21,
    "hatchback": 0.15,
    "wagon": 0.08,
    "minivan": 0.10,
    "pickup": 0.09,
    "van": 0.07,
}
"""Frequency of each style without the ingredient ``vehicles``; the few buses are not labelled then."""
STYLE_SHARES = {
    "sedan": 0.18,
    "hatchback": 0.105,
    "wagon": 0.065,
    "city_car": 0.03,
    "suv": 0.08,
    "suv_boxy": 0.025,
    "suv_compact": 0.045,
    "suv_coupe": 0.02,
    "suv_large": 0.03,
    "minivan": 0.05,
    "pickup": 0.045,
    "pickup_single": 0.02,
    "van": 0.03,
    "van_small": 0.03,
    "van_tall": 0.03,
    "minibus": 0.025,
    "city_bus": 0.055,
    "double_decker": 0.02,
    "coach": 0.035,
    "school_bus": 0.01,
    "box_truck": 0.035,
    "bonnet_truck": 0.01,
    "lorry": 0.025,
    "flatbed": 0.01,
    "tanker": 0.005,
}
"""Frequency with which each style is asked for in training and validation scenes; long ones find room less often."""
UNSEEN_SHARES = {"coupe": 0.10}
"""Frequency of styles that exist only in the test scenes."""
TEST_STYLE_SHARES = {**STYLE_SHARES, **UNSEEN_SHARES}


@dataclass(frozen=True)
class Paint:
    """A paint: name; linear RGB reflectance; share of metal flakes (0..1); frequency."""

    name: str
    colour: tuple[float, float, float]
    metallic: float
    share: float


PAINTS: tuple[Paint, ...] = (
    Paint("white", (0.72, 0.72, 0.70), 0.0, 0.19),
    Paint("silver", (0.46, 0.47, 0.48), 0.8, 0.15),
    Paint("grey", (0.17, 0.175, 0.18), 0.7, 0.12),
    Paint("charcoal", (0.055, 0.058, 0.062), 0.6, 0.07),
    Paint("black", (0.012, 0.012, 0.013), 0.1, 0.14),
    Paint("red", (0.36, 0.018, 0.018), 0.2, 0.07),
    Paint("burgundy", (0.12, 0.012, 0.02), 0.4, 0.04),
    Paint("blue", (0.03, 0.10, 0.36), 0.4, 0.06),
    Paint("navy", (0.012, 0.022, 0.075), 0.4, 0.05),
    Paint("light_blue", (0.22, 0.36, 0.50), 0.6, 0.03),
    Paint("green", (0.022, 0.10, 0.055), 0.4, 0.04),
    Paint("beige", (0.42, 0.36, 0.25), 0.6, 0.05),
    Paint("bronze", (0.17, 0.11, 0.06), 0.7, 0.03),
    Paint("yellow", (0.66, 0.42, 0.03), 0.0, 0.03),
)
TEST_PAINTS: tuple[Paint, ...] = (
    *PAINTS,
    Paint("orange", (0.60, 0.15, 0.015), 0.1, 0.05),
    Paint("teal", (0.02, 0.22, 0.22), 0.3, 0.05),
)
"""Paints of the test scenes; orange and teal exist only there."""


@dataclass(frozen=True)
class CarMeasures:
    """The measures of one car, in metres; x points forward from the middle, z up from the ground."""

    style: str
    length: float
    width: float
    height: float
    wheel_radius: float
    clearance: float
    axle_front: float
    axle_rear: float
    nose: float
    cowl: float
    cowl_x: float
    roof_front_x: float
    roof_rear_x: float
    rear_base_x: float
    deck: float
    tumblehome: float
    rear_pillar: float
    roof_fall: float
    belt_rise: float
    bow: float  # distance by which nose and tail curve back towards the corners
    has_bed: bool
    doors: int
    glass_sides: int
    family: str = "car"
    cargo: str = ""
    cargo_high: float = 0.0  # height of the part behind a lorry's cab
    cargo_half: float = 0.0  # half the width of this part

    @property
    def top(self) -> float:
        """Height of the highest point."""
        return max(self.height, self.cargo_high)


_CARGO_VANS = {"van": 0.5, "van_small": 0.4, "van_tall": 0.8}
"""Probability that a van has no windows behind its doors."""


def draw_measures(name: str, rng: np.random.Generator) -> CarMeasures:
    """Draw one car of a style. Measures of size share one random number, so that long cars are also wide."""
    style = STYLES[name]
    size = rng.uniform()

    def pick(bounds: Range, tied: float = 0.0) -> float:
        t = tied * size + (1.0 - tied) * rng.uniform()
        return bounds[0] + (bounds[1] - bounds[0]) * t

    length, width, height = pick(style.length, 0.6), pick(style.width, 0.6), pick(style.height, 0.3)
    axle_front = length / 2 - pick(style.front_overhang, 0.3)
    axle_rear = -length / 2 + pick(style.rear_overhang, 0.3)
    cowl_x = min(axle_front - pick(style.cowl_back), length / 2 - style.least_bonnet)
    roof_front_x = cowl_x - pick(style.screen_run)
    rear_base_x = -length / 2 + pick(style.deck_run)
    roof_rear_x = rear_base_x + pick(style.rear_run)
    roof_rear_x = min(roof_rear_x, roof_front_x - 0.75)
    cowl = pick(style.cowl, 0.3)
    return CarMeasures(
        style=name,
        length=length,
        width=width,
        height=height,
        wheel_radius=pick(style.wheel_radius, 0.5),
        clearance=pick(style.clearance),
        axle_front=axle_front,
        axle_rear=axle_rear,
        nose=min(pick(style.nose), cowl - 0.08),
        cowl=cowl,
        cowl_x=cowl_x,
        roof_front_x=roof_front_x,
        roof_rear_x=roof_rear_x,
        rear_base_x=min(rear_base_x, roof_rear_x - 0.04),
        deck=pick(style.deck),
        tumblehome=pick(style.tumblehome),
        rear_pillar=pick(style.rear_pillar),
        roof_fall=pick(style.roof_fall),
        belt_rise=rng.uniform(0.0, 0.10) if not (style.has_bed or style.cargo) else 0.0,
        bow=rng.uniform(0.05, 0.16),
        family=style.family,
        cargo=style.cargo,
        cargo_high=pick(style.cargo_height),
        cargo_half=width / 2 + rng.uniform(0.0, 0.12) if style.cargo else 0.0,
        has_bed=style.has_bed,
        doors=style.doors if name not in ("hatchback",) or rng.uniform() < 0.75 else 2,
        glass_sides=1 if name in _CARGO_VANS and rng.uniform() < _CARGO_VANS[name] else style.glass_sides,
    )


def draw_paint(paints: tuple[Paint, ...], rng: np.random.Generator) -> Paint:
    """Draw a paint by its frequency, with a shade a little different from the catalogue's."""
    shares = np.array([paint.share for paint in paints])
    paint = paints[int(rng.choice(len(paints), p=shares / shares.sum()))]
    tone = rng.uniform(0.75, 1.3)
    r, g, b = (float(np.clip(c * tone * rng.uniform(0.92, 1.08), 0.006, 0.8)) for c in paint.colour)
    return Paint(paint.name, (r, g, b), paint.metallic, paint.share)
