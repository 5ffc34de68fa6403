"""The same samples whatever the number of workers and ranks."""

import tempfile
from multiprocessing import process
from pathlib import Path

import numpy as np
import pytest
import torch

from carkp.config.schema import AugmentConfig
from carkp.data import parallel
from carkp.data.dataset import CropDataset, EpochIndex, eval_loader, normalise, train_loader
from carkp.data.issues import DataError
from carkp.data.store import LmdbStore, Record, Store, StoreWriter
from carkp.data.transforms import EvalTransform, TrainTransform

SIZE = (64, 64)


@pytest.fixture
def dataset(store: Store) -> CropDataset:
    return CropDataset(store, TrainTransform(SIZE, **AugmentConfig().model_dump()), seed=5)


def test_a_sample(dataset):
    sample = dataset[5]
    assert {name: (tuple(value.shape), value.dtype) for name, value in sample.items()} == {
        "image": ((3, 64, 64), torch.uint8),
        "points": ((12, 2), torch.float32),
        "validity": ((12,), torch.uint8),
        "index": ((), torch.int64),
        "crop_size": ((2,), torch.int32),
        "truncated": ((), torch.int8),
    }
    assert sample["crop_size"].tolist() == [300, 500]
    assert (sample["index"].item(), sample["truncated"].item()) == (5, 1)


def test_normalisation():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8)
    assert normalise(images).tolist() == [-1.0, 0.0, 127 / 128]
    assert normalise(images, torch.bfloat16).dtype == torch.bfloat16


def test_randomness_follows_seed_epoch_and_index(dataset):
    first = dataset[EpochIndex(0, 3)]["image"]
    assert torch.equal(first, dataset[3]["image"])
    assert not torch.equal(first, dataset[EpochIndex(1, 3)]["image"])
    other = CropDataset(dataset.store, dataset.transform, seed=6)
    assert not torch.equal(first, other[EpochIndex(0, 3)]["image"])


def epoch_of(loader, epoch):
    loader.set_epoch(epoch)
    return [(batch["index"].tolist(), batch["image"].clone()) for batch in loader]


def test_batches_do_not_depend_on_workers_and_epochs_reach_them(dataset):
    alone = train_loader(dataset, batch_size=4, num_workers=0, seed=1)
    with_workers = train_loader(dataset, batch_size=4, num_workers=2, seed=1)
    epochs = []
    for epoch in (0, 1):
        here, there = epoch_of(alone, epoch), epoch_of(with_workers, epoch)
        assert len(here) == len(there) == len(alone) == 3
        for (indices, images), (other_indices, other_images) in zip(here, there, strict=True):
            assert indices == other_indices
            assert torch.equal(images, other_images)
        epochs.append(here)
    assert [indices for indices, _ in epochs[0]] != [indices for indices, _ in epochs[1]]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_a_training_epoch_evenly(dataset, world_size):
    shares = []
    for rank in range(world_size):
        loader = train_loader(dataset, 2, 0, seed=1, rank=rank, world_size=world_size)
        shares.append([index for indices, _ in epoch_of(loader, 4) for index in indices])
    assert {len(share) for share in shares} == {2 * (13 // (2 * world_size))}
    together = [index for share in shares for index in share]
    assert len(set(together)) == len(together)


def test_a_loader_names_the_samples_of_each_batch(dataset):
    loader = train_loader(dataset, 2, 0, seed=1, rank=1, world_size=2)
    loader.set_epoch(3)
    for number, batch in enumerate(loader):
        assert loader.sample_ids(number) == [dataset.store[index].sample_id for index in batch["index"].tolist()]


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_score_every_sample_once(store, world_size):
    dataset = CropDataset(store, EvalTransform(SIZE), seed=0)
    loaders = [eval_loader(dataset, 4, 0, rank, world_size) for rank in range(world_size)]
    indices = [index for loader in loaders for batch in loader for index in batch["index"].tolist()]
    assert sorted(indices) == list(range(13))


def test_eval_with_workers_is_eval_without(store):
    dataset = CropDataset(store, EvalTransform(SIZE), seed=0)
    for one, two in zip(eval_loader(dataset, 5, 0), eval_loader(dataset, 5, 2), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A name that the system does not take for a socket."""
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setitem(process.current_process()._config, "tempdir", None)
    return folder


def test_samples_arrive_also_where_the_temporary_folder_has_a_long_name(store, long_temporary_folder):
    loader = eval_loader(CropDataset(store, EvalTransform(SIZE), seed=0), 5, num_workers=1)
    indices = [index for batch in loader for index in batch["index"].tolist()]
    assert indices == list(range(13))


def test_where_no_folder_has_a_short_name_it_is_said(store, long_temporary_folder, monkeypatch):
    monkeypatch.setattr(parallel, "SHORT_FOLDER", str(long_temporary_folder / "missing"))
    with pytest.raises(DataError, match=r"too long for data-loading processes.*set TMPDIR"):
        eval_loader(CropDataset(store, EvalTransform(SIZE), seed=0), 5, num_workers=1)


def test_large_crops_are_decoded_smaller_with_the_same_points(store):
    sample = CropDataset(store, EvalTransform(SIZE), seed=0)[0]
    np.testing.assert_allclose(sample["points"].numpy(), store[0].points * 64 / 500, rtol=1e-5)


def test_too_few_samples_are_an_error_that_says_so(dataset):
    with pytest.raises(DataError, match="13 of 13 samples are too few for one batch of 8 on 2"):
        train_loader(dataset, 8, 0, seed=0, world_size=2)


def test_fewer_samples_are_the_same_choice_in_every_epoch(dataset):
    loader = train_loader(dataset, 3, 0, seed=1, num_samples=6)
    seen = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        seen.append([index for batch in loader for index in batch["index"].tolist()])
    assert len(set(seen[0])) == 6
    assert sorted(seen[0]) == sorted(seen[1]) == sorted(seen[2])
    assert seen[0] != seen[1]
    other = train_loader(dataset, 3, 0, seed=2, num_samples=6)
    assert {index for batch in other for index in batch["index"].tolist()} != set(seen[0])


def test_the_global_random_state_is_left_alone(dataset):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(train_loader(dataset, 4, 0, seed=1))
    assert torch.equal(torch.rand(1), expected)


def test_an_undecodable_crop_is_named(tmp_path):
    with StoreWriter(tmp_path / "s") as writer:
        empty = np.zeros((12, 2), np.float32), np.zeros(12, np.uint8)
        writer.add(Record("train/car_a/1_0", "car_a", b"no jpeg", *empty, (20, 30), 0))
    with pytest.raises(DataError, match="train/car_a/1_0"):
        CropDataset(LmdbStore(tmp_path / "s"), EvalTransform(SIZE), seed=0)[0]
