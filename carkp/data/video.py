"""Video files: reading their RGB frames, and writing new ones."""

import errno
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from carkp import disk
from carkp.data import containers
from carkp.data.files import exists, is_file, is_utf8
from carkp.data.headers import MAX_PIXELS
from carkp.data.issues import DataError
from carkp.data.jpeg import Image
from carkp.data.orientation import APPLY, IGNORE, check_orientation

DEFAULT_FPS = 25.0
"""Frame rate for videos that give none, or an impossible one."""

MAX_FPS = 65_535
"""Largest frame rate: MPEG-4 divides a second into at most this number of parts."""

_DECIMALS = (1000, 100, 10, 1)
_MIN_FPS = 0.01
_TEXT_BYTES = 8
_TEXT = frozenset((*b"\t\n\r", *range(0x20, 0x7F)))


class Video:
    """The frames of a video file, in order. The constructor opens the file; leaving the context closes it."""

    def __init__(self, path: Path, orientation: str = IGNORE) -> None:
        """Open a video; ``orientation`` as in :mod:`carkp.data.orientation`. Raise DataError if it is not a video."""
        self.path = path
        check_orientation(orientation)
        if exists(path) and not is_file(path):  # reading a pipe could wait for ever
            raise DataError("video cannot be read: it is a directory, a pipe or a device, not a file")
        try:
            self.is_cut_short = containers.is_video_cut_short(path)
        except OSError as error:
            raise DataError(f"video cannot be read: {error.strerror}") from error
        if _is_text(path):  # FFmpeg would open the files that a playlist names
            raise DataError("video cannot be read: it is a text or a playlist: give the video itself")
        self._folder = None if is_utf8(str(path.absolute())) else tempfile.TemporaryDirectory()
        self._capture = cv2.VideoCapture(self._openable(), cv2.CAP_FFMPEG)
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, float(orientation == APPLY))
        if not self._capture.isOpened():
            self.close()
            raise DataError("video cannot be decoded: OpenCV does not support it, or its index at the end is missing")
        width, height = (self._number(prop) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            self.close()
            raise DataError(f"video has frames of {width:.0f}x{height:.0f} pixels: scale it down")
        self.stated_fps = self._number(cv2.CAP_PROP_FPS)
        """Frame rate in the file; 0 if there is none."""
        self.fps = self.stated_fps or DEFAULT_FPS
        self.num_frames = int(self._number(cv2.CAP_PROP_FRAME_COUNT))
        """Number of frames in the file, which is often an estimate; 0 if there is none."""
        self.is_turned = self._number(cv2.CAP_PROP_ORIENTATION_META) % 360 != 0
        """Whether the file says that its frames must be turned for display."""
        self.num_read = 0
        """Number of frames returned so far."""

    def _openable(self) -> str:
        """Return a path that OpenCV can encode; it is absolute, so that FFmpeg sees no protocol (``12:30.mp4``)."""
        if self._folder is None:
            return str(self.path.absolute())
        link = Path(self._folder.name) / f"video{self.path.suffix if is_utf8(self.path.suffix) else ''}"
        link.symlink_to(self.path.absolute())
        return str(link)

    def _number(self, prop: int) -> float:
        value = float(self._capture.get(prop))
        return value if math.isfinite(value) and 0 < value < 2**53 else 0.0

    def __enter__(self) -> Self:
        return self

    def __iter__(self) -> Iterator[Image]:
        """Yield RGB frames.

        Raises:
            DataError: no frame can be decoded.
        """
        while True:
            is_read, frame = self._capture.read()
            if not is_read:
                break
            self.num_read += 1
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        if not self.num_read:
            raise DataError("video has no frame that can be decoded")

    def frame(self, index: int) -> Image:
        """Return the RGB frame with this number, counted from 0, independent of the current position.

        If it is not the next frame, it is found by its time. With an uneven frame rate the number may differ from that
        of reading in order.

        Raises:
            DataError: there is no such frame, or it cannot be decoded.
        """
        if index < 0:
            raise DataError(f"frame {index}: frame numbers start at 0")
        if round(self._capture.get(cv2.CAP_PROP_POS_FRAMES)) != index:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        is_read, frame = self._capture.read()
        if not is_read:
            raise DataError(f"frame {index} cannot be decoded, or the video has fewer frames")
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)

    def count_frames(self) -> int:
        """Count the frames by reading to the end, for videos that do not give their number; this can take long."""
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
        count = 0
        while self._capture.grab():
            count += 1
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
        return count

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading afterwards fails."""
        self._capture.release()
        if self._folder is not None:
            self._folder.cleanup()


def _is_text(path: Path) -> bool:
    """Return whether a file begins with text, as playlists do and videos do not."""
    with path.open("rb") as file:
        start = file.read(_TEXT_BYTES)
    return not start.startswith(b"RIFF") and bool(start) and all(byte in _TEXT for byte in start)


def writable_fps(fps: float) -> float:
    """Return the nearest frame rate that MPEG-4 can store; ``DEFAULT_FPS`` for an impossible one."""
    if not (math.isfinite(fps) and 0 < fps <= MAX_FPS):
        return DEFAULT_FPS
    return max(next(round(fps * part) / part for part in _DECIMALS if round(fps * part) <= MAX_FPS), _MIN_FPS)


class VideoWriter:
    """Writes RGB frames as MPEG-4; the file gets its name only when it is complete.

    All frames get the size of the first one; an odd width or height grows by one pixel, because MPEG-4 needs it.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, writable_fps(fps)
        self._folder: Path | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._num_added = 0

    def __enter__(self) -> Self:
        return self

    @property
    def _partial(self) -> Path:
        assert self._folder is not None
        return self._folder / "video.mp4"

    def add(self, image_rgb: Image) -> None:
        """Add a frame; raise OSError if the video cannot be written."""
        if self._writer is None:
            self._open(image_rgb)
        assert self._writer is not None
        self._writer.write(cv2.cvtColor(_fitted(image_rgb, self._size), cv2.COLOR_RGB2BGR))
        self._num_added += 1

    def _open(self, image_rgb: Image) -> None:
        self._folder = self._make_folder()
        self._size = tuple(extent + extent % 2 for extent in image_rgb.shape[1::-1])
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._partial), cv2.CAP_FFMPEG, codec, self._fps, self._size)
        if not self._writer.isOpened():
            width, height = self._size
            raise OSError(
                f"{self._path}: cannot write a video of {width}x{height} pixels, {self._fps:g} frames per second"
            )

    def _make_folder(self) -> Path:
        """Make a folder beside the video, or a temporary one if OpenCV cannot handle the name."""
        beside = self._path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.partial").absolute()
        if not is_utf8(str(beside)):
            return Path(tempfile.mkdtemp())
        beside.mkdir(parents=True)
        return beside

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the video; raise OSError if it is not complete."""
        if self._folder is None:
            return
        try:
            if self._writer is not None:
                self._writer.release()
            if kind is None:
                self._check()
                self._move()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _move(self) -> None:
        try:
            disk.publish(self._partial, self._path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            disk.copy_atomic(self._partial, self._path)

    def _check(self) -> None:
        """Check the number of written frames, because OpenCV does not report a full disk."""
        try:
            with Video(self._partial) as written:
                num_written = 0 if written.is_cut_short else written.num_frames
        except DataError:
            num_written = 0
        if num_written != self._num_added:
            raise OSError(f"{self._path}: {num_written} of {self._num_added} frames were written; is the disk full?")


def _fitted(image: Image, size: tuple[int, ...]) -> Image:
    """Return ``image`` with ``size`` (width, height): repeat the last row or column, or resize if sizes differ more."""
    more_x, more_y = size[0] - image.shape[1], size[1] - image.shape[0]
    if more_x == more_y == 0:
        return image
    if 0 <= more_x <= 1 and 0 <= more_y <= 1:
        return np.pad(image, ((0, more_y), (0, more_x), (0, 0)), mode="edge")
    return np.asarray(cv2.resize(image, (size[0], size[1]), interpolation=cv2.INTER_AREA), np.uint8)
