"""Pictures and videos sent by the page, held while a user looks at them."""

import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

from carkp.data.boxes import FRAME_MARK
from carkp.data.headers import UPRIGHT, count_pages, read_header
from carkp.data.issues import DataError
from carkp.data.jpeg import Image
from carkp.data.orientation import APPLY
from carkp.data.pictures import decode_picture
from carkp.data.video import Video
from carkp.view.limits import Limits, ViewError

DEFAULT_ORIENTATION = APPLY
"""The default is upright, because users draw boxes on what the page shows."""


class Source(Protocol):
    """A picture or a video. ``notes`` tell the user about special cases."""

    name: str
    orientation: str
    notes: list[str]

    def image(self, frame: int) -> Image:
        """Return (height, width, 3) uint8 RGB; a picture only has frame 0.

        Raises DataError if the frame does not exist.
        """

    def image_name(self, frame: int) -> str:
        """Return the name that ``carkp infer`` uses."""

    def describe(self) -> dict[str, Any]:
        """Return ``kind``, ``width``, ``height`` in pixels, ``num_frames``, ``fps`` and ``is_turned``, for JSON."""

    def close(self) -> None:
        """Release files."""


class Picture:
    """A decoded picture, held in memory only."""

    def __init__(self, name: str, data: bytes, orientation: str, limits: Limits) -> None:
        """``orientation`` as in :mod:`carkp.data.orientation`. Raises DataError if the data are not a picture."""
        header = read_header(data)
        if header is not None:
            _check_pixels(header.height, header.width, limits)
        self.name, self.orientation = name, orientation
        self._image = decode_picture(data, orientation)
        _check_pixels(self._image.shape[0], self._image.shape[1], limits)
        self._is_turned = header is not None and header.orientation != UPRIGHT
        num_pages = count_pages(data)
        self.notes = [f"it has {num_pages} pages or pictures; only the first is used"] if num_pages > 1 else []

    def image(self, frame: int) -> Image:
        if frame:
            raise DataError(f"frame {frame}: a picture has no frames")
        return self._image

    def image_name(self, frame: int) -> str:
        return self.name

    def describe(self) -> dict[str, Any]:
        height, width = self._image.shape[:2]
        size = {"width": width, "height": height}
        return {"kind": "picture", **size, "num_frames": 1, "fps": 0.0, "is_turned": self._is_turned}

    def close(self) -> None:
        pass


class ViewedVideo:
    """A video in a temporary file, which :meth:`close` removes. Frames are read one at a time."""

    def __init__(self, name: str, path: Path, orientation: str, limits: Limits) -> None:
        """``path`` belongs to the video from now on. Raises DataError if it is not a video."""
        self.name, self.orientation, self._path = name, orientation, path
        self._lock = threading.Lock()
        self._video = Video(path, orientation)
        try:
            self._num_frames = self._video.num_frames or self._video.count_frames()
            self._newest = 0, self._video.frame(0)
            height, width = self._newest[1].shape[:2]
            _check_pixels(height, width, limits)
        except BaseException:
            self._video.close()
            raise
        self.notes = ["it is truncated: frames at its end are missing"] if self._video.is_cut_short else []

    def image(self, frame: int) -> Image:
        with self._lock:
            if self._newest[0] != frame:
                self._newest = frame, self._video.frame(frame)
            return self._newest[1]

    def image_name(self, frame: int) -> str:
        return f"{self.name}{FRAME_MARK}{frame:06d}"

    def describe(self) -> dict[str, Any]:
        height, width = self._newest[1].shape[:2]
        size = {"width": width, "height": height}
        counts = {"num_frames": self._num_frames, "fps": round(self._video.fps, 3)}
        return {"kind": "video", **size, **counts, "is_turned": self._video.is_turned}

    def close(self) -> None:
        with self._lock:
            self._video.close()
            self._path.unlink(missing_ok=True)


class Shelf:
    """Holds sources under keys that cannot be guessed, and removes the oldest if there are too many. Thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sources: OrderedDict[str, Source] = OrderedDict()
        self._lock = threading.Lock()
        self._folder: Path | None = None

    def new_file(self, suffix: str) -> Path:
        """Return a path for a new video; :meth:`close` removes all of these files."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="carkp-view-"))
            return self._folder / f"{secrets.token_hex(8)}{suffix}"

    def add(self, source: Source) -> str:
        """Add a source and return its key."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._sources[key] = source
            surplus = [self._sources.popitem(last=False)[1] for _ in range(len(self._sources) - self.limits.sources)]
        for old in surplus:
            old.close()
        return key

    def find(self, key: object) -> Source:
        """Return the source with this key. Raises ViewError if it is not held, or not any more."""
        with self._lock:
            if not isinstance(key, str) or key not in self._sources:
                raise ViewError("The server no longer has this picture: open it again.", 404)
            self._sources.move_to_end(key)
            return self._sources[key]

    def remove(self, key: str) -> None:
        """Remove a source, if it is held."""
        with self._lock:
            source = self._sources.pop(key, None)
        if source is not None:
            source.close()

    def close(self) -> None:
        """Remove all sources and files."""
        with self._lock:
            sources = list(self._sources.values())
            self._sources.clear()
            folder, self._folder = self._folder, None
        for source in sources:
            source.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def open_source(name: str, content: bytes | Path, orientation: str, limits: Limits) -> Source:
    """Open a picture from bytes, or a video from a path.

    Raises:
        DataError: it cannot be decoded, or ``orientation`` is not valid.
        ViewError: it has too many pixels.
    """
    if isinstance(content, Path):
        return ViewedVideo(name, content, orientation, limits)
    return Picture(name, content, orientation, limits)


def check_frame(value: object) -> int:
    """Return the frame number in a request. Raises ViewError for anything else."""
    text = str(value)
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ViewError(f"frame: expected a whole number of at least 0, got {text[:40]!r}.")
    return int(text)


def _check_pixels(height: int, width: int, limits: Limits) -> None:
    if height * width > limits.pixels:
        most = f"{limits.pixels / 1e6:g} million"
        raise ViewError(f"The picture has {width}x{height} pixels, at most {most} are allowed: scale it down.", 413)
