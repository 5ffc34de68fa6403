import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carkp.keypoints.codec import DecoderKind, HeatmapCodec, tied_window
from carkp.keypoints.heatmap_tensors import oracle_errors_px


def make_codec(sigma: float = 1.0, window: int = 5, decoder: DecoderKind = "averaged") -> HeatmapCodec:
    return HeatmapCodec((32, 32), 4, sigma, window, decoder, background_weight=0.1)


def one_point(x: float, y: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([[[x, y]]]), torch.tensor([[2]])


def test_target_is_the_formula_with_an_unrounded_centre() -> None:
    points, validity = one_point(50.0, 30.0)
    heatmap = make_codec(sigma=1.5).encode(points, validity).heatmaps[0, 0]
    for row, column in ((7, 12), (8, 13), (6, 10)):
        squared = (column - 12.5) ** 2 + (row - 7.5) ** 2
        assert heatmap[row, column].item() == pytest.approx(math.exp(-squared / (2 * 1.5**2)), rel=1e-5)


def test_weights_are_one_near_a_tenth_far_and_zero_on_a_missing_keypoint() -> None:
    points = torch.tensor([[[64.0, 64.0], [64.0, 64.0]]])
    weights = make_codec().encode(points, torch.tensor([[1, 0]])).weights
    assert weights[0, 0, 16, 16] == 1
    assert weights[0, 0, 16, 19] == 1
    assert weights[0, 0, 16, 20] == pytest.approx(0.1)
    assert weights[0, 1].abs().max() == 0


def test_targets_are_zero_where_the_weight_says_background() -> None:
    points, validity = one_point(64.0, 64.0)
    target = make_codec(sigma=2.0).encode(points, validity)
    assert target.heatmaps[target.weights < 1].abs().max() == 0


@settings(max_examples=60, deadline=None)
@given(st.floats(16, 108), st.floats(16, 108), st.sampled_from([0.8, 1.0, 1.5, 2.0, 2.5]))
def test_dark_round_trip_is_unbiased_for_any_sigma(x: float, y: float, sigma: float) -> None:
    points, validity = one_point(x, y)
    codec = make_codec(sigma=sigma, decoder="dark")
    decoded = codec.decode(codec.encode(points, validity).heatmaps)
    assert (decoded.points - points).norm().item() < 0.15


def test_fixed_window_biases_a_wide_sigma_and_the_tied_one_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    points = 16 + 96 * torch.rand(200, 12, 2, generator=generator)
    validity = torch.full((200, 12), 2)
    fixed = oracle_errors_px(make_codec(2.0, 5), points, validity).mean().item()
    tied = oracle_errors_px(make_codec(2.0, tied_window(2.0)), points, validity).mean().item()
    assert fixed == pytest.approx(0.89, abs=0.02)  # the reference's own measurement
    assert tied < 0.3


def test_reference_setting_has_the_measured_round_trip_error() -> None:
    generator = torch.Generator().manual_seed(0)
    points = 16 + 96 * torch.rand(200, 12, 2, generator=generator)
    errors = oracle_errors_px(make_codec(), points, torch.full((200, 12), 2))
    assert errors.mean().item() == pytest.approx(0.12, abs=0.02)


def test_tied_window_is_the_reference_window_at_sigma_one() -> None:
    assert [tied_window(sigma) for sigma in (0.5, 1.0, 1.5, 2.0)] == [3, 5, 7, 9]


def test_averaged_decoder_is_the_weighted_mean_around_the_peak() -> None:
    heatmaps = torch.zeros(1, 1, 32, 32)
    heatmaps[0, 0, 10, 20], heatmaps[0, 0, 10, 21], heatmaps[0, 0, 11, 20] = 1.0, 0.5, 0.5
    heatmaps[0, 0, 10, 25] = 0.9  # beyond the window
    decoded = make_codec().decode(heatmaps)
    assert decoded.points[0, 0].tolist() == pytest.approx([4 * 20.25, 4 * 10.25])
    assert decoded.scores[0, 0] == 1.0


def test_averaged_decoder_counts_cells_beyond_the_map_as_zero() -> None:
    heatmaps = torch.zeros(1, 1, 32, 32)
    heatmaps[0, 0, 0, 0], heatmaps[0, 0, 0, 1] = 1.0, 1.0
    assert make_codec().decode(heatmaps).points[0, 0].tolist() == pytest.approx([2.0, 0.0])


@pytest.mark.parametrize("decoder", ["averaged", "dark"])
def test_empty_and_negative_maps_decode_to_finite_points(decoder: DecoderKind) -> None:
    codec = make_codec(decoder=decoder)
    for value in (0.0, -1.0):
        assert codec.decode(torch.full((2, 12, 32, 32), value)).points.isfinite().all()


def test_oracle_error_leaves_out_missing_points_and_points_off_the_map() -> None:
    points = torch.tensor([[[64.0, 64.0], [-20.0, 64.0], [64.0, 64.0]]])
    errors = oracle_errors_px(make_codec(), points, torch.tensor([[2, 2, 0]]))
    assert errors.shape == (1,)


def test_encode_and_decode_keep_points_apart_by_keypoint_and_sample() -> None:
    points = torch.tensor([[[20.0, 30.0], [90.0, 40.0]], [[60.0, 100.0], [10.0, 110.0]]])
    codec = make_codec(decoder="dark")
    decoded = codec.decode(codec.encode(points, torch.ones(2, 2)).heatmaps).points
    assert (decoded - points).abs().max() < 0.1


def test_other_map_sizes_and_bad_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"heatmaps must be \(32, 32\)"):
        make_codec().decode(torch.zeros(1, 12, 16, 16))
    with pytest.raises(ValueError, match="window"):
        make_codec(window=4)
    with pytest.raises(ValueError, match="sigma"):
        make_codec(sigma=0.0)
