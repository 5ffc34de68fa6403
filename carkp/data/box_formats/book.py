"""The boxes of a source, looked up by the name of a picture or of a frame of a video."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Protocol, Self, runtime_checkable

from carkp.data.files import parse_number
from carkp.data.issues import DataError, printable
from carkp.data.jpeg import Image
from carkp.data.names import NameBook, split_frame
from carkp.data.pictures import VIDEO_SUFFIXES, is_video

Size = tuple[int, int]
"""(height, width)."""

Row = tuple[float, float, float, float]

_DECIMALS = 2


@runtime_checkable
class PictureBoxes(Protocol):
    """Boxes that depend on the size of the picture."""

    def in_pixels(self, size: Size) -> list[list[float]]:
        """Return x, y, width, height of each car, in pixels of a (height, width) picture.

        Raises:
            DataError: the boxes are for a picture of another size.
        """
        ...


@dataclass(frozen=True)
class RelativeBoxes:
    """Boxes as x and y of the centre, width and height, in shares of the picture's width and height.

    Pixels are rounded to two decimals, because shares are written with six decimals and crops are cut at whole pixels.
    """

    rows: Sequence[Row]

    def in_pixels(self, size: Size) -> list[list[float]]:
        height, width = size
        boxes = [((x - w / 2) * width, (y - h / 2) * height, w * width, h * height) for x, y, w, h in self.rows]
        return [[round(value, _DECIMALS) for value in box] for box in boxes]


@dataclass(frozen=True)
class SizedBoxes:
    """Boxes as x, y, width, height in pixels of a picture of ``size`` (height, width); ``where`` names their file."""

    rows: Sequence[Row]
    size: Size
    where: str

    def in_pixels(self, size: Size) -> list[list[float]]:
        if size != self.size:
            hint = "it was labelled turned: orientation=apply turns it" if size == self.size[::-1] else ""
            hint = hint or "scale the boxes, or delete <size> from the file if they fit this picture"
            stated, found = (f"{width}x{height}" for height, width in (self.size, size))
            raise DataError(
                f"{self.where}: its boxes are for a picture of {stated} pixels, this one has {found}; {hint}"
            )
        return [list(row) for row in self.rows]


class BoxSource(Protocol):
    """A source of boxes of pictures."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences that the user should know about the boxes."""
        ...

    @property
    def description(self) -> str:
        """Readable text on the origin of the boxes."""
        ...

    def refuse_several(self, pictures: Sequence[Path]) -> None:
        """Raise DataError if the boxes are for one picture or video and several are given."""
        ...

    def find(self, name: str, image: Image | None = None) -> Any:
        """Return the boxes (N, 4), x, y, width, height, of a picture or frame with this name or path; N may be 0.

        Raises:
            DataError: the boxes cannot be found or read; the message says why.
        """
        ...

    def for_pictures(self, pictures: Sequence[str]) -> Self:
        """Return the same source, limited to these names or paths."""
        ...


@dataclass(frozen=True)
class BoxBook:
    """The boxes read from a source.

    Attributes:
        source: path that was read.
        unnamed: boxes of the only picture; None if every list of boxes has the name of a picture.
        named: name -> boxes, not checked yet.
        problems: name -> message on what cannot be read.
        pictures: names of all pictures for which boxes are needed, if known; no two may mean the same entry.
        videos: name of a video -> number of a frame, from 1 -> name of its boxes. Frames that are not listed have no
            boxes.
        is_of_one_video: whether the boxes are for any video that is given, or for pictures named by frame numbers.
        are_names_numbers: whether names are numbers, which may have leading zeros in the names of pictures.
        may_be_empty: whether pictures may have no car.
        is_absence_emptiness: whether pictures that are not named have no car, if at least one other picture is named.
        notes: sentences that the user should know.
    """

    source: Path
    unnamed: Any = None
    named: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    pictures: Sequence[str] = ()
    videos: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    is_of_one_video: bool = False
    are_names_numbers: bool = False
    may_be_empty: bool = False
    is_absence_emptiness: bool = False
    notes: Sequence[str] = ()

    @property
    def description(self) -> str:
        return printable(str(self.source))

    def find(self, name: str, image: Image | None = None) -> Any:
        """Return the boxes of a picture or frame with this name or path; the predictor checks their values.

        ``image`` (height, width, 3) is needed if boxes are in shares of its size.

        Raises:
            DataError: there are no boxes, they cannot be read, or several entries may be meant.
        """
        key = "" if self.unnamed is not None else self._find_key(name)
        if key is None:
            if self._has_no_car(name):
                return []
            raise DataError(f"{self.description} has no boxes for it{self._hint(name)}")
        if key in self.problems:
            raise DataError(self.problems[key])
        boxes = self.unnamed if self.unnamed is not None else self.named[key]
        if isinstance(boxes, PictureBoxes):
            assert image is not None, "boxes relative to the picture's size need the picture"
            return boxes.in_pixels((image.shape[0], image.shape[1]))
        boxes = _as_numbers(boxes)
        if boxes is None:  # the predictor would take the whole picture for one car
            raise DataError(f"{self.description}: its boxes are null; give a list, or delete the name")
        if boxes == [] and not self.may_be_empty:
            raise DataError(f"{self.description}: its list of boxes is empty")
        return boxes

    def for_pictures(self, pictures: Sequence[str]) -> Self:
        """Return the same boxes for these names or paths; no two of them may mean the same entry."""
        return replace(self, pictures=pictures)

    def refuse_several(self, pictures: Sequence[Path]) -> None:
        """Raise DataError if the boxes are for one picture or video and several are given."""
        if len(pictures) < 2:
            return
        if self.unnamed is not None:
            raise DataError(
                f"{self.description}: its boxes name no picture, and {len(pictures)} pictures are given; name the "
                "picture of each box"
            )
        if self.is_of_one_video and any(map(is_video, pictures)):
            raise DataError(
                f"{self.description}: holds the frames of one video, but {len(pictures)} pictures and videos are "
                "given; give the video alone, or a folder of <name of the video>.txt"
            )

    @cached_property
    def _names(self) -> NameBook:
        return NameBook(self.description, [*self.named, *self.problems], self.pictures)

    @cached_property
    def _video_names(self) -> NameBook:
        videos = [name for name in self.pictures if name.lower().endswith(VIDEO_SUFFIXES)]
        return NameBook(self.description, self.videos, videos)

    def _find_key(self, name: str) -> str | None:
        """Return the name of the entry with the boxes of a picture or frame; None if there is none."""
        key = self._names.find(name)
        if key is None and self.are_names_numbers:
            key = self._find_number(name)
        if key is None and (frames := self._frames_with(name)) is not None:
            return frames[0].get(frames[1])
        return key

    def _find_number(self, name: str) -> str | None:
        path = PurePath(name)
        if not path.stem.isdecimal():
            return None
        plain = str(path.with_name(f"{int(path.stem)}{path.suffix}"))
        if plain != name and plain in self.pictures:
            raise DataError(
                f"{self.description}: {path.stem} and {int(path.stem)} are the same number; use different names"
            )
        return self._names.find(plain)

    def _frames_with(self, name: str) -> tuple[Mapping[int, str], int] | None:
        """Return the frames of the video to which ``name`` belongs, and its number from 1; None if there is none."""
        frame = split_frame(name)
        if self.is_of_one_video:
            (frames,) = self.videos.values()
            if frame is not None:
                return frames, frame[1] + 1
            stem = PurePath(name).stem
            return (frames, int(stem)) if stem.isdecimal() else None
        if frame is None or not self.videos:
            return None
        video = self._video_names.find(frame[0])
        return None if video is None else (self.videos[video], frame[1] + 1)

    def _has_no_car(self, name: str) -> bool:
        if self._frames_with(name) is not None:
            return True
        return self.is_absence_emptiness and self._is_any_named

    @cached_property
    def _is_any_named(self) -> bool:
        return any(self._is_named(name) for name in self.pictures)

    def _is_named(self, name: str) -> bool:
        try:
            return self._find_key(name) is not None
        except DataError:
            return True

    def _hint(self, name: str) -> str:
        similar = self._names.similar(name)
        if similar:
            return f"; is it {similar!r}? Write the name as in the file"
        if self.is_of_one_video:
            return "; it is for a video, or for its frames as pictures that are named by frame number"
        return ""


def _as_numbers(boxes: Any) -> Any:
    """Convert numbers written as text, as spreadsheets export them, to numbers, and a single box to a list of one."""
    if not isinstance(boxes, list | tuple):
        return boxes
    rows = [_box_as_numbers(box) if isinstance(box, list | tuple) else _as_number(box) for box in boxes]
    is_single_box = len(rows) == 4 and all(isinstance(value, int | float) for value in rows)
    return [rows] if is_single_box else rows


def _box_as_numbers(box: Sequence[Any]) -> list[Any]:
    return [_as_number(value) for value in box]


def _as_number(value: Any) -> Any:
    number = parse_number(value) if isinstance(value, str) else None
    return value if number is None else number
