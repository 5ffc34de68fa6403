"""Picture and video files: listing them, and reading the RGB pixels of pictures."""

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from carkp.data import containers, jpeg
from carkp.data.files import is_clutter, is_directory, is_file, read_file
from carkp.data.headers import MAX_PIXELS, UPRIGHT, PictureHeader, read_header
from carkp.data.issues import DataError, printable
from carkp.data.jpeg import Image
from carkp.data.orientation import APPLY, IGNORE, check_orientation, turn_back, turn_upright
from carkp.data.video import Video, VideoWriter

__all__ = ["Video", "VideoWriter", "count_images", "decode_picture", "is_video", "list_pictures", "read_picture"]

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"),
    *(".heic", ".heif"),  # cannot be read; listed so that an error is reported instead of skipping them silently
)
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts", ".m2ts")

_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
_HEIF = "a HEIC or AVIF picture, which is not supported: convert it to JPEG or PNG"
_FOREIGN_STARTS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the picture: run `git lfs pull`",
    b"<!doctype": "a web page, not a picture: download it again",
    b"<html": "a web page, not a picture: download it again",
    b"<?xml": "XML text, not a picture",
    b"<svg": "an SVG drawing: convert it to PNG",
    b"%pdf": "a PDF document: convert its page to PNG",
}
_WRONG_IN_OPENCV = ("RGBA", "LA", "LAB")


def is_video(path: Path) -> bool:
    """Return whether a file is a video, judged by its first bytes if they are known, else by its suffix."""
    return starts_video(_first_bytes(path), path.suffix)


def starts_video(start: bytes, suffix: str) -> bool:
    """Return :func:`is_video` for a file with these first bytes (16 are enough) and this suffix."""
    if start[4:8] == b"ftyp":
        return start[8:12] not in _HEIF_BRANDS
    if start[:4] == b"RIFF":
        return start[8:12] == b"AVI "
    if start.startswith(_PICTURE_STARTS):
        return False
    return start[:4] == b"\x1aE\xdf\xa3" or suffix.lower() in VIDEO_SUFFIXES


def _first_bytes(path: Path) -> bytes:
    if not is_file(path):  # reading a pipe could wait for ever
        return b""
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""


def list_pictures(path: Path) -> list[Path]:
    """List the file itself, or the pictures and videos in a folder by name, without hidden files and subfolders.

    A broken link is listed; reading it gives the error.

    Raises:
        DataError: there are no pictures or videos, or the folder cannot be read.
    """
    if is_file(path):
        return [path]
    shown = printable(str(path))
    if not is_directory(path):
        raise DataError(f"{shown}: no such picture, video or folder")
    try:
        names = sorted(os.listdir(path))  # noqa: PTH208
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error.strerror}") from error
    known = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
    items = [path / name for name in names if not is_clutter(name) and name.lower().endswith(known)]
    paths = [item for item in items if is_file(item) or _is_broken_link(item)]
    if not paths:
        raise DataError(f"{shown}: no pictures or videos in it ({', '.join(known)}); subfolders are not searched")
    return paths


def _is_broken_link(path: Path) -> bool:
    return path.is_symlink() and not is_directory(path) and not path.exists()


def count_images(paths: Sequence[Path]) -> int:
    """Count pictures and, as far as the headers of videos say, frames."""
    total = 0
    for path in paths:
        if not is_video(path):
            total += 1
            continue
        with contextlib.suppress(DataError), Video(path) as video:  # errors are reported when the video is read
            total += video.num_frames
    return total


def read_picture(path: Path, orientation: str = IGNORE) -> Image:
    """Read a picture file as uint8 RGB (height, width, 3); ``orientation`` as in :mod:`carkp.data.orientation`.

    Raises:
        DataError: the file cannot be read or decoded, or is cut short.
    """
    return decode_picture(read_bytes(path), orientation)


def read_bytes(path: Path) -> bytes:
    """Read the content of a file; raise DataError if it cannot be read."""
    try:
        return read_file(path)
    except (OSError, ValueError, MemoryError) as error:
        raise DataError(f"image cannot be read: {getattr(error, 'strerror', None) or error}") from error


def decode_picture(data: bytes, orientation: str = IGNORE) -> Image:
    """Decode the content of a picture file as uint8 RGB (height, width, 3); 16 bits become 8, transparency is ignored.

    Only the first of several pages or pictures is used.

    Raises:
        DataError: the picture cannot be decoded, is cut short, or is larger than ``MAX_PIXELS``.
    """
    check_orientation(orientation)
    header = read_header(data)
    if header is not None and header.is_huge:
        raise DataError(
            f"image of {header.width}x{header.height} pixels is larger than {MAX_PIXELS / 1e6:.0f} million: scale it "
            "down, or cut it into parts"
        )
    if jpeg.is_cut_short(data):
        raise DataError("image file is cut short")
    if (containers.is_tiff(data) and data[8:10] == b"CR") or (header is not None and header.is_preview):
        raise DataError("image is a camera's raw file, of which only a preview is readable: convert it to JPEG or PNG")
    image = _decode_tiff(data, header) if header is not None and containers.is_tiff(data) else jpeg.decode_rgb(data)
    if image is None:
        raise DataError(f"image cannot be decoded: {_describe_unreadable(data)}")
    if header is None or header.orientation == UPRIGHT or orientation != APPLY:
        return image
    return turn_upright(image, header.orientation)


def _decode_tiff(data: bytes, header: PictureHeader) -> Image | None:
    """Decode the stored pixels of a TIFF: OpenCV and Pillow always turn TIFF files, so the result is turned back.

    Pillow is used for pictures with transparency, which OpenCV would darken, and for Lab, which it would read as RGB.
    """
    if header.mode in _WRONG_IN_OPENCV:
        try:
            with PIL.Image.open(io.BytesIO(data)) as file:
                image = np.asarray(file.convert("RGB"))
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
            return None
    else:
        decoded = jpeg.decode_rgb(data)
        if decoded is None:
            return None
        image = decoded
    return turn_back(image, header.orientation)


def _describe_unreadable(data: bytes) -> str:
    if not data:
        return "the file is empty"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return _HEIF
    start = data[:64].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    known = next((text for mark, text in _FOREIGN_STARTS.items() if start.startswith(mark)), None)
    return known or "not a JPEG, PNG or other picture that OpenCV can read"
