"""Samples for torch: a data set over a store, and loaders that give the same samples for any number of workers.

All randomness of a sample comes from (seed, epoch, index). The sampler sends the epoch with each index, so that
persistent workers get it too.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, Protocol, TypedDict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from carkp.data import jpeg
from carkp.data.colour import INPUT_SCALE, INPUT_ZERO
from carkp.data.geometry import choose_reduction
from carkp.data.issues import DataError
from carkp.data.parallel import use_short_socket_folder
from carkp.data.store import Record, Store
from carkp.data.transforms import Transform


class EpochIndex(NamedTuple):
    """The epoch and the index of a sample. In a mixture, ``epoch`` counts the passes through the sample's source."""

    epoch: int
    position: int


class Sample(TypedDict):
    """One sample; in a batch all entries have a leading axis B.

    Attributes:
        image: YUV444 image, (3, H, W) uint8.
        points: keypoints in input pixels, (K, 2) float32.
        validity: 0 missing, 1 occluded, 2 visible, (K,) uint8.
        index: index of the sample in the store, int64.
        crop_size: height and width in crop pixels, (2,) int32.
        truncated: 1 cut by the frame, 0 whole, -1 unknown, int8.
    """

    image: Tensor
    points: Tensor
    validity: Tensor
    index: Tensor
    crop_size: Tensor
    truncated: Tensor


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Compute (v - 128) / 128 of uint8 images, on their device."""
    return (images.to(dtype) - INPUT_ZERO) * INPUT_SCALE


class CropDataset(Dataset[Sample]):
    """The transformed samples of a store; crops at least twice as large as the input are decoded at reduced size."""

    def __init__(self, store: Store, transform: Transform, seed: int) -> None:
        self.store = store
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.store)

    def sample_id(self, item: EpochIndex) -> str:
        return self.store[item.position].sample_id

    def __getitem__(self, item: int | EpochIndex) -> Sample:
        """Load a sample; a plain integer means epoch 0.

        Raises:
            DataError: the crop cannot be decoded.
        """
        epoch, index = (0, item) if isinstance(item, int) else item
        record = self.store[index]
        sample = load_sample(record, index, self.transform, np.random.default_rng((self.seed, epoch, index)))
        if sample is None:
            raise DataError(
                f"{self.store.path}: sample {index} ({record.sample_id}) cannot be decoded: prepare the data again"
            )
        return sample


def load_sample(record: Record, index: int, transform: Transform, rng: np.random.Generator) -> Sample | None:
    """Decode and transform a crop as sample ``index``; return None if it cannot be decoded."""
    reduction = choose_reduction(record.size, transform.input_size, transform.largest_zoom)
    image = jpeg.decode_rgb(record.jpeg, reduction)
    if image is None:
        return None
    transformed = transform(image, record.points, record.validity, rng, record.size)
    return Sample(
        image=torch.from_numpy(transformed.image),
        points=torch.from_numpy(transformed.points),
        validity=torch.from_numpy(transformed.validity),
        index=torch.tensor(index),
        crop_size=torch.tensor(record.size, dtype=torch.int32),
        truncated=torch.tensor(record.truncated, dtype=torch.int8),
    )


class ShuffledSampler(Sampler[EpochIndex]):
    """A rank's share of a shuffled epoch: every rank has the same number of full batches; the rest is left out."""

    def __init__(self, indices: NDArray[np.int64], batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.num_batches = len(indices) // (batch_size * world_size)
        self.epoch = 0
        self._indices = indices
        self._num_drawn = self.num_batches * batch_size * world_size
        self._seed, self._rank, self._world_size = seed, rank, world_size

    def __len__(self) -> int:
        return self._num_drawn // self._world_size

    def __iter__(self) -> Iterator[EpochIndex]:
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._indices)
        for index in order[self._rank : self._num_drawn : self._world_size].tolist():
            yield EpochIndex(self.epoch, index)


class EpochSampler(Protocol):
    """A sampler that chooses the samples of an epoch on one rank."""

    num_batches: int
    epoch: int

    def __iter__(self) -> Iterator[EpochIndex]: ...

    def __len__(self) -> int: ...


class Named(Protocol):
    """A data set that knows the ids of its samples."""

    def sample_id(self, item: EpochIndex) -> str: ...


class TrainLoader:
    """Training batches; call ``set_epoch`` before each epoch."""

    def __init__(self, loader: "DataLoader[Sample]", sampler: EpochSampler) -> None:
        self._loader = loader
        self._sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines order and augmentation of the next iteration."""
        self._sampler.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches per epoch on this rank."""
        return self._sampler.num_batches

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._loader)

    def sample_ids(self, number: int) -> list[str]:
        """Return the sample ids of a batch of the epoch; batches are counted from 0."""
        size = self._loader.batch_size or 1
        dataset: Named = self._loader.dataset  # type: ignore[assignment]
        return [dataset.sample_id(item) for item in islice(self._sampler, number * size, (number + 1) * size)]


def train_loader(
    dataset: CropDataset,
    batch_size: int,
    num_workers: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    num_samples: int = 0,
) -> TrainLoader:
    """Return a loader of shuffled full batches with ``batch_size`` samples per rank.

    ``num_samples``: number of samples of the data set that are used, a random choice that is the same in every epoch;
    0 means all.

    Raises:
        DataError: there are too few samples for one full batch on every rank.
    """
    sampler = ShuffledSampler(_chosen(len(dataset), num_samples, seed), batch_size, seed, rank, world_size)
    if sampler.num_batches == 0:
        raise DataError(
            f"{dataset.store.path}: {num_samples or len(dataset)} of {len(dataset)} samples are too few for one batch "
            f"of {batch_size} on {world_size} process(es): lower the batch size or prepare more data"
        )
    return loader_of(dataset, sampler, batch_size, num_workers, pin_memory)


def loader_of(
    dataset: CropDataset, sampler: EpochSampler, batch_size: int, num_workers: int, pin_memory: bool = False
) -> TrainLoader:
    """Return a loader of batches with the samples that ``sampler`` chooses."""
    return TrainLoader(_loader(dataset, sampler, batch_size, num_workers, pin_memory), sampler)


def eval_loader(
    dataset: CropDataset,
    batch_size: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> "DataLoader[Sample]":
    """Return a loader of every ``world_size``-th sample starting at ``rank``, so that all ranks cover each sample once.

    The last batch may be smaller.
    """
    share = range(rank, len(dataset), world_size)
    return _loader(dataset, share, batch_size, num_workers, pin_memory)


def _loader(
    dataset: CropDataset,
    sampler: EpochSampler | range,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
) -> "DataLoader[Sample]":
    if num_workers:
        use_short_socket_folder()
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        worker_init_fn=start_worker,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),  # so that torch's global generator is not used
    )


def _chosen(num_there: int, num_wanted: int, seed: int) -> NDArray[np.int64]:
    if num_wanted == 0 or num_wanted >= num_there:
        return np.arange(num_there)
    return np.sort(np.random.default_rng(seed).choice(num_there, num_wanted, replace=False))


def start_worker(worker_id: int) -> None:
    """Turn off OpenCV's threads: there are already as many workers as available cores."""
    cv2.setNumThreads(0)
