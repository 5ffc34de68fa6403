"""Boxes as carkp's own JSON: ``{"<image name>": [[x, y, width, height], ...]}``, or one list for a single picture."""

from pathlib import Path
from typing import Any

from carkp.data.box_formats.book import BoxBook
from carkp.data.box_formats.texts import NUM_SHOWN
from carkp.data.issues import DataError, printable

FORM = 'boxes are given as {"<image name>": [[x, y, width, height], ...]}'


class DuplicateFinder:
    """``object_pairs_hook`` for :func:`json.loads` that keeps the first value of a name.

    Attributes:
        names: names given twice with different values, in the last completed object; at the end, the outermost.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        self.names = {name for name, value in pairs if content.setdefault(name, value) != value}
        return content


def read_names(path: Path, content: Any, given_twice: set[str]) -> BoxBook:
    """Read the boxes of ``content``, the content of the file; names in ``given_twice`` are problems.

    Raises:
        DataError: the content is from another program, or has an unknown form.
    """
    shown = printable(str(path))
    match content:
        case dict():
            _refuse_other_json(shown, content)
            problems = {
                name: f"{shown}: {name!r} occurs twice, with different boxes; join the two lists"
                for name in given_twice
            }
            return BoxBook(path, named={k: v for k, v in content.items() if k not in problems}, problems=problems)
        case list():
            if any(isinstance(item, dict) for item in content):
                raise DataError(
                    f"{shown}: is a list of objects, but not of COCO results, which have image_id, category_id, bbox "
                    f"and score; {FORM}"
                )
            return BoxBook(path, unnamed=content)
    raise DataError(f"{shown}: expected an object of image names or a list of boxes, got {str(content)[:NUM_SHOWN]}")


def _refuse_other_json(shown: str, content: dict[str, Any]) -> None:
    if isinstance(content.get("shapes"), list):
        raise DataError(f"{shown}: is a labelme file; {FORM}")
    if isinstance(content.get("images"), dict):
        raise DataError(f"{shown}: is a result file of infer; {FORM}")
    if isinstance(content.get("images"), list):
        raise DataError(f"{shown}: is a COCO file without annotations, which has no boxes")
