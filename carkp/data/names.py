r"""Matching of the entries in a list of names with pictures.

An entry names a picture by its file name, with or without suffix, or by a path (absolute, relative, with ``/`` or
``\``) that ends in it. The frames of a video are ``<file name>#000000`` and so on; the file name alone means all
frames. Names that differ only in Unicode composition or in upper and lower case match if there is no better match.
Nothing is guessed: if two entries fit one picture equally well, or one entry fits two pictures, that is an error.
"""

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath

from carkp.data.files import fold_name, is_utf8
from carkp.data.issues import DataError, printable

FRAME_MARK = "#"
"""Separator between a video's file name and the number of a frame."""

_FRAME_NAME = re.compile(rf"(.+){FRAME_MARK}(\d{{6,18}})", re.DOTALL)
_KNOWN_SUFFIX = re.compile(
    r"\.(jpe?g?|jfif|png|bmp|webp|tiff?|gif|hei[cf]|avif|mp4|avi|mov|mkv|webm|m4v|mpe?g|wmv|3gp|m2?ts)", re.IGNORECASE
)


@dataclass(frozen=True)
class _Name:
    """Folders, file name and suffix of a name as users write it; ``frame`` is the number of a frame of a video."""

    folders: tuple[str, ...]
    stem: str
    suffix: str
    frame: int | None = None


@lru_cache(maxsize=65536)
def _parse(text: str, is_frame: bool) -> _Name:
    """Split a name into its parts. ``is_frame``: whether to read the number of a frame at the end, if there is one."""
    text, frame = text.strip(), None
    if is_frame and (match := _FRAME_NAME.fullmatch(text)):
        text, frame = match.group(1), int(match.group(2))
    parts = [part for part in _letters(text).replace("\\", "/").split("/") if part not in ("", ".")]
    *folders, file_name = parts or [""]
    suffix = PurePosixPath(file_name).suffix
    is_known = _KNOWN_SUFFIX.fullmatch(suffix) is not None
    return _Name(tuple(folders), file_name.removesuffix(suffix) if is_known else file_name, suffix * is_known, frame)


def _letters(text: str) -> str:
    """Return ``text`` in composed Unicode; a name on disk that is not UTF-8 is decoded as Latin-1."""
    if not is_utf8(text):
        with contextlib.suppress(UnicodeEncodeError):  # lone surrogate from JSON (``"\\ud800"``), which no file has
            text = os.fsencode(text).decode("latin-1")
    return unicodedata.normalize("NFC", text)


_Key = tuple[str, int | None]
"""A file name without suffix, case-folded, and the number of a frame."""

_Rank = tuple[bool | int, ...]
"""Quality of a match: the lowest rank is the best."""


def split_frame(name: str) -> tuple[str, int] | None:
    """Return the video and the number, from 0, in the name of a frame; None if the name is not that of a frame."""
    match = _FRAME_NAME.fullmatch(name)
    return (match.group(1), int(match.group(2))) if match else None


class NameBook:
    """Entries, and the pictures that they may mean."""

    def __init__(self, source: str, entries: Iterable[str], pictures: Iterable[str] = ()) -> None:
        """``source``: name of the entries in messages. ``pictures``: all pictures that are looked up, if known."""
        self._source = source
        self._entries = _index(entries)
        self._pictures = _index(pictures)

    def find(self, picture: str) -> str | None:
        """Return the entry that means ``picture`` (a name, a path or the name of a frame); None if there is none.

        Raises:
            DataError: two entries may be meant, or the entry may mean another picture, too.
        """
        ranks = self._rank_entries(picture)
        if not ranks:
            return None
        best_rank = min(ranks.values())
        equals = [entry for entry, rank in ranks.items() if rank == best_rank]
        best, *more = [entry for entry in equals if _is_verbatim(entry, picture)] or equals
        if more:
            raise DataError(
                f"{self._source}: {printable(best)!r} and {printable(more[0])!r} both match; write the name with its "
                "folder, as in the file"
            )
        self._refuse_rivals(picture, best, best_rank)
        return best

    def similar(self, picture: str) -> str:
        """Return an entry with a similar name, for a message; empty if there is none."""
        return next((printable(entry) for entry in self._entries.get(_key(_parse(picture, False)), ())), "")

    def _rank_entries(self, picture: str) -> dict[str, _Rank]:
        plain, frame = _parse(picture, False), _parse(picture, True)
        ranks: dict[str, _Rank] = {}
        if frame.frame is not None:
            self._add_ranks(ranks, frame, _key(frame))
            self._add_ranks(ranks, replace(frame, frame=None), (fold_name(frame.stem), None))
        self._add_ranks(ranks, plain, _key(plain))
        return ranks

    def _add_ranks(self, ranks: dict[str, _Rank], picture: _Name, key: _Key) -> None:
        for entry in self._entries.get(key, ()):
            rank = _rank(entry, picture)
            if rank is not None and entry not in ranks:
                ranks[entry] = rank

    def _refuse_rivals(self, picture: str, entry: str, rank: _Rank) -> None:
        of_video = _FRAME_NAME.fullmatch(picture)
        own = {picture, of_video.group(1)} if of_video else {picture}
        is_verbatim = _is_verbatim(entry, picture)
        for other in self._pictures.get((fold_name(_parse(entry, False).stem), None), ()):
            other_rank = None if other in own else _rank(entry, _parse(other, False))
            is_closer = is_verbatim and not _is_verbatim(entry, other)
            if other_rank is not None and other_rank <= rank and not is_closer:
                raise DataError(
                    f"{self._source}: {printable(entry)!r} also matches {printable(other)}; write the whole file "
                    "name of each picture, with its folder if names are the same"
                )


def _index(names: Iterable[str]) -> dict[_Key, list[str]]:
    found: dict[_Key, list[str]] = {}
    for name in dict.fromkeys(names):
        for key in dict.fromkeys(_key(_parse(name, is_frame)) for is_frame in (True, False)):
            found.setdefault(key, []).append(name)
    return found


def _key(name: _Name) -> _Key:
    return fold_name(name.stem), name.frame


def _rank(entry: str, picture: _Name) -> _Rank | None:
    """Return the rank of an entry with the same stem as the picture; None if it means another picture."""
    named = _parse(entry, picture.frame is not None)
    if named.suffix and fold_name(named.suffix) != fold_name(picture.suffix):
        return None
    num_common = _count_common(named.folders, picture.folders)
    return (
        picture.frame is None,
        not named.suffix and bool(picture.suffix),
        named.stem != picture.stem or named.suffix not in ("", picture.suffix),
        num_common < min(len(named.folders), len(picture.folders)),
        -num_common,
        named.folders != picture.folders,
    )


def _is_verbatim(entry: str, picture: str) -> bool:
    """Return whether the entry equals the end of the picture's path, or of its video's path, character by character."""
    of_video = _FRAME_NAME.fullmatch(picture)
    paths = [picture, of_video.group(1)] if of_video else [picture]
    return any(f"/{path}".endswith(f"/{entry}") for path in paths)


def _count_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the number of last folders that are equal."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if fold_name(a) != fold_name(b)), min(len(one), len(other)))
