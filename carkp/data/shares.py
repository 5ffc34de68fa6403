"""Sampling of batches from several sources, with fixed shares of the sources in every batch.

Legend: S sources, G batches of an epoch over all processes.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from carkp.data.dataset import CropDataset, EpochIndex, TrainLoader, loader_of
from carkp.data.issues import DataError
from carkp.data.mixture import MixedStore

_QUOTA_DIGITS = 9
"""Decimals to which a share times the batch size is rounded, because of floating point errors."""


def batch_counts(shares: Sequence[float], batch_size: int, num_batches: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """Return the number of samples of each source in every batch, (G, S): its share, rounded up or down.

    Rows add up to ``batch_size``. Over all batches a source gets its share to within one sample. ``seed`` decides which
    batches round up. Source: systematic sampling, Madow, On the theory of systematic sampling, II (1949).
    """
    quotas = np.round(np.asarray(shares) * batch_size, _QUOTA_DIGITS)
    whole = np.floor(quotas).astype(np.int64)
    bounds = np.concatenate([[0.0], np.cumsum(quotas - whole)])
    bounds[-1] = batch_size - whole.sum()
    offsets = (np.random.default_rng(seed).permutation(num_batches) + 0.5) / max(num_batches, 1)
    steps = np.floor(bounds + offsets[:, None]).astype(np.int64)
    return whole + np.diff(steps, axis=1)


class MixedSampler(Sampler[EpochIndex]):
    """A rank's share of an epoch with samples from several sources.

    Each source is an endless sequence of its shuffled samples: after each pass it is shuffled again. Every epoch
    continues where the previous one ended. So a large source is seen completely over several epochs, and a small source
    several times within one. The randomness of a sample depends on the number of the pass, so repetitions differ.
    """

    def __init__(
        self,
        ranges: Mapping[str, range],
        shares: Mapping[str, float],
        num_samples: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        """``ranges``: name of a source -> indices of its samples; ``num_samples``: samples per epoch on all ranks."""
        self.num_batches = num_samples // (batch_size * world_size)
        self.epoch = 0
        self._ranges = [ranges[name] for name in shares]
        self._shares = list(shares.values())
        self._batch_size, self._seed, self._rank, self._world_size = batch_size, seed, rank, world_size

    def __len__(self) -> int:
        return self.num_batches * self._batch_size

    def __iter__(self) -> Iterator[EpochIndex]:
        counts = self.counts(self.epoch)
        firsts = self.epoch * counts.sum(axis=0) + np.cumsum(counts, axis=0) - counts
        shuffled = [_Shuffled(samples, (self._seed, number)) for number, samples in enumerate(self._ranges)]
        for batch in range(self._rank, len(counts), self._world_size):
            for source, first, count in zip(shuffled, firsts[batch].tolist(), counts[batch].tolist(), strict=True):
                yield from (source[place] for place in range(first, first + count))

    def counts(self, epoch: int) -> NDArray[np.int64]:
        """Return the samples of each source in every batch of an epoch, (G, S); their sums are equal in all epochs."""
        num_batches = self.num_batches * self._world_size
        return batch_counts(self._shares, self._batch_size, num_batches, (self._seed, epoch))


class _Shuffled:
    """The endless sequence of a source's shuffled samples."""

    def __init__(self, samples: range, seed: tuple[int, int]) -> None:
        self._samples, self._seed = samples, seed
        self._orders: dict[int, list[int]] = {}

    def __getitem__(self, place: int) -> EpochIndex:
        turn, number = divmod(place, len(self._samples))
        if turn not in self._orders:
            order = np.random.default_rng((*self._seed, turn)).permutation(self._samples)
            self._orders[turn] = order.tolist()
        return EpochIndex(turn, self._orders[turn][number])


def describe_shares(
    store: MixedStore, shares: Mapping[str, float], batch_size: int, num_samples: int, world_size: int = 1
) -> str:
    """Describe in words what ``mixed_loader`` takes from each source, one line per source."""
    num_batches = (num_samples or len(store)) // (batch_size * world_size) * world_size
    counts = batch_counts(list(shares.values()), batch_size, num_batches, (0, 0))
    lines = []
    for name, of_batches in zip(shares, counts.T, strict=True):
        per_batch = " or ".join(map(str, sorted(set(of_batches.tolist()))))
        total, num_there = int(of_batches.sum()), len(store.parts[name])
        lines.append(
            f"{name}: {per_batch} of every batch of {batch_size}, {total} per epoch out of {num_there} training cars"
        )
    return "\n".join(lines)


def mixed_loader(
    dataset: CropDataset,
    shares: Mapping[str, float],
    batch_size: int,
    num_workers: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    num_samples: int = 0,
) -> TrainLoader:
    """Return a loader of full batches with ``batch_size`` samples per rank, each with its share of every source.

    ``shares``: name of each source of the data set -> share; they add up to 1. ``num_samples``: samples per epoch; 0
    means as many as all sources have together.

    Raises:
        DataError: a source would get no sample, or there are too few samples for a batch.
        ValueError: the data set is not a mixture of these sources.
    """
    store = dataset.store
    if not isinstance(store, MixedStore) or set(store.parts) != set(shares):
        raise ValueError(f"{store.path} is not a mixture of {', '.join(shares)}")
    length = num_samples or len(store)
    sampler = MixedSampler(store.ranges, shares, length, batch_size, seed, rank, world_size)
    if sampler.num_batches == 0:
        raise DataError(
            f"{store.path}: an epoch of {length} samples is too short for one batch of {batch_size} on {world_size} "
            "process(es): "
            "lower the batch size, raise the number of samples or prepare more data"
        )
    _require_seen(store, dict(zip(shares, sampler.counts(0).sum(axis=0).tolist(), strict=True)))
    return loader_of(dataset, sampler, batch_size, num_workers, pin_memory)


def _require_seen(store: MixedStore, num_drawn: Mapping[str, int]) -> None:
    """Require that every source gets samples. ``num_drawn``: name of each source -> its samples in an epoch."""
    for name, part in store.parts.items():
        if len(part) == 0:
            raise DataError(f"{part.path}: the source {name} has no training sample: remove it from data.sources")
        if num_drawn[name] == 0:
            raise DataError(
                f"{store.path}: the share of {name} gives it no sample in an epoch of {sum(num_drawn.values())}: raise "
                "the share or the number of samples"
            )
