"""How much a request may ask for, and the error of one that cannot be answered."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Of what one request brings.

    Attributes:
        picture_mib: of a picture's file.
        video_mib: of a video's file.
        text_mib: of a file of boxes, and of a request to predict.
        pixels: of a picture or a frame.
        boxes: of one picture.
        sources: pictures and videos that are held at a time; the one that came first is given up.
    """

    picture_mib: float = 64.0
    video_mib: float = 1024.0
    text_mib: float = 4.0
    pixels: int = 40_000_000
    boxes: int = 256
    sources: int = 3


class ViewError(Exception):
    """A request that cannot be answered: one sentence for the page, and the status of HTTP."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status
