"""Reading of request bodies, only up to their limits."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request

from carkp.data.pictures import starts_video
from carkp.view.limits import MIB, Limits, ViewError
from carkp.view.sources import Shelf

_START_BYTES = 16


async def read_body(request: Request, limit_mib: float, what: str) -> bytes:
    """Read a body.

    Raises ViewError with status 413 if it is longer than ``limit_mib``; ``what`` names it in the message.
    """
    _check_stated_length(request, limit_mib, what)
    return b"".join([chunk async for chunk in _limited(request.stream(), limit_mib, what)])


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """Read a JSON object. Raises ViewError if it is not one, or too long."""
    data = await read_body(request, limits.text_mib, "The request")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ViewError(f"The request is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ViewError("The request must be a JSON object.")
    return content


async def read_upload(request: Request, name: str, shelf: Shelf) -> bytes | Path:
    """Return a picture's bytes, or the path of a video in a file of ``shelf``, which the caller must remove.

    Raises:
        ViewError: it is empty, or too long for its kind.
    """
    limits, suffix = shelf.limits, Path(name).suffix
    _check_stated_length(request, max(limits.picture_mib, limits.video_mib), "The file")
    chunks = request.stream()
    start = b""
    async for chunk in chunks:
        start += chunk
        if len(start) >= _START_BYTES:
            break
    if not start:
        raise ViewError("The file is empty.")
    if starts_video(start[:_START_BYTES], suffix):
        return await _keep_video(request, chunks, start, suffix, shelf)
    _check_stated_length(request, limits.picture_mib, "The picture")
    return start + b"".join([chunk async for chunk in _limited(chunks, limits.picture_mib, "The picture", len(start))])


async def _keep_video(request: Request, chunks: AsyncIterator[bytes], start: bytes, suffix: str, shelf: Shelf) -> Path:
    limit = shelf.limits.video_mib
    _check_stated_length(request, limit, "The video")
    path = shelf.new_file(suffix if suffix.isascii() else "")
    try:
        with path.open("wb") as file:
            file.write(start)
            async for chunk in _limited(chunks, limit, "The video", len(start)):
                await asyncio.to_thread(file.write, chunk)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ViewError(f"The video cannot be stored temporarily: {error.strerror}.", 507) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


async def _limited(
    chunks: AsyncIterator[bytes], limit_mib: float, what: str, num_read: int = 0
) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            num_read += len(chunk)
            if num_read > limit_mib * MIB:
                raise _too_large(limit_mib, what)
            yield chunk
    except ClientDisconnect as error:
        raise ViewError("The upload was interrupted.", 499) from error


def _check_stated_length(request: Request, limit_mib: float, what: str) -> None:
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit_mib * MIB:
        raise _too_large(limit_mib, what)


def _too_large(limit_mib: float, what: str) -> ViewError:
    return ViewError(f"{what} is larger than {limit_mib:g} MiB, the upper limit.", 413)
