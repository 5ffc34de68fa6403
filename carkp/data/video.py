"""Videos as files: their RGB frames, and how new ones are written."""

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
"""Of videos that say no frame rate, or an impossible one."""

MAX_FPS = 65_535
"""MPEG-4 counts time in parts of a second, at most so many."""

_DECIMALS = (1000, 100, 10, 1)
_MIN_FPS = 0.01
_TEXT_BYTES = 8
_TEXT = frozenset((*b"\t\n\r", *range(0x20, 0x7F)))


class Video:
    """The frames of a video file, in order. Opens it; leave the context to close it."""

    def __init__(self, path: Path, orientation: str = IGNORE) -> None:
        """``orientation`` as in :mod:`carkp.data.orientation`. Raises DataError where the file is no video."""
        self.path = path
        check_orientation(orientation)
        if exists(path) and not is_file(path):  # a pipe would be waited for
            raise DataError("video cannot be read: it is a directory, a pipe or a device and no file")
        try:
            self.is_cut_short = containers.is_video_cut_short(path)
        except OSError as error:
            raise DataError(f"video cannot be read: {error.strerror}") from error
        if _is_text(path):  # FFmpeg would open the files that a playlist names
            raise DataError("video cannot be read: it is a text or a playlist: give the video that it is of")
        self._folder = None if is_utf8(str(path.absolute())) else tempfile.TemporaryDirectory()
        self._capture = cv2.VideoCapture(self._openable(), cv2.CAP_FFMPEG)
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, float(orientation == APPLY))
        if not self._capture.isOpened():
            self.close()
            raise DataError("video cannot be decoded: not one that OpenCV reads, or its index at the end is missing")
        width, height = (self._number(prop) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            self.close()
            raise DataError(f"video has frames of {width:.0f}x{height:.0f} pixels: make it smaller")
        self.stated_fps = self._number(cv2.CAP_PROP_FPS)
        """As the file says; 0 where it does not."""
        self.fps = self.stated_fps or DEFAULT_FPS
        self.num_frames = int(self._number(cv2.CAP_PROP_FRAME_COUNT))
        """As the file says, which often is an estimate; 0 where it does not."""
        self.is_turned = self._number(cv2.CAP_PROP_ORIENTATION_META) % 360 != 0
        """Whether the file says that its frames are to be turned."""
        self.num_read = 0
        """Frames that were given."""

    def _openable(self) -> str:
        """An absolute path, in which FFmpeg sees no protocol (``12:30.mp4``), and in letters that OpenCV can take."""
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
        """RGB frames.

        Raises:
            DataError: there is not a single one.
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
        """The RGB frame of a number that counts from 0, wherever the video was read before.

        Where it is not the next one it is found by its time: with an uneven frame rate the number may be another than
        that of reading in order.

        Raises:
            DataError: there is none, or it cannot be decoded.
        """
        if index < 0:
            raise DataError(f"frame {index}: frames count from 0")
        if round(self._capture.get(cv2.CAP_PROP_POS_FRAMES)) != index:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        is_read, frame = self._capture.read()
        if not is_read:
            raise DataError(f"frame {index} cannot be decoded, or the video has not so many")
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)

    def count_frames(self) -> int:
        """All that can be decoded, by reading to the end: for videos that do not say it; takes its time."""
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
        """Of the file; what is read afterwards fails."""
        self._capture.release()
        if self._folder is not None:
            self._folder.cleanup()


def _is_text(path: Path) -> bool:
    """Whether a file begins as playlists do, and no video."""
    with path.open("rb") as file:
        start = file.read(_TEXT_BYTES)
    return not start.startswith(b"RIFF") and bool(start) and all(byte in _TEXT for byte in start)


def writable_fps(fps: float) -> float:
    """The nearest frame rate that MPEG-4 can hold; ``DEFAULT_FPS`` for one beyond all cameras or none."""
    if not (math.isfinite(fps) and 0 < fps <= MAX_FPS):
        return DEFAULT_FPS
    return max(next(round(fps * part) / part for part in _DECIMALS if round(fps * part) <= MAX_FPS), _MIN_FPS)


class VideoWriter:
    """Writes RGB frames as MPEG-4; the file appears under its name only when complete.

    All frames get the size of the first; an odd width or height grows by a pixel, as MPEG-4 wants.
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
        """Raises OSError where the video cannot be written."""
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
                f"{self._path}: cannot write a video of {width}x{height} pixels, {self._fps:g} frames a second"
            )

    def _make_folder(self) -> Path:
        """Beside the video, but where OpenCV cannot take the name."""
        beside = self._path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.partial").absolute()
        if not is_utf8(str(beside)):
            return Path(tempfile.mkdtemp())
        beside.mkdir(parents=True)
        return beside

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises OSError where the video is not complete."""
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
        """OpenCV does not say that a disk is full."""
        try:
            with Video(self._partial) as written:
                num_written = 0 if written.is_cut_short else written.num_frames
        except DataError:
            num_written = 0
        if num_written != self._num_added:
            raise OSError(f"{self._path}: {num_written} of {self._num_added} frames were written; is the disk full?")


def _fitted(image: Image, size: tuple[int, ...]) -> Image:
    """``image`` in (width, height) ``size``: the last row and column repeated, or in another size than the first."""
    more_x, more_y = size[0] - image.shape[1], size[1] - image.shape[0]
    if more_x == more_y == 0:
        return image
    if 0 <= more_x <= 1 and 0 <= more_y <= 1:
        return np.pad(image, ((0, more_y), (0, more_x), (0, 0)), mode="edge")
    return np.asarray(cv2.resize(image, (size[0], size[1]), interpolation=cv2.INTER_AREA), np.uint8)
