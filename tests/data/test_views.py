"""Two views of a crop, parts of batches, and groups that are held out."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from carkp.data.dataset import CropDataset, EpochIndex
from carkp.data.store import LmdbStore, Record, StoreWriter
from carkp.data.transforms import EvalTransform, TrainTransform
from carkp.data.views import Part, TwoViewDataset, parted_loader, split_groups, view_batches

SIZE = (64, 64)
STRONG = TrainTransform(SIZE, 0.5, True, 0.0, 0.0, 0.75, 1.3, 0.08, 8.0, color_jitter=0.4)


def store_of(path: Path, num: int) -> LmdbStore:
    with StoreWriter(path) as writer:
        for number in range(num):
            image = np.full((40, 50, 3), 10 * number, np.uint8)
            image[10:20, 15 + number : 25 + number] = 255
            data = cv2.imencode(".jpg", image)[1].tobytes()
            points = np.full((12, 2), 20, np.float32)
            writer.add(Record(f"train/s/{number}_0", "s", data, points, np.full(12, 2, np.uint8), (40, 50), 0))
    return LmdbStore(path)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[LmdbStore, LmdbStore]:
    folder = tmp_path_factory.mktemp("views")
    return store_of(folder / "labelled", 20), store_of(folder / "unlabelled", 3)


def loader_of(stores: tuple[LmdbStore, LmdbStore], num_workers: int = 0) -> object:
    labelled, unlabelled = stores
    parts = {
        "generated": Part(CropDataset(labelled, STRONG, 0), range(4, 20)),
        "unlabelled": Part(TwoViewDataset(unlabelled, EvalTransform(SIZE), STRONG, 0), [0, 2]),
    }
    return parted_loader(parts, {"generated": 0.75, "unlabelled": 0.25}, 5, 8, num_workers, seed=3)


def test_every_batch_has_the_share_of_every_part(stores: tuple[LmdbStore, LmdbStore]) -> None:
    loader = loader_of(stores)
    loader.set_epoch(0)
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    seen = Counter[int]()
    for batch in batches:
        assert batch["image"].shape == (8, 3, *SIZE)
        rows = batch["views"]["rows"].tolist()
        assert len(rows) == 2
        assert (batch["validity"][rows] == 0).all()
        labelled = [row for row in range(8) if row not in rows]
        assert (batch["validity"][labelled] > 0).any()
        assert min(batch["index"][labelled].tolist()) >= 4  # the places of the part alone
        seen.update(batch["index"][rows].tolist())
    assert seen == {0: 5, 2: 5}


def test_a_batch_of_parts_names_its_samples(stores: tuple[LmdbStore, LmdbStore]) -> None:
    loader = loader_of(stores)
    loader.set_epoch(1)
    for number, batch in enumerate(loader):
        assert loader.sample_ids(number) == [f"train/s/{index}_0" for index in batch["index"].tolist()]


def test_a_part_that_goes_round_is_never_seen_twice_alike(stores: tuple[LmdbStore, LmdbStore]) -> None:
    loader = loader_of(stores)
    pictures = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            pictures += [batch["image"][row].numpy().tobytes() for row in batch["views"]["rows"].tolist()]
    assert len(set(pictures)) == len(pictures) == 20


def test_batches_are_the_same_whatever_the_number_of_workers(stores: tuple[LmdbStore, LmdbStore]) -> None:
    for alone, shared in zip(loader_of(stores), loader_of(stores, num_workers=2), strict=True):
        assert torch.equal(alone["image"], shared["image"])
        assert torch.equal(alone["views"]["to_strong"], shared["views"]["to_strong"])


def test_views_lie_on_each_other(stores: tuple[LmdbStore, LmdbStore]) -> None:
    """The weak picture, moved by the map, is the strong one, up to colour and interpolation."""
    plain = TrainTransform(SIZE, 0.5, True, 0.0, 0.0, 0.75, 1.3, 0.08, 8.0)
    dataset = TwoViewDataset(stores[1], EvalTransform(SIZE), plain, 0)
    for epoch in range(6):
        sample = dataset[EpochIndex(epoch, 1)]
        weak, strong = sample["views"]["weak"][0].numpy(), sample["image"][0].numpy()
        moved = cv2.warpAffine(weak, sample["views"]["to_strong"].numpy(), SIZE[::-1])
        off = np.abs(moved.astype(int) - strong.astype(int))
        assert np.mean(off > 60) < 0.06  # edges alone


def test_views_of_held_out_cars_are_the_same_every_time(stores: tuple[LmdbStore, LmdbStore]) -> None:
    dataset = TwoViewDataset(stores[1], EvalTransform(SIZE), STRONG, 0)
    first, second = (list(view_batches(dataset, [2, 0], 3, 4, 0)) for _ in range(2))
    assert [batch["index"].tolist() for batch in first] == [[2, 2, 2, 0], [0, 0]]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["image"], other["image"])
    assert not torch.equal(first[0]["image"][0], first[0]["image"][1])


def test_whole_groups_are_held_out() -> None:
    groups = [name for name in "abcdefghij" for _ in range(3)]
    learnt, held_out = split_groups(groups, 0.2, seed=1)
    assert sorted([*learnt.tolist(), *held_out.tolist()]) == list(range(30))
    assert len(held_out) == 6
    assert not {groups[place] for place in learnt} & {groups[place] for place in held_out}
    assert split_groups(groups, 0.2, seed=1)[1].tolist() == held_out.tolist()
    assert split_groups(groups, 0.2, seed=2)[1].tolist() != held_out.tolist()


@pytest.mark.parametrize(
    ("groups", "share", "num"), [("aaaa", 0.5, 0), ("ab", 0.2, 0), ("abc", 0.2, 1), ("ab", 0.9, 1)]
)
def test_something_is_left_to_learn_from(groups: str, share: float, num: int) -> None:
    learnt, held_out = split_groups(list(groups), share, seed=0)
    assert (len(learnt), len(held_out)) == (len(groups) - num, num)
