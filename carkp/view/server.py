"""The server of the page: it takes pictures and boxes, and returns keypoints.

Errors are JSON, ``{"error": "<one sentence>"}``.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from carkp import __version__
from carkp.data.boxes import parse_boxes
from carkp.data.issues import DataError, printable
from carkp.data.jpeg import Image
from carkp.keypoints.schema import KEYPOINT_NAMES, SKELETON
from carkp.predictor import DECIMALS, HeatmapError, ModelError, check_boxes
from carkp.report.drawing import RIGHT, SCORE_THRESHOLDS
from carkp.report.page_css import COLOURS_CSS
from carkp.report.palette import ERROR_RGB, LEFT_RGB, MIDDLE_RGB, RIGHT_RGB
from carkp.view.bodies import read_body, read_json, read_upload
from carkp.view.guard import LocalOnly
from carkp.view.limits import Limits, ViewError
from carkp.view.models import Answer, ViewedModel, labels, moved_px, result_document
from carkp.view.sources import DEFAULT_ORIENTATION, Shelf, Source, check_frame, open_source

BOXES_ORIGIN = "drawn or imported in carkp view"

PAGES = {
    "": ("index.html", "text/html"),
    "view.css": ("view.css", "text/css"),
    "view.js": ("view.js", "text/javascript"),
}
JPEG_QUALITY = 92
"""Quality of the displayed picture; keypoints are found in the original pixels."""

_NAME_LENGTH = 200
_USER_ERRORS = (DataError, ValueError)
_MODEL_ERRORS = (ModelError, HeatmapError)


def create_app(models: Sequence[ViewedModel], note: str = "", limits: Limits | None = None) -> Starlette:
    """Create the application.

    Args:
        models: one model, or two to compare.
        note: a sentence for the page about a missing model; "": no note.
        limits: limits on requests; None: the defaults.
    """
    if not 1 <= len(models) <= 2:
        raise ValueError(f"expected one model or two, got {len(models)}")
    shelf = Shelf(limits or Limits())
    handlers = _Handlers(models, note, shelf)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        shelf.close()

    routes = [
        *(Route(f"/{path}", partial(_send_page, *page)) for path, page in PAGES.items()),
        Route("/api/state", handlers.state),
        Route("/api/sources", handlers.open, methods=["POST"]),
        Route("/api/sources/{key}", handlers.close, methods=["DELETE"]),
        Route("/api/sources/{key}/picture", handlers.picture),
        Route("/api/sources/{key}/boxes", handlers.boxes, methods=["POST"]),
        Route("/api/predict", handlers.predict, methods=["POST"]),
    ]
    errors: dict[Any, Callable[..., Any]] = {
        ViewError: lambda request, error: _error(str(error), error.status),
        HTTPException: lambda request, error: _error(f"{request.url.path}: {error.detail}.", error.status_code),
        Exception: lambda request, error: _error(
            f"The server failed ({type(error).__name__}): see its terminal for details.", 500
        ),
        **dict.fromkeys(_USER_ERRORS, lambda request, error: _error(str(error), 400)),
        **dict.fromkeys(_MODEL_ERRORS, lambda request, error: _error(str(error), 500)),
    }
    return Starlette(routes=routes, middleware=[Middleware(LocalOnly)], exception_handlers=errors, lifespan=lifespan)


def _error(sentence: str, status: int) -> JSONResponse:
    return JSONResponse({"error": printable(" ".join(sentence.split()))}, status_code=status)


async def _send_page(name: str, media_type: str, request: Request) -> Response:
    text = (files("carkp.view") / "pages" / name).read_text(encoding="utf-8")
    return Response(COLOURS_CSS + text if name.endswith(".css") else text, media_type=media_type)


class _Handlers:
    """Handlers of the routes. Computations run in other threads, so that the page gets answers meanwhile."""

    def __init__(self, models: Sequence[ViewedModel], note: str, shelf: Shelf) -> None:
        self.models, self.note, self.shelf, self.limits = models, note, shelf, shelf.limits

    async def state(self, request: Request) -> Response:
        """Return what the page must know before it has a picture."""
        named = zip(labels(self.models), self.models, strict=True)
        return JSONResponse(
            {
                "version": __version__,
                "models": [
                    {"label": label, "name": printable(model.name), "kind": model.kind} for label, model in named
                ],
                "note": self.note,
                "keypoints": KEYPOINT_NAMES,
                "skeleton": SKELETON,
                "right": sorted(RIGHT),
                "score_thresholds": SCORE_THRESHOLDS,
                "colours": {
                    "right": _css(RIGHT_RGB),
                    "left": _css(LEFT_RGB),
                    "middle": _css(MIDDLE_RGB),
                    "moved": _css(ERROR_RGB),
                },
                "limits": {
                    "picture_mib": self.limits.picture_mib,
                    "video_mib": self.limits.video_mib,
                    "boxes": self.limits.boxes,
                },
            }
        )

    async def open(self, request: Request) -> Response:
        """Handle ``?name=<file name>&orientation=apply|ignore`` with the file as body -> its key and description."""
        name = _file_name(request)
        orientation = request.query_params.get("orientation", DEFAULT_ORIENTATION)
        content = await read_upload(request, name, self.shelf)
        try:
            source = await run_in_threadpool(open_source, name, content, orientation, self.limits)
        except BaseException:
            if isinstance(content, Path):
                content.unlink(missing_ok=True)
            raise
        key = self.shelf.add(source)
        described = {"name": source.name, "orientation": source.orientation, "notes": source.notes, **source.describe()}
        return JSONResponse({"key": key, **described})

    async def close(self, request: Request) -> Response:
        """Remove a picture or video."""
        await run_in_threadpool(self.shelf.remove, request.path_params["key"])
        return JSONResponse({})

    async def picture(self, request: Request) -> Response:
        """Handle ``?frame=<number>`` -> the picture as JPEG."""
        source = self.shelf.find(request.path_params["key"])
        frame = check_frame(request.query_params.get("frame", "0"))
        return Response(await run_in_threadpool(_encoded_frame, source, frame), media_type="image/jpeg")

    async def boxes(self, request: Request) -> Response:
        """Handle ``?name=<file name>&frame=<number>`` with a file of boxes as body -> ``boxes`` (N, 4)."""
        source = self.shelf.find(request.path_params["key"])
        frame = check_frame(request.query_params.get("frame", "0"))
        name = _file_name(request)
        data = await read_body(request, self.limits.text_mib, "The file of boxes")
        return JSONResponse({"boxes": await run_in_threadpool(self._parsed_boxes, name, data, source, frame)})

    def _parsed_boxes(self, name: str, data: bytes, source: Source, frame: int) -> list[list[float]]:
        image = source.image(frame)
        boxes = parse_boxes(name, data).find(source.image_name(frame), image)
        self._check_number(boxes)
        checked: list[list[float]] = np.round(check_boxes(image, boxes), DECIMALS).tolist()
        return checked

    async def predict(self, request: Request) -> Response:
        """Handle ``{"key", "frame", "boxes": [[x, y, width, height]] or null}`` -> the answers of all models."""
        asked = await read_json(request, self.limits)
        source = self.shelf.find(asked.get("key"))
        frame = check_frame(asked.get("frame", 0))
        boxes = asked.get("boxes") or None
        self._check_number(boxes)
        return JSONResponse(await run_in_threadpool(self._predicted, source, frame, boxes))

    def _check_number(self, boxes: object) -> None:
        if isinstance(boxes, list) and len(boxes) > self.limits.boxes:
            raise ViewError(f"There are {len(boxes)} boxes, at most {self.limits.boxes} are allowed.", 413)

    def _predicted(self, source: Source, frame: int, boxes: Any) -> dict[str, Any]:
        image, name = source.image(frame), source.image_name(frame)
        answers = [Answer(model, *model.predict(image, boxes)) for model in self.models]
        moved = moved_px(answers)
        results = [
            {
                "milliseconds": round(answer.milliseconds, 1),
                "document": result_document(
                    answer, name, image, source.orientation, source.notes, BOXES_ORIGIN if boxes else None
                ),
            }
            for answer in answers
        ]
        return {
            "image": name,
            "is_whole": boxes is None,
            "results": results,
            "moved_px": None if moved is None else np.round(moved, DECIMALS).tolist(),
        }


def _encoded_frame(source: Source, frame: int) -> bytes:
    return encode_jpeg(source.image(frame))


def encode_jpeg(image: Image) -> bytes:
    """Encode a picture as JPEG. Raises DataError if a side is too long for JPEG."""
    try:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        is_done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    except cv2.error as error:
        raise DataError(f"the picture cannot be shown: {error.err}") from error
    if not is_done:
        raise DataError("the picture cannot be shown: a side is too long")
    return bytes(encoded)


def _file_name(request: Request) -> str:
    """Return the last part of the file name that the page sends; on some systems that is a path."""
    name = request.query_params.get("name", "").replace("\\", "/").rpartition("/")[2]
    return printable(name.replace("\0", ""))[-_NAME_LENGTH:] or "picture"


def _css(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
