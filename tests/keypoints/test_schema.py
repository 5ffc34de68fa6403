from carkp.keypoints.schema import CARFUSION_IDS, FLIP_ORDER, FLIP_PAIRS, KEYPOINT_NAMES, SKELETON


def test_flip_order_exchanges_right_and_left_of_each_pair() -> None:
    for right, left in FLIP_PAIRS:
        assert (FLIP_ORDER[right], FLIP_ORDER[left]) == (left, right)
        assert KEYPOINT_NAMES[right].replace("right", "left") == KEYPOINT_NAMES[left]


def test_ids_leave_out_exhaust_and_centre() -> None:
    assert set(range(1, 15)) - set(CARFUSION_IDS) == {9, 14}


def test_skeleton_is_symmetric() -> None:
    edges = {frozenset(edge) for edge in SKELETON}
    assert {frozenset((FLIP_ORDER[a], FLIP_ORDER[b])) for a, b in SKELETON} == edges
