"""The twelve keypoints of a car: names, CarFusion ids, flip pairs and skeleton."""

KEYPOINT_NAMES: tuple[str, ...] = (
    "right_front_wheel",
    "left_front_wheel",
    "right_back_wheel",
    "left_back_wheel",
    "right_front_light",
    "left_front_light",
    "right_back_light",
    "left_back_light",
    "right_front_roof",
    "left_front_roof",
    "right_back_roof",
    "left_back_roof",
)
"""Right and left are the car's own, seen from the driver's seat."""

NUM_KEYPOINTS = len(KEYPOINT_NAMES)

CARFUSION_IDS: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)
"""CarFusion's 1-based id of each keypoint; 9 (exhaust) and 14 (centre) are practically never labelled."""

FLIP_PAIRS: tuple[tuple[int, int], ...] = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11))
"""Index pairs that a horizontal flip of the image exchanges."""

FLIP_ORDER: tuple[int, ...] = (1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10)
"""``points[FLIP_ORDER]`` exchanges right and left."""

FRONT_BACK_ORDER: tuple[int, ...] = (2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9)
"""``points[FRONT_BACK_ORDER]`` exchanges front and back."""

SKELETON: tuple[tuple[int, int], ...] = (
    (0, 2),
    (1, 3),
    (0, 1),
    (2, 3),
    (0, 4),
    (1, 5),
    (2, 6),
    (3, 7),
    (4, 5),
    (6, 7),
    (4, 8),
    (5, 9),
    (6, 10),
    (7, 11),
    (8, 9),
    (10, 11),
    (8, 10),
    (9, 11),
)
"""Index pairs that are joined by a line in drawings."""

MISSING, OCCLUDED, VISIBLE = 0, 1, 2
"""Validity of a keypoint in ``simple_anno`` and in the stores: 0 missing, 1 occluded (still scored), 2 visible."""
