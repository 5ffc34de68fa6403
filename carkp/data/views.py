"""Unlabelled crops, each in two views: weakly and strongly augmented, with the map from one view to the other.

Legend: B samples of a batch, U samples without labels among them.
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
    """The weak view of a sample; its ``image`` is the strong view. In a batch all entries have a leading axis U.

    Attributes:
        weak: YUV444 image, (3, H, W) uint8.
        to_strong: map from input pixels of the weak view to those of the strong view, (2, 3) float32.
        is_mirrored: whether one view is a mirror image of the other, bool.
    """

    weak: Tensor
    to_strong: Tensor
    is_mirrored: Tensor


class ViewedSample(Sample):
    """A sample; a sample without labels has two views."""

    views: NotRequired[Views]


class BatchViews(Views):
    """Views of a batch; ``rows`` (U,): indices in the batch of the samples without labels."""

    rows: Tensor


class ViewedBatch(Sample):
    """A batch in which some samples may have no labels."""

    views: NotRequired[BatchViews]


class PairedBatch(Sample):
    """A batch in which all samples have two views."""

    views: BatchViews


class TwoViewDataset(Dataset[ViewedSample]):
    """The samples of a store without labels, in two transforms. All randomness comes from (seed, epoch, index)."""

    def __init__(self, store: Store, weak: ViewTransform, strong: ViewTransform, seed: int) -> None:
        self.store, self.weak, self.strong, self.seed = store, weak, strong, seed

    def __len__(self) -> int:
        return len(self.store)

    def sample_id(self, item: EpochIndex) -> str:
        return self.store[item.position].sample_id

    def __getitem__(self, item: EpochIndex) -> ViewedSample:
        """Load a sample; raise DataError if the crop cannot be decoded."""
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
    """A part of a data set: the samples at ``positions``."""

    def __init__(self, dataset: Dataset[Any], positions: Sequence[int] | NDArray[np.int64]) -> None:
        self.dataset, self.positions = dataset, np.asarray(positions, np.int64)

    def __len__(self) -> int:
        return len(self.positions)


class PartedDataset(Dataset[ViewedSample]):
    """Parts of several data sets, concatenated."""

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
        """Return the data set of a sample, and the sample's index in it."""
        number = int(np.searchsorted(self._ends, item.position, side="right"))
        part = self._parts[number]
        place = item.position - int(self._ends[number]) + len(part)
        return part.dataset, EpochIndex(item.epoch, int(part.positions[place]))


def collate_views(samples: Sequence[ViewedSample]) -> ViewedBatch:
    """Make a batch from samples with labels and samples with two views."""
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
    """Return a loader of batches in which every part has its share; each part is repeated endlessly.

    Args:
        parts: parts by name.
        shares: shares by the same names; they add up to 1.
        num_batches: number of batches per epoch.
        batch_size: number of samples per batch.
        num_workers: number of loader processes.
        seed: seed of the order of samples.
        pin_memory: whether to pin memory, for a CUDA device.
    """
    dataset = PartedDataset(parts)
    sampler = MixedSampler(dataset.ranges, shares, num_batches * batch_size, batch_size, seed, 0, 1)
    return TrainLoader(_loader(dataset, sampler, batch_size, num_workers, pin_memory), sampler)


def view_batches(
    dataset: TwoViewDataset, positions: Iterable[int], num_views: int, batch_size: int, num_workers: int
) -> Iterable[PairedBatch]:
    """Return batches with ``num_views`` pairs of views of each sample at ``positions``, the same ones every time."""
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
        generator=torch.Generator().manual_seed(0),  # so that torch's global generator is not used
    )


def split_groups(groups: Sequence[str], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split samples into training samples and held-out samples, by whole groups.

    Cars in one picture are similar, and so are neighbouring frames of a video. Held-out samples must not be similar to
    training samples.

    Args:
        groups: group of each sample, which is its picture or section of a video.
        share: approximate share of samples to hold out; at least one group stays for training.
        seed: seed of the choice.
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
