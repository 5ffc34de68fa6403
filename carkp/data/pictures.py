"""Pictures and videos as files: which there are, and their RGB pixels."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from carkp.data import jpeg
from carkp.data.issues import DataError
from carkp.data.jpeg import Image

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def list_pictures(path: Path) -> list[Path]:
    """The file itself, or the pictures and videos of a folder, by name; hidden ones and folders below are left out.

    Raises:
        DataError: there are none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such picture, video or folder")
    known = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
    found = (item for item in sorted(path.iterdir()) if item.suffix.lower() in known and item.is_file())
    paths = [item for item in found if not item.name.startswith(".")]
    if not paths:
        raise DataError(f"{path}: no pictures or videos in it ({', '.join(known)})")
    return paths


def read_picture(path: Path) -> Image:
    """(height, width, 3) uint8 RGB; EXIF orientation is ignored, as labels ignore it.

    Raises:
        DataError: it cannot be read or decoded, or is cut short.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"image cannot be read: {error.strerror}") from error
    return decode_picture(data)


def decode_picture(data: bytes) -> Image:
    """(height, width, 3) uint8 RGB of a picture file's content.

    Raises:
        DataError: it cannot be decoded, or is cut short.
    """
    if jpeg.is_cut_short(data):
        raise DataError("image file is cut short")
    image = jpeg.decode_rgb(data)
    if image is None:
        raise DataError("image cannot be decoded: not a JPEG, PNG or another picture that OpenCV reads")
    return image


class Video:
    """The frames of a video file, in order. Opens it; leave the context to close it."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file is no video with a frame rate."""
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS)) if self._capture.isOpened() else 0.0
        if not (math.isfinite(self.fps) and self.fps > 0):
            self._capture.release()
            raise DataError("video cannot be decoded: not one that OpenCV reads, or it says no frame rate")
        self.num_frames = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        """As the file says; 0 where it does not."""

    def __enter__(self) -> Self:
        return self

    def __iter__(self) -> Iterator[Image]:
        """RGB frames.

        Raises:
            DataError: there is not a single one.
        """
        count = 0
        while True:
            is_read, frame = self._capture.read()
            if not is_read:
                break
            count += 1
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        if not count:
            raise DataError("video has no frame that can be decoded")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()


class VideoWriter:
    """Writes RGB frames of one size as MPEG-4; the file appears under its name only when complete."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._partial = path.with_name(f".partial-{path.name}")
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> Self:
        return self

    def add(self, image_rgb: Image) -> None:
        """Raises OSError where the video cannot be written."""
        if self._writer is None:
            size = image_rgb.shape[1], image_rgb.shape[0]
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._partial), codec, self._fps, size)
            if not self._writer.isOpened():
                raise OSError(f"{self._path}: cannot write the video")
        self._writer.write(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)
