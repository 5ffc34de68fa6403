"""Limits on requests, and the error for a request that cannot be answered."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits on one request.

    Attributes:
        picture_mib: size of a picture's file.
        video_mib: size of a video's file.
        text_mib: size of a file of boxes, and of a request to predict.
        pixels: pixels of a picture or a frame.
        boxes: number of boxes of one picture.
        sources: number of pictures and videos held at a time; if there are more, the oldest is removed.
    """

    picture_mib: float = 64.0
    video_mib: float = 1024.0
    text_mib: float = 4.0
    pixels: int = 40_000_000
    boxes: int = 256
    sources: int = 3


class ViewError(Exception):
    """A request that cannot be answered: one sentence for the page, and the HTTP status."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status
