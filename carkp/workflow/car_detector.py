"""Boxes of cars from torchvision's detector. It is imported, and its weights are downloaded, only when needed.

The detector is ``fasterrcnn_mobilenet_v3_large_fpn``, trained on COCO. Its weights lie in the cache of ``torch.hub``.
So a file that another program downloaded is used, and a file from another machine can be put there.
"""

import hashlib
import http.client
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from carkp import disk
from carkp.data.issues import DataError, explain_write_errors, printable
from carkp.data.jpeg import Image
from carkp.workflow.boxes import AUTO

WEIGHTS_URL = "https://download.pytorch.org/models/fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth"
WEIGHTS_SHA256 = "fb6a3cc702b1df54c18a44b26708cd083614211062d0c36d2ca7bf9270df3533"

CLASS_NAMES: Mapping[int, str] = {3: "car", 6: "bus", 8: "truck"}
"""Classes that are kept, by COCO's numbers."""

MIN_SCORE = 0.5
MAX_OVERLAP = 0.7
"""Intersection over union above which two boxes count as one vehicle, as when a truck is also found as a car."""

TIMEOUT_S = 30.0

_CHUNK_BYTES = 2**20

Net = Callable[[list[Tensor]], Sequence[Mapping[str, Tensor]]]
"""RGB pictures (3, height, width) in [0, 1] -> each: ``boxes`` (N, 4) x1, y1, x2, y2; ``labels``, ``scores`` (N,)."""


class DetectorError(DataError):
    """The detector is not available; the message says what to do."""


class CarDetector:
    """A source of boxes for ``carkp.data.boxes``: cars, trucks and buses with a score of ``min_score`` or more."""

    def __init__(self, net: Net, min_score: float = MIN_SCORE) -> None:
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be in [0, 1], got {min_score}")
        self._net, self.min_score = net, min_score

    @property
    def description(self) -> str:
        return f"{AUTO}, torchvision's fasterrcnn_mobilenet_v3_large_fpn"

    @property
    def notes(self) -> Sequence[str]:
        kinds = ", ".join(CLASS_NAMES.values())
        return [f"{self.description}: {kinds} with a confidence of {self.min_score:g} or more"]

    def for_pictures(self, pictures: Sequence[str]) -> Self:
        return self

    def refuse_several(self, pictures: Sequence[Path]) -> None:
        """Accept any number of pictures."""

    def find(self, name: str, image: Image | None = None) -> list[list[float]]:
        """Return x, y, width, height of each vehicle in an RGB ``image`` (height, width, 3), highest score first.

        Raises:
            DataError: the detector gives boxes with NaN or infinite values.
        """
        assert image is not None, "a detector needs the picture"
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float().div(255)
        with torch.inference_mode():
            (found,) = self._net([pixels])
        kept = torch.isin(found["labels"], torch.tensor(list(CLASS_NAMES))) & (found["scores"] >= self.min_score)
        boxes, scores = found["boxes"][kept].double(), found["scores"][kept]
        if not torch.isfinite(boxes).all():
            raise DetectorError("the detector gives boxes that are not numbers: its weights are damaged")
        boxes = boxes[_distinct(boxes, scores)]
        return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist() if x2 > x1 and y2 > y1]


def open_detector() -> CarDetector:
    """Open the detector; download its weights if they are missing.

    Raises:
        DetectorError: the weights cannot be downloaded, are damaged, or do not fit.
    """
    net = build_net()
    path = find_weights()
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # from torch, pickle and zipfile
        raise DetectorError(f"{printable(str(path))}: cannot be loaded: {' '.join(str(error).split())}") from error
    return CarDetector(net.eval())


def build_net() -> nn.Module:
    """Build the detector with random weights."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn  # type: ignore[import-untyped]

    net: nn.Module = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None)
    return net.eval()


def weights_path() -> Path:
    """Return the path of the weights: in ``torch.hub``'s folder, which ``TORCH_HOME`` changes."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_URL.rsplit("/", 1)[-1]


def find_weights(url: str = WEIGHTS_URL, sha256: str = WEIGHTS_SHA256) -> Path:
    """Return the file of weights; download it if it is missing, and compare its digest with ``sha256`` every time.

    Raises:
        DetectorError: it cannot be downloaded, or its digest differs.
    """
    path = weights_path()
    shown = printable(str(path))
    if not path.is_file():
        fetch(url, path, sha256)
    try:
        digest = disk.file_digest(path)
    except OSError as error:
        raise DetectorError(f"{shown}: cannot be read: {error.strerror}") from error
    if digest != sha256:
        raise DetectorError(
            f"{shown}: is damaged or another file: its SHA-256 is {digest}, expected {sha256}; delete it, then carkp "
            f"downloads it again from {url}"
        )
    return path


def fetch(url: str, path: Path, sha256: str) -> None:
    """Download a file; it appears under its name only when it is complete and its digest is right.

    Raises:
        DetectorError: it cannot be downloaded or written, or its digest differs.
    """
    partial = disk.partial_path(disk.short_name_beside(path))
    try:
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
        digest = _download(url, partial, path)
        if digest != sha256:
            raise _fetch_error(url, path, f"the download has the SHA-256 {digest}, expected {sha256}")
        with explain_write_errors(path):
            disk.publish(partial, path)
    finally:
        disk.remove(partial)


def _download(url: str, partial: Path, path: Path) -> str:
    """Download ``url`` to a file and return its SHA-256."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, partial.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, desc=f"fetch {path.name}", unit="B", unit_scale=True) as bar:
                while chunk := response.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                    bar.update(len(chunk))
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in disk.NO_SPACE:
            raise DetectorError(disk.describe_write_error(path, error)) from error
        raise _fetch_error(url, path, str(error) or type(error).__name__) from error
    return digest.hexdigest()


def _fetch_error(url: str, path: Path, reason: str) -> DetectorError:
    return DetectorError(
        f"boxes={AUTO}: the detector's weights could not be downloaded ({reason}). Download {url} on a machine with a "
        f"network, and put the file at {printable(str(path))}; or give boxes=<file or folder> of your own detector"
    )


def _distinct(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return the indices of boxes that no box of a higher score overlaps by ``MAX_OVERLAP``, highest score first."""
    from torchvision.ops import nms  # type: ignore[import-untyped]

    kept: Any = nms(boxes, scores.double(), MAX_OVERLAP)
    chosen: Tensor = kept
    return chosen
