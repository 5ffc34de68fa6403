"""Batches that hold the shares of their sources, whatever the number of workers and ranks."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carkp.config.schema import AugmentConfig
from carkp.data.dataset import CropDataset, EpochIndex, TrainLoader
from carkp.data.issues import DataError
from carkp.data.mixture import MixedStore
from carkp.data.shares import MixedSampler, batch_counts, describe_shares, mixed_loader
from carkp.data.store import LmdbStore, StoreWriter
from carkp.data.transforms import TrainTransform

SIZE = (64, 64)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=5),
    st.integers(1, 64),
    st.integers(1, 50),
    st.integers(0, 3),
)
def test_every_batch_and_the_epoch_hold_the_shares(
    weights: list[int], batch_size: int, num_batches: int, epoch: int
) -> None:
    shares = np.array(weights) / sum(weights)
    counts = batch_counts(shares.tolist(), batch_size, num_batches, (0, epoch))
    assert counts.shape == (num_batches, len(weights))
    assert (counts.sum(axis=1) == batch_size).all()
    wanted = shares * batch_size
    assert (counts >= np.floor(wanted - 1e-6)).all()
    assert (counts <= np.ceil(wanted + 1e-6)).all()
    assert (np.abs(counts.sum(axis=0) - wanted * num_batches) < 1 + 1e-6).all()
    assert counts.sum(axis=0).tolist() == batch_counts(shares.tolist(), batch_size, num_batches, (5, 9)).sum(0).tolist()


def test_whole_shares_are_the_same_in_every_batch() -> None:
    counts = batch_counts([0.5, 0.25, 0.25], 32, 7, (0, 0))
    assert counts.tolist() == [[16, 8, 8]] * 7


def test_batches_that_round_up_are_spread_anew_every_epoch() -> None:
    first, second = (batch_counts([0.3, 0.7], 16, 20, (0, epoch))[:, 0] for epoch in (0, 1))
    assert set(first.tolist()) == {4, 5}
    assert first.sum() == second.sum() == 96
    assert first.tolist() != second.tolist()


@pytest.fixture
def mixed(store: LmdbStore, tmp_path: Path) -> CropDataset:
    """Thirteen crops of one source, four of another."""
    with StoreWriter(tmp_path / "few") as writer:
        for index in range(4):
            writer.add(store[index])
    parts = {"many": store, "few": LmdbStore(tmp_path / "few")}
    return CropDataset(
        MixedStore(tmp_path / "mixture", parts), TrainTransform(SIZE, **AugmentConfig().model_dump()), seed=5
    )


def batches_of(loader: TrainLoader, epoch: int) -> list[tuple[list[int], torch.Tensor]]:
    loader.set_epoch(epoch)
    return [(batch["index"].tolist(), batch["image"].clone()) for batch in loader]


def num_few(indices: list[int]) -> int:
    return sum(index >= 13 for index in indices)


def test_batches_do_not_depend_on_workers_and_epochs_differ(mixed: CropDataset) -> None:
    shares = {"many": 0.5, "few": 0.5}
    alone = mixed_loader(mixed, shares, batch_size=4, num_workers=0, seed=1)
    with_workers = mixed_loader(mixed, shares, batch_size=4, num_workers=2, seed=1)
    epochs = []
    for epoch in (0, 1):
        here, there = batches_of(alone, epoch), batches_of(with_workers, epoch)
        assert len(here) == len(there) == len(alone) == 4
        for (indices, images), (other_indices, other_images) in zip(here, there, strict=True):
            assert indices == other_indices
            assert num_few(indices) == 2
            assert torch.equal(images, other_images)
        epochs.append([indices for indices, _ in here])
    assert epochs[0] != epochs[1]


def sampler_of(num_samples: int, epoch: int, rank: int = 0, world_size: int = 1) -> MixedSampler:
    ranges = {"many": range(100), "few": range(100, 104)}
    sampler = MixedSampler(ranges, {"many": 0.75, "few": 0.25}, num_samples, 8, 3, rank, world_size)
    sampler.epoch = epoch
    return sampler


def test_a_large_source_is_seen_whole_over_the_epochs() -> None:
    seen = Counter(item.position for epoch in range(5) for item in sampler_of(40, epoch) if item.position < 100)
    assert len(seen) == 100  # 30 an epoch
    assert set(seen.values()) == {1, 2}
    assert sum(seen.values()) == 150
    assert max(Counter(item.position for item in sampler_of(40, 3) if item.position < 100).values()) <= 2


def test_a_small_source_is_repeated_with_other_augmentation(mixed: CropDataset) -> None:
    items = [item for epoch in range(2) for item in sampler_of(40, epoch) if item.position >= 100]
    assert set(Counter(item.position for item in items).values()) == {5}
    assert len(set(items)) == len(items) == 20
    first, again = mixed[EpochIndex(0, 14)], mixed[EpochIndex(1, 14)]
    assert not torch.equal(first["image"], again["image"])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_batches_of_every_rank_hold_the_shares(world_size: int) -> None:
    drawn: list[EpochIndex] = []
    for rank in range(world_size):
        sampler = sampler_of(96, 2, rank, world_size)
        items = list(sampler)
        assert len(items) == len(sampler) == 96 // (8 * world_size) * 8
        for start in range(0, len(items), 8):
            assert sum(item.position >= 100 for item in items[start : start + 8]) == 2
        drawn += items
    assert len(set(drawn)) == len(drawn)


def test_no_number_of_samples_means_as_many_as_there_are(mixed: CropDataset) -> None:
    shares = {"few": 0.25, "many": 0.75}  # in any order
    assert len(mixed_loader(mixed, shares, 4, 0, seed=1)) == 17 // 4
    longer = mixed_loader(mixed, shares, 4, 0, seed=1, num_samples=40)
    assert len(longer) == 10
    assert [num_few(indices) for indices, _ in batches_of(longer, 1)] == [1] * 10


def test_what_every_batch_is_made_of_can_be_said(mixed: CropDataset) -> None:
    store = mixed.store
    assert isinstance(store, MixedStore)
    assert describe_shares(store, {"many": 0.7, "few": 0.3}, 4, 40).splitlines() == [
        "many: 2 or 3 of every batch of 4, 28 per epoch out of 13 training cars",
        "few: 1 or 2 of every batch of 4, 12 per epoch out of 4 training cars",
    ]


def test_what_would_not_be_seen_is_refused(mixed: CropDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the share of few gives it no sample in an epoch of 16"):
        mixed_loader(mixed, {"many": 0.99, "few": 0.01}, 8, 0, seed=0)
    with pytest.raises(DataError, match=r"an epoch of 17 samples is too short for one batch of 16 on 2 process\(es\)"):
        mixed_loader(mixed, {"many": 0.5, "few": 0.5}, 16, 0, seed=0, world_size=2)
    with StoreWriter(tmp_path / "none"):
        pass
    store = mixed.store
    assert isinstance(store, MixedStore)
    parts = {"many": store.parts["many"], "few": LmdbStore(tmp_path / "none")}
    empty = CropDataset(MixedStore(tmp_path, parts), mixed.transform, seed=0)
    with pytest.raises(DataError, match="none: the source few has no training sample"):
        mixed_loader(empty, {"many": 0.5, "few": 0.5}, 4, 0, seed=0)


def test_shares_are_of_the_sources_at_hand(mixed: CropDataset) -> None:
    with pytest.raises(ValueError, match="not a mixture of many, other"):
        mixed_loader(mixed, {"many": 0.5, "other": 0.5}, 4, 0, seed=0)
