import base64
import io
import struct
import zlib
from typing import Literal

import cv2
import numpy as np
import PIL.Image
import pytest

from carkp.data.issues import DataError
from carkp.predictor import Predictor
from carkp.serving.request import RequestError, Settings, answer, check_request, picture_bytes
from tests.tiny_models import TinyModels

DATA = bytes(range(256)) + b"\xfb\xef\xff"  # holds + and / in base64
TEXT = base64.b64encode(DATA).decode()
URL_SAFE = base64.urlsafe_b64encode(DATA).decode()


def test_base64_in_every_spelling_is_read() -> None:
    assert "+" in TEXT
    assert "-" in URL_SAFE
    spellings = [
        TEXT,
        URL_SAFE,
        TEXT.rstrip("="),
        URL_SAFE.rstrip("="),
        base64.encodebytes(DATA).decode(),
        TEXT.replace("A", "A\r\n"),
        f"  {TEXT}\n",
        f"data:image/jpeg;base64,{TEXT}",
        f"data:;base64,{URL_SAFE}",
        f"DATA:image/png;charset=utf-8;BASE64, {TEXT}",
        f"data:image/jpeg;base64,{TEXT.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
    ]
    for text in spellings:
        assert picture_bytes(text) == DATA, text[:40]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("", "expected a picture file in base64"),
        ("   ", "expected a picture file in base64"),
        (None, "expected a picture file in base64, got None"),
        (3.5, "expected a picture file in base64"),
        ([255, 216], "expected a picture file in base64"),
        ({"b64": TEXT}, "expected a picture file in base64"),
        ("abcde", "not base64"),
        ("ab$c", "not base64"),
        ("YQ==YQ==", "not base64"),
        ("ab+/_-==", "not base64"),
        (TEXT.replace("+", " "), "it contains a space"),
        (str(base64.b64encode(DATA)), "printed Python bytes"),
        ("https://example.org/car.jpg", "an address or a path"),
        ("s3://bucket/car", "an address or a path"),
        ("C:\\\\cars\\\\car.PNG", "an address or a path"),
        ("data:image/svg+xml,%3Csvg/%3E", "a data: URL must be in base64"),
    ],
)
def test_other_texts_are_refused_with_a_reason(image: object, message: str) -> None:
    with pytest.raises(RequestError, match=message) as failed:
        picture_bytes(image)
    assert len(str(failed.value)) < 300


def png_that_claims(width: int, height: int) -> str:
    """A small PNG file whose head says that it is large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


@pytest.mark.parametrize("extent", [7000, 9500, 14_000, 60_000])
def test_a_picture_is_judged_before_it_is_decoded(
    extent: int, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(RequestError, match=r"pixels.* at most 40,000,000.*scale it down"):
        answer(Predictor.load(tiny_models.float_onnx), png_that_claims(extent, extent), None)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_every_kind_of_picture_is_answered(suffix: str, tiny_models: TinyModels) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    text = base64.b64encode(cv2.imencode(suffix, image)[1].tobytes()).decode()
    found = answer(Predictor.load(tiny_models.float_onnx), text, [[1, 2, 30, 30]], Settings(max_pixels=2000))
    assert (found["width"], found["height"], len(found["cars"])) == (50, 40, 1)
    with pytest.raises(RequestError, match="has 50x40 = 2,000 pixels"):
        answer(Predictor.load(tiny_models.float_onnx), text, None, Settings(max_pixels=1999))


@pytest.mark.parametrize(("orientation", "size"), [("ignore", (50, 40)), ("apply", (40, 50))])
def test_a_turned_photograph_is_read_as_the_settings_say(
    orientation: Literal["ignore", "apply"], size: tuple[int, int], tiny_models: TinyModels
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(file, "JPEG", exif=exif)
    text = base64.b64encode(file.getvalue()).decode()
    found = answer(Predictor.load(tiny_models.float_onnx), text, None, Settings(orientation=orientation))
    assert (found["width"], found["height"]) == size
    assert found["cars"][0]["box"] == [0, 0, *size]


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"%PDF-1.4 ", b"GIF89a"])
def test_other_files_are_refused(data: bytes, tiny_models: TinyModels) -> None:
    with pytest.raises(DataError, match=r"image (cannot be decoded|file is cut short)"):
        answer(Predictor.load(tiny_models.float_onnx), base64.b64encode(data).decode(), None)


def test_a_request_is_counted_as_a_whole() -> None:
    settings = Settings(max_boxes=5)
    box = [1, 2, 3, 4]
    check_request([{"image": "a", "boxes": [box] * 3}, {"image": "a"}, {"image": "a", "boxes": None}], settings)
    check_request([{"image": "a", "boxes": np.array([box] * 5)}, {"image": "a", "boxes": []}], settings)
    for boxes in ([box] * 5, np.array([box] * 5), np.array([np.array(box)] * 5, object), [[1], 2, "3", None, 5]):
        with pytest.raises(RequestError, match="asks for 6 boxes, at most 5"):
            check_request([{"image": "a", "boxes": boxes}, {"image": "a", "boxes": float("nan")}], settings)
    with pytest.raises(RequestError, match="contains no picture"):
        check_request([], settings)
