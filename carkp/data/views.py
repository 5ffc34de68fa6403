"""Crops without labels, each seen twice: weakly and strongly augmented, with the map from one view to the other.

Legend: B samples of a batch, U of them without labels.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from carkp.data import geometry, jpeg
from carkp.data.dataset import EpochIndex, Sample, TrainLoader, start_worker
from carkp.data.geometry import choose_reduction
from carkp.data.issues import DataError
from carkp.data.parallel import use_short_socket_folder
from carkp.data.shares import MixedSampler
from carkp.data.store import Store
from carkp.data.transforms import ViewTransform
from carkp.keypoints.schema import NUM_KEYPOINTS

_VIEWS = "views"
_PREFETCHED = 4


class Views(TypedDict):
    """The weak view of a sample; its ``image`` is the strong one. A batch holds the same with a leading U.

    Attributes:
        weak: (3, H, W) uint8 YUV444.
        to_strong: (2, 3) float32, input pixels of the weak view to those of the strong one.
        is_mirrored: bool, whether one of the views is a mirror image of the other.
    """

    weak: Tensor
    to_strong: Tensor
    is_mirrored: Tensor


class ViewedSample(Sample):
    """A sample; one without labels has two views."""

    views: NotRequired[Views]


class BatchViews(Views):
    """Of a batch; ``rows`` (U,) are those of the samples without labels."""

    rows: Tensor


class ViewedBatch(Sample):
    """A batch, some of whose samples may have no labels."""

    views: NotRequired[BatchViews]


class PairedBatch(Sample):
    """A batch, all of whose samples have two views."""

    views: BatchViews


class TwoViewDataset(Dataset[ViewedSample]):
    """The samples of a store without their labels, under two transforms. All that is random comes from (seed, epoch,
    index).
    """

    def __init__(self, store: Store, weak: ViewTransform, strong: ViewTransform, seed: int) -> None:
        self.store, self.weak, self.strong, self.seed = store, weak, strong, seed

    def __len__(self) -> int:
        return len(self.store)

    def sample_id(self, item: EpochIndex) -> str:
        return self.store[item.position].sample_id

    def __getitem__(self, item: EpochIndex) -> ViewedSample:
        """Raises DataError where the crop cannot be decoded."""
        record = self.store[item.position]
        zoom = max(self.weak.largest_zoom, self.strong.largest_zoom)
        image = jpeg.decode_rgb(record.jpeg, choose_reduction(record.size, self.weak.input_size, zoom))
        if image is None:
            raise DataError(f"{self.store.path}: sample {item.position} ({record.sample_id}) cannot be decoded")
        rng = np.random.default_rng((self.seed, *item))
        weak, strong = (transform.view(image, rng, record.size) for transform in (self.weak, self.strong))
        to_strong = geometry.compose(strong.matrix, geometry.invert(weak.matrix))
        return ViewedSample(
            image=torch.from_numpy(strong.image),
            points=torch.zeros(NUM_KEYPOINTS, 2),
            validity=torch.zeros(NUM_KEYPOINTS, dtype=torch.uint8),
            index=torch.tensor(item.position),
            crop_size=torch.tensor(record.size, dtype=torch.int32),
            truncated=torch.tensor(record.truncated, dtype=torch.int8),
            views=Views(
                weak=torch.from_numpy(weak.image),
                to_strong=torch.from_numpy(to_strong.astype(np.float32)),
                is_mirrored=torch.tensor(weak.is_flipped != strong.is_flipped),
            ),
        )


class Part:
    """Some samples of a data set."""

    def __init__(self, dataset: Dataset[Any], positions: Sequence[int] | NDArray[np.int64]) -> None:
        self.dataset, self.positions = dataset, np.asarray(positions, np.int64)

    def __len__(self) -> int:
        return len(self.positions)


class PartedDataset(Dataset[ViewedSample]):
    """Parts of several data sets, one after the other."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = list(parts.values())
        self._ends = np.cumsum([len(part) for part in self._parts])
        starts = [0, *self._ends[:-1].tolist()]
        self.ranges = {
            name: range(start, start + len(part)) for (name, part), start in zip(parts.items(), starts, strict=True)
        }

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, item: EpochIndex) -> ViewedSample:
        dataset, own = self._find(item)
        sample: ViewedSample = dataset[own]
        return sample

    def sample_id(self, item: EpochIndex) -> str:
        dataset, own = self._find(item)
        return str(dataset.sample_id(own))

    def _find(self, item: EpochIndex) -> tuple[Any, EpochIndex]:
        """The data set that a sample is of, and which it is there."""
        number = int(np.searchsorted(self._ends, item.position, side="right"))
        part = self._parts[number]
        place = item.position - int(self._ends[number]) + len(part)
        return part.dataset, EpochIndex(item.epoch, int(part.positions[place]))


def collate_views(samples: Sequence[ViewedSample]) -> ViewedBatch:
    """A batch of samples with labels and of others with two views."""
    common = [{name: value for name, value in sample.items() if name != _VIEWS} for sample in samples]
    batch: ViewedBatch = default_collate(common)
    rows = [row for row, sample in enumerate(samples) if _VIEWS in sample]
    if rows:
        views: Views = default_collate([samples[row]["views"] for row in rows])
        batch["views"] = BatchViews(
            weak=views["weak"],
            to_strong=views["to_strong"],
            is_mirrored=views["is_mirrored"],
            rows=torch.tensor(rows),
        )
    return batch


def parted_loader(
    parts: Mapping[str, Part],
    shares: Mapping[str, float],
    num_batches: int,
    batch_size: int,
    num_workers: int,
    seed: int,
    pin_memory: bool = False,
) -> TrainLoader:
    """Batches in which every part has its share; each part goes round and round, however small it is.

    Args:
        parts: by name.
        shares: of the same names, adding up to 1.
        num_batches: of an epoch.
        batch_size: samples a batch.
        num_workers: loader processes.
        seed: decides which samples come when.
        pin_memory: for a CUDA device.
    """
    dataset = PartedDataset(parts)
    sampler = MixedSampler(dataset.ranges, shares, num_batches * batch_size, batch_size, seed, 0, 1)
    return TrainLoader(_loader(dataset, sampler, batch_size, num_workers, pin_memory), sampler)


def view_batches(
    dataset: TwoViewDataset, positions: Iterable[int], num_views: int, batch_size: int, num_workers: int
) -> Iterable[PairedBatch]:
    """``num_views`` pairs of views of each sample at ``positions``: the same ones every time."""
    asked = [EpochIndex(view, position) for position in positions for view in range(num_views)]
    return _loader(dataset, asked, batch_size, num_workers)


def _loader(
    dataset: Dataset[ViewedSample],
    sampler: Iterable[EpochIndex],
    batch_size: int,
    num_workers: int,
    pin_memory: bool = False,
) -> "DataLoader[Any]":
    if num_workers:
        use_short_socket_folder()
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_views,
        worker_init_fn=start_worker,
        persistent_workers=num_workers > 0,
        prefetch_factor=_PREFETCHED if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),  # keeps torch's global generator out of it
    )


def split_groups(groups: Sequence[str], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Samples to learn from and samples to hold out: about ``share`` of them, whole groups.

    Cars of one picture are alike, and so are neighbouring frames of a video: what is held out must not be known.

    Args:
        groups: of each sample, its picture or stretch of a video.
        share: of the samples to hold out, rounded; at least one group stays to learn from.
        seed: decides which.
    """
    names = sorted(set(groups))
    wanted = round(share * len(groups))
    chosen = set[str]()
    members = _members(groups)
    for number in np.random.default_rng(seed).permutation(len(names))[: len(names) - 1].tolist():
        if sum(len(members[name]) for name in chosen) >= wanted:
            break
        chosen.add(names[number])
    is_held_out = np.array([name in chosen for name in groups], bool)
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def _members(groups: Sequence[str]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for place, name in enumerate(groups):
        members.setdefault(name, []).append(place)
    return members
