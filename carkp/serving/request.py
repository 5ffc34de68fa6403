"""Content of a request to the registered model: its pictures and boxes, and the limits on both."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from carkp.data.headers import read_header
from carkp.data.issues import DataError
from carkp.data.pictures import decode_picture
from carkp.predictor import Predictor

EXAMPLE = '{"dataframe_records": [{"image": "<base64>", "boxes": [[x, y, width, height]]}]}'

PICTURE_FORMATS = "JPEG, PNG, WebP, BMP, TIFF or GIF"
"""Formats whose picture size is known before decoding."""

SETTINGS_VARIABLE = "MLFLOW_PYFUNC_INFERENCE_CONFIG"
"""MLflow's environment variable for the settings of a model at loading, as JSON."""

_MIB = 2**20
_SHOWN = 200
_DATA_URL = re.compile(r"data:([^,]*?)(;\s*base64)?\s*,", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{1,20}://|[\w./\\:~-]{1,250}\.(jpe?g|png|webp|bmp|tiff?)$", re.IGNORECASE)


class RequestError(ValueError):
    """A request that cannot be answered; the message says what is wrong with it and what to do."""


class Settings(BaseModel):
    """Limits on one request, which is refused with status 400 if it exceeds them, and how it is read.

    Change them when the model is loaded: ``mlflow.pyfunc.load_model(uri, model_config={"max_boxes": 5000})``, or for a
    server ``MLFLOW_PYFUNC_INFERENCE_CONFIG='{"max_boxes": 5000}' mlflow models serve …``. MLflow's server reads the
    whole body before the model sees it. So a server that strangers can reach needs a proxy in front that limits the
    body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_request_mib: float = Field(64.0, gt=0, description="Base64 text of all pictures of a request, in MiB.")
    max_pixels: int = Field(40_000_000, gt=0, description="Pixels of one picture, before it is decoded.")
    max_boxes: int = Field(
        512, gt=0, description="Boxes of all pictures of a request; a picture without boxes counts as one."
    )
    orientation: Literal["ignore", "apply"] = Field(
        "ignore",
        description="Whether boxes and points are of the stored pixels, or of the picture turned upright by its EXIF.",
    )


DEFAULT_SETTINGS = Settings()


def check_request(rows: Sequence[dict[str, Any]], settings: Settings) -> None:
    """Refuse a request as a whole, before any part of it is decoded.

    Raises:
        RequestError: it has no rows, or more text or boxes than ``settings`` allow.
    """
    if not rows:
        raise RequestError(f"the request contains no picture: send {EXAMPLE}")
    texts = [row.get("image") for row in rows]
    num_mib = sum(len(text) for text in texts if isinstance(text, str)) / _MIB
    if num_mib > settings.max_request_mib:
        raise RequestError(
            f"the pictures of the request are {num_mib:.1f} MiB of base64, at most {settings.max_request_mib:g} MiB: "
            f"send fewer or smaller pictures per request, or {_raise_limit('max_request_mib')}"
        )
    num_boxes = sum(_count_boxes(row.get("boxes")) for row in rows)
    if num_boxes > settings.max_boxes:
        raise RequestError(
            f"the request asks for {num_boxes} boxes, at most {settings.max_boxes}: send fewer boxes or pictures per "
            f"request, or {_raise_limit('max_boxes')}"
        )


def answer(predictor: Predictor, image: object, boxes: object, settings: Settings = DEFAULT_SETTINGS) -> dict[str, Any]:
    """Return the keypoints of one row.

    Args:
        predictor: the loaded model.
        image: a picture file in base64.
        boxes: lists of x, y, width, height; None or NaN (an empty cell of a table): the whole picture.
        settings: the limit on the picture's size, and its orientation.

    Raises:
        RequestError: there is no image, the base64 is broken, or the picture is too large.
        DataError: the picture cannot be decoded.
        ValueError: the boxes are not valid (``BoxError`` is a ValueError).
    """
    data = picture_bytes(image)
    _check_size(data, settings)
    picture = decode_picture(data, settings.orientation)
    prediction = predictor(picture, None if _is_absent(boxes) else _plain(boxes))
    height, width = picture.shape[:2]
    return {"width": width, "height": height, "cars": prediction.cars()}


def picture_bytes(image: object) -> bytes:
    """Decode a file from base64 in either alphabet, with or without padding and line breaks, or from a ``data:`` URL.

    Raises:
        RequestError: the text is something else.
    """
    if not isinstance(image, str) or not image.strip():
        raise RequestError(f"image: expected a picture file in base64, got {image!r}"[:_SHOWN])
    text = _without_data_url(image.strip())
    text = re.sub(r"[\r\n\t]", "", text)
    if not {"+", "/"} & set(text):  # the URL-safe alphabet, unless both alphabets are mixed
        text = text.translate(str.maketrans("-_", "+/"))
    text = text.rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"image: not base64: {error}{_hint(image)}") from error


def _without_data_url(text: str) -> str:
    """Return the base64 in a ``data:`` URL; any other text is unchanged.

    Raises:
        RequestError: a ``data:`` URL whose content is not base64.
    """
    found = _DATA_URL.match(text)
    if found is None:
        return text
    if not found[2]:
        raise RequestError(f"image: a data: URL must be in base64 (data:image/jpeg;base64,…), got {text[:40]!r}")
    return unquote(text[found.end() :]).strip()


def _hint(image: str) -> str:
    """Guess why a text is not base64."""
    if image.startswith(("b'", 'b"')):
        return "; it is printed Python bytes: decode them to text (base64.b64encode(data).decode())"
    if _ADDRESS.match(image):
        return "; it looks like an address or a path: send the content of the file, in base64"
    if " " in image.strip():
        return "; it contains a space: a form or an address may have changed + to a space"
    return ""


def _check_size(data: bytes, settings: Settings) -> None:
    """Check a picture's size in its header.

    Raises:
        RequestError: it has too many pixels.
        DataError: it is not a picture with a known size.
    """
    header = read_header(data)
    if header is None:
        raise DataError(f"image cannot be decoded: not a whole {PICTURE_FORMATS} file")
    num_pixels = header.width * header.height
    if num_pixels > settings.max_pixels:
        raise RequestError(
            f"image: has {header.width}x{header.height} = {num_pixels:,} pixels, at most {settings.max_pixels:,}: "
            f"scale it down, or {_raise_limit('max_pixels')}"
        )


def _raise_limit(name: str) -> str:
    return f"raise the server's {name} (in {SETTINGS_VARIABLE})"


def _count_boxes(boxes: object) -> int:
    is_many = isinstance(boxes, (list, tuple)) or (isinstance(boxes, np.ndarray) and boxes.ndim > 0)
    return len(boxes) if is_many else 1  # type: ignore[arg-type]


def _is_absent(boxes: object) -> bool:
    return boxes is None or (pd.api.types.is_scalar(boxes) and bool(pd.isna(boxes)))


def _plain(boxes: object) -> Any:
    """Convert boxes to nested lists; a table may hold them as arrays of arrays."""
    if isinstance(boxes, np.ndarray):
        return [_plain(item) for item in boxes]
    if isinstance(boxes, Sequence) and not isinstance(boxes, str):
        return [_plain(item) for item in boxes]
    return boxes
