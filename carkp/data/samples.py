"""Whole crops of a store, for display."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.data import jpeg
from carkp.data.issues import DataError
from carkp.data.store import Store


class CropSample(NamedTuple):
    """A decoded crop of a store.

    Attributes:
        image: RGB image, (h, w, 3) uint8.
        points: keypoints in crop pixels, (K, 2) float32.
        validity: validity of the keypoints, (K,) uint8.
        sample_id: id of the sample.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    validity: NDArray[np.uint8]
    sample_id: str


def read_crop(store: Store, index: int) -> CropSample:
    """Decode one crop.

    Raises:
        DataError: the crop cannot be decoded.
    """
    record = store[index]
    image = jpeg.decode_rgb(record.jpeg)
    if image is None:
        raise DataError(f"{store.path}: sample {index} ({record.sample_id}) cannot be decoded: prepare the data again")
    return CropSample(image, record.points, record.validity, record.sample_id)


def sample_crops(store: Store, num: int, seed: int) -> list[CropSample]:
    """Return ``num`` different random crops (all if there are fewer), in the order of the store."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(store))[:num]
    return [read_crop(store, index) for index in sorted(chosen.tolist())]
