"""Labels that a network makes for itself: carried to the other view exactly, learnt as far as they are trusted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from carkp.data import geometry
from carkp.data.transforms import EvalTransform, TrainTransform
from carkp.keypoints.heatmap_tensors import Decoded
from carkp.keypoints.schema import FLIP_ORDER
from carkp.training.evaluate import Batch
from carkp.training.mean_teacher import (
    BatchViews,
    MeanTeacher,
    carry_points,
    measure_consistency,
    pseudo_labels,
    trust,
)
from tests.training.nets import ALONE, CODEC, INPUT_SIZE, make_batch

SIZE = (64, 96)
STRONG = TrainTransform(SIZE, 0.5, True, 0.0, 0.0, 0.75, 1.3, 0.08, 8.0)
WEAK = TrainTransform(SIZE, 0.5, True, 0.0, 0.0)
STILL = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
INSIDE = (16.0, 12.0)


def seen(points: np.ndarray, view: object) -> np.ndarray:
    """Where the keypoints are in a view, by their names there: what labels of it would say."""
    moved = geometry.move_points(points, view.matrix)
    return moved[list(FLIP_ORDER)] if view.is_flipped else moved


@given(st.integers(20, 200), st.integers(20, 200), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_points_map_exactly_between_the_views(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    crop, points = (
        np.zeros((height, width, 3), np.uint8),
        rng.uniform(0, min(height, width), (12, 2)).astype(np.float32),
    )
    weak, strong = WEAK.view(crop, rng), STRONG.view(crop, rng)
    to_strong = geometry.compose(strong.matrix, geometry.invert(weak.matrix)).astype(np.float32)
    is_mirrored = torch.tensor([weak.is_flipped != strong.is_flipped])
    found = carry_points(torch.from_numpy(seen(points, weak))[None], torch.from_numpy(to_strong)[None], is_mirrored)
    np.testing.assert_allclose(found[0].numpy(), seen(points, strong), atol=2e-3)


@pytest.mark.parametrize("seed", range(8))
def test_a_mark_in_the_picture_is_where_its_point_is_carried(seed: int) -> None:
    """In pixels: a bright patch is found in the weak view and looked for in the strong one."""
    rng = np.random.default_rng(seed)
    crop = np.zeros((60, 90, 3), np.uint8)
    crop[27:33, 37:43] = 255
    weak, strong = WEAK.view(crop, rng), STRONG.view(crop, rng)
    to_strong = geometry.compose(strong.matrix, geometry.invert(weak.matrix)).astype(np.float32)
    in_weak, in_strong = (centroid(view.image[0]) for view in (weak, strong))
    found = carry_points(
        torch.tensor(in_weak).expand(1, 12, 2), torch.from_numpy(to_strong)[None], torch.tensor([False])
    )
    np.testing.assert_allclose(found[0, 0].numpy(), in_strong, atol=0.5)


def centroid(luma: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: luma.shape[0], : luma.shape[1]]
    weight = luma.astype(np.float32)
    return np.array([(weight * x).sum(), (weight * y).sum()], np.float32) / weight.sum()


def views_of(num: int, weak: Tensor | None = None, shift: float = 0.0, is_mirrored: bool = False) -> BatchViews:
    to_strong = STILL.repeat(num, 1, 1)
    to_strong[:, 0, 2] = shift
    return BatchViews(
        rows=torch.arange(num),
        weak=torch.zeros(num, 3, *INPUT_SIZE, dtype=torch.uint8) if weak is None else weak,
        to_strong=to_strong,
        is_mirrored=torch.full((num,), is_mirrored),
    )


def test_in_a_mirror_image_left_and_right_have_each_others_confidence() -> None:
    scores = torch.linspace(0, 1, 12)[None]
    decoded = Decoded(torch.full((1, 12, 2), 10.0), scores)
    kept = pseudo_labels(decoded, views_of(1), INPUT_SIZE, 0.0).confidence
    swapped = pseudo_labels(decoded, views_of(1, is_mirrored=True), INPUT_SIZE, 0.0).confidence
    assert torch.equal(kept, scores)
    assert torch.equal(swapped, scores[:, list(FLIP_ORDER)])


def test_trust_is_the_height_of_the_peak_from_the_threshold_on() -> None:
    assert trust(torch.tensor([-0.2, 0.0, 0.49, 0.5, 0.8, 1.3]), 0.5).tolist() == pytest.approx([0, 0, 0, 0.5, 0.8, 1])
    assert trust(torch.tensor([-0.2, 0.3]), 0.0).tolist() == pytest.approx([0.0, 0.3])


def test_what_lies_off_the_strong_view_is_not_learnt() -> None:
    decoded = Decoded(torch.tensor([[[INPUT_SIZE[1] - 3.0, 5.0]] * 12]), torch.ones(1, 12))
    assert pseudo_labels(decoded, views_of(1, shift=2.0), INPUT_SIZE, 0.5).confidence.sum() == 12
    assert pseudo_labels(decoded, views_of(1, shift=4.0), INPUT_SIZE, 0.5).confidence.sum() == 0


class FixedTeacher(nn.Module):
    """Gives a peak of the same height for every keypoint, wherever it looks."""

    def __init__(self, height: float) -> None:
        super().__init__()
        target = CODEC.encode(torch.tensor([[INSIDE] * 12]), torch.ones(1, 12))
        self.register_buffer("heatmaps", height * target.heatmaps)

    def forward(self, images: Tensor) -> Tensor:
        return self.heatmaps.expand(len(images), -1, -1, -1)


def term_of(height: float, num_unlabelled: int = 4, weight: float = 1.0) -> tuple[float, Tensor, MeanTeacher]:
    """The term, its gradient at the student's heatmaps of a batch of four, and who made it."""
    teacher = MeanTeacher(CODEC, lambda images: images.float(), 0.5, weight, False, None)
    heatmaps = torch.zeros(4, 12, 8, 8, requires_grad=True)
    batch = {"views": views_of(num_unlabelled)}
    term = teacher(batch, torch.zeros(4, 3, *INPUT_SIZE), heatmaps, FixedTeacher(height).eval())  # type: ignore[arg-type]
    term.backward()
    assert heatmaps.grad is not None
    return float(term.detach()), heatmaps.grad, teacher


def test_a_keypoint_is_learnt_as_much_as_it_is_trusted() -> None:
    sure, doubtful = term_of(1.0), term_of(0.6)
    assert sure[0] > 0
    assert doubtful[0] == pytest.approx(0.6 * sure[0], rel=1e-4)  # the label is the same, its weight is not
    torch.testing.assert_close(doubtful[1], 0.6 * sure[1], rtol=1e-4, atol=1e-6)


def test_a_keypoint_below_the_threshold_is_not_learnt() -> None:
    term, gradient, teacher = term_of(0.4)
    assert term == 0
    assert gradient.abs().sum() == 0
    assert teacher.take_trusted_share() == 0


def test_the_term_is_of_the_unlabelled_rows_and_of_its_weight() -> None:
    whole, half, doubled = term_of(1.0), term_of(1.0, num_unlabelled=2), term_of(1.0, weight=2.0)
    assert half[0] == pytest.approx(whole[0] / 2)
    assert half[1][2:].abs().sum() == 0
    assert doubled[0] == pytest.approx(2 * whole[0])
    assert whole[2].take_trusted_share() == 1


def test_a_batch_without_unlabelled_samples_has_no_term() -> None:
    teacher = MeanTeacher(CODEC, lambda images: images.float(), 0.5, 1.0, False, None)
    batch: Batch = make_batch(0, 4, torch.Generator())  # type: ignore[assignment]
    term = teacher(batch, torch.zeros(4, 3, *INPUT_SIZE), torch.ones(4, 12, 8, 8), FixedTeacher(1.0))
    assert float(term) == 0
    assert np.isnan(teacher.take_trusted_share())


def consistency_of(forward: object, weak: Tensor, strong: Tensor, shift: float) -> object:
    batch = {**make_batch(0, len(weak), torch.Generator()), "image": strong, "views": views_of(len(weak), weak, shift)}
    return measure_consistency(forward, [batch], CODEC, 0.1, 0.5, ALONE.device)  # type: ignore[arg-type, list-item]


def brightest(images: Tensor) -> Tensor:
    """A network that puts every keypoint on the brightest pixel."""
    flat = images[:, 0].flatten(1).argmax(dim=1)
    points = torch.stack((flat % INPUT_SIZE[1], flat // INPUT_SIZE[1]), dim=-1).float()
    return CODEC.encode(points[:, None].expand(-1, 12, -1), torch.ones(len(images), 12)).heatmaps


def spot(x: int, y: int = 12) -> Tensor:
    images = torch.zeros(2, 3, *INPUT_SIZE, dtype=torch.uint8)
    images[:, :, y, x] = 255
    return images


def test_who_finds_the_same_place_in_both_views_agrees_with_itself() -> None:
    found = consistency_of(brightest, spot(8), spot(12), shift=4.0)
    assert (found.agreement, found.trusted, found.num_cars) == (1.0, 1.0, 2)
    assert found.confidence == pytest.approx(1.0)


def test_who_finds_another_place_does_not() -> None:
    assert consistency_of(brightest, spot(8), spot(20), shift=4.0).agreement == 0.0


def test_who_trusts_nothing_has_no_agreement() -> None:
    found = consistency_of(lambda images: 0.3 * brightest(images), spot(8), spot(12), shift=4.0)
    assert np.isnan(found.agreement)
    assert found.trusted == 0.0
    assert found.confidence == pytest.approx(0.3)


def test_plain_views_of_validation_are_weak_ones() -> None:
    crop = np.zeros((40, 50, 3), np.uint8)
    view = EvalTransform(SIZE).view(crop)
    assert not view.is_flipped
    np.testing.assert_allclose(view.matrix[:, :2], np.eye(2) * min(SIZE[0] / 40, SIZE[1] / 50))
