"""Picture files that people have: whole but odd ones are read right, cut ones are refused, and the message says why."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from carkp.data import jpeg, pictures
from carkp.data.headers import count_pages, read_header
from carkp.data.issues import DataError
from carkp.data.pictures import Video, decode_picture, is_video, list_pictures, read_picture

Picture = NDArray[np.uint8]
HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def rgb() -> Picture:
    """Smooth, and different from every turned version of itself."""
    small = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def with_alpha(rgb: Picture) -> Image.Image:
    alpha = np.linspace(0, 255, WIDTH).astype(np.uint8)
    return Image.fromarray(np.dstack([rgb, np.broadcast_to(alpha, rgb.shape[:2])]))


def assert_close(found: Picture, expected: Picture, mean: float) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).mean() <= mean


@pytest.mark.parametrize(
    ("mode", "form", "options", "tolerance"),
    [
        ("RGB", "PNG", {}, 0),
        ("RGB", "JPEG", {"quality": 100, "subsampling": 0, "progressive": True}, 1),
        ("CMYK", "JPEG", {"quality": 100}, 2),
        ("RGB", "BMP", {}, 0),
        ("RGB", "WEBP", {"lossless": True}, 0),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}, 0),
        ("RGB", "TIFF", {"compression": "tiff_deflate"}, 0),
        ("CMYK", "TIFF", {}, 1),
        ("YCbCr", "TIFF", {}, 2),
        ("LAB", "TIFF", {}, 4),
    ],
)
def test_colours_survive_every_format(
    rgb: Picture, mode: str, form: str, options: dict[str, object], tolerance: float
) -> None:
    data = saved(Image.fromarray(rgb).convert(mode), form, **options)
    assert_close(decode_picture(data), rgb, tolerance)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "BMP"])
def test_transparency_is_left_out(rgb: Picture, form: str) -> None:
    data = saved(with_alpha(rgb), form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    assert_close(decode_picture(data), rgb, 0)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("is_grey", [False, True])
def test_sixteen_bits_become_eight(rgb: Picture, suffix: str, is_grey: bool) -> None:
    eight = np.repeat(rgb[..., :1], 3, axis=2) if is_grey else rgb
    sixteen = eight[..., ::-1].astype(np.uint16) * 257
    data = cv2.imencode(suffix, sixteen[..., 0] if is_grey else sixteen)[1].tobytes()
    assert_close(decode_picture(data), eight, 0)


def test_grey_and_palette_become_rgb(rgb: Picture) -> None:
    grey = Image.fromarray(rgb).convert("L")
    expected = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    assert_close(decode_picture(saved(grey, "PNG")), expected, 0)
    assert_close(decode_picture(saved(grey, "JPEG", quality=100)), expected, 1)
    palette = Image.fromarray(rgb).quantize(32)
    for form in ("PNG", "BMP", "TIFF"):
        assert_close(decode_picture(saved(palette, form)), np.asarray(palette.convert("RGB")), 0)
    black_white = Image.fromarray(rgb).convert("1")
    assert_close(decode_picture(saved(black_white, "PNG")), np.asarray(black_white.convert("RGB")), 0)


def test_of_several_pages_the_first_counts(rgb: Picture) -> None:
    image, other = Image.fromarray(rgb), Image.new("RGB", (20, 30))
    assert_close(decode_picture(saved(image, "TIFF", save_all=True, append_images=[other])), rgb, 0)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_pages_are_counted(rgb: Picture, form: str) -> None:
    image = Image.fromarray(rgb)
    assert count_pages(saved(image, form)) == 1
    several = saved(image, form, save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))])
    assert count_pages(several) == 2


def test_the_preview_in_a_raw_file_is_not_taken_for_the_picture(rgb: Picture) -> None:
    preview = saved(Image.fromarray(rgb), "TIFF", tiffinfo={254: 1})
    canon = b"II*\0\x10\0\0\0CR" + saved(Image.fromarray(rgb), "TIFF")[10:]
    for data in (preview, canon):
        with pytest.raises(DataError, match="a camera's raw file"):
            decode_picture(data)


def exif(orientation: int, thumbnail: bytes = b"") -> bytes:
    """An APP1 segment of a JPEG."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    body = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + thumbnail
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def encoded(image: Picture, quality: int = 95) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


TRAILERS = {
    "nothing": b"",
    "zeros": bytes(70_000),
    "a video": b"MotionPhoto_Data" + bytes(range(255)) * 800,
    "another picture": b"\xff\xd8\xff\xe1" + bytes(9000),
}


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_a_jpeg_ends_where_its_markers_say(rgb: Picture, trailer: str, options: dict[str, object]) -> None:
    thumbnail = encoded(rgb[:16, :16])
    whole = saved(Image.fromarray(rgb), "JPEG", quality=95, **options)
    whole = whole[:2] + exif(1, thumbnail) + b"\xff\xff" + whole[2:]  # fill bytes before a marker
    assert not jpeg.is_cut_short(whole + TRAILERS[trailer])
    assert_close(decode_picture(whole + TRAILERS[trailer]), rgb, 4)
    for length in range(2, len(whole)):
        assert jpeg.is_cut_short(whole[:length]), length


def test_a_comment_may_hold_an_end_marker(rgb: Picture) -> None:
    whole = encoded(rgb)
    comment = b"\xff\xfe" + struct.pack(">H", 8) + b"\xff\xd9\xff\xd8\xff\xd9"
    with_comment = whole[:2] + comment + whole[2:]
    assert not jpeg.is_cut_short(with_comment)
    assert jpeg.is_cut_short(with_comment[:-2])
    assert jpeg.is_cut_short(with_comment[:-1])


def test_looking_for_the_end_costs_little_of_decoding() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    data = encoded(np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.2), np.uint8))

    def seconds(work: object) -> float:
        best = np.inf
        for _ in range(5):
            start = time.perf_counter()
            work(data)  # type: ignore[operator]
            best = min(best, time.perf_counter() - start)
        return float(best)

    assert seconds(jpeg.is_cut_short) < 0.2 * seconds(jpeg.decode_bgr)


OTHERS: dict[str, tuple[str, dict[str, object]]] = {
    "png": ("PNG", {}),
    "bmp": ("BMP", {}),
    "webp": ("WEBP", {"lossless": True}),
    "lossy webp": ("WEBP", {"quality": 80}),
    "tiff": ("TIFF", {}),
    "tiff of strips": ("TIFF", {"compression": "tiff_deflate", "strip_size": 1000}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_refused_wherever_they_are_cut(rgb: Picture, name: str) -> None:
    form, options = OTHERS[name]
    data = saved(Image.fromarray(rgb), form, **options)
    assert not jpeg.is_cut_short(data)
    assert not jpeg.is_cut_short(data + b"and more")
    for share in (0.02, 0.1, 0.5, 0.9, 0.99):
        with pytest.raises(DataError, match=r"cut short|cannot be decoded"):
            decode_picture(data[: int(len(data) * share)])


@pytest.mark.parametrize("name", ["png", "bmp", "webp", "tiff"])
def test_the_containers_alone_tell_a_cut(rgb: Picture, name: str) -> None:
    """Whatever the decoder makes of it: versions of OpenCV differ."""
    form, options = OTHERS[name]
    data = saved(Image.fromarray(rgb), form, **options)
    assert all(jpeg.is_cut_short(data[: int(len(data) * share)]) for share in (0.3, 0.5, 0.9))


def test_a_damaged_png_is_refused(rgb: Picture) -> None:
    data = bytearray(saved(Image.fromarray(rgb), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert jpeg.is_cut_short(bytes(data))


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header says that it is huge."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "decode_rgb", lambda data: pytest.fail("was decoded"))
    with pytest.raises(DataError, match="100000x100000 pixels is larger than 268 million: scale it down"):
        decode_picture(bomb(100_000, 100_000) + b"eXIf")


def turned(rgb: Picture, orientation: int) -> Picture:
    """As EXIF defines it: where row 0 and column 0 of the stored pixels are in the upright picture."""
    height, width = rgb.shape[:2]
    upright = np.empty((width, height, 3) if orientation > 4 else rgb.shape, np.uint8)
    for y in range(height):
        for x in range(width):
            right, bottom = width - 1 - x, height - 1 - y
            at = {1: (y, x), 2: (y, right), 3: (bottom, right), 4: (bottom, x)}
            at |= {5: (x, y), 6: (x, bottom), 7: (right, bottom), 8: (right, y)}
            upright[at[orientation]] = rgb[y, x]
    return upright


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF of 16 bits", "TIFF with alpha"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_ignored_or_applied_in_every_format(rgb: Picture, form: str, orientation: int) -> None:
    tag = Image.Exif()
    tag[0x0112] = orientation
    image, expected = Image.fromarray(rgb), rgb
    if form == "TIFF of 16 bits":
        image, expected = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257), np.repeat(rgb[..., :1], 3, axis=2)
    if form == "TIFF with alpha":
        image = with_alpha(rgb)
    options: dict[str, object] = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    data = saved(image, form.split()[0], exif=tag, **(options | ({"lossless": True} if form == "WEBP" else {})))
    header = read_header(data)
    assert header is not None
    assert header.orientation == orientation
    assert_close(decode_picture(data), expected, 1)
    assert_close(decode_picture(data, "ignore"), expected, 1)
    assert_close(decode_picture(data, "apply"), turned(expected, orientation), 1)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_impossible_orientation_is_none(rgb: Picture, value: int) -> None:
    whole = encoded(rgb)
    data = whole[:2] + exif(value) + whole[2:]
    assert_close(decode_picture(data, "apply"), decode_picture(whole), 0)
    broken = whole[:2] + b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff" + whole[2:]
    assert_close(decode_picture(broken, "apply"), decode_picture(whole), 0)


def test_another_word_for_the_orientation_is_refused(rgb: Picture) -> None:
    with pytest.raises(DataError, match="orientation=auto: expected one of ignore, apply"):
        decode_picture(encoded(rgb), "auto")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "HEIC or AVIF picture, which is not supported: convert it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"%PDF-1.7", "a PDF document"),
        (b"hello", "not a JPEG, PNG or other picture"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_picture(data)


def test_content_decides_and_not_the_suffix(rgb: Picture, tmp_path: Path) -> None:
    (tmp_path / "png.jpg").write_bytes(saved(Image.fromarray(rgb), "PNG"))
    (tmp_path / "jpeg.mp4").write_bytes(encoded(rgb))
    (tmp_path / "clip.jpg").write_bytes(b"\0\0\0\x1cftypisom")
    (tmp_path / "text.mkv").write_bytes(b"no video")
    assert_close(read_picture(tmp_path / "png.jpg"), rgb, 0)
    names = ("png.jpg", "jpeg.mp4", "clip.jpg", "text.mkv", "none.avi")
    assert [is_video(tmp_path / name) for name in names] == [False, False, True, True, True]


def test_a_folder_lists_what_people_call_pictures(tmp_path: Path) -> None:
    shown = ["IMG_1.JPG", "a b#1.jpeg", "c.jfif", "d.HEIC", "e.WebP", "f.mov", "gone.png"]
    for name in (*shown[:-1], ".hidden.jpg", "._a.jpg", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [path.name for path in list_pictures(tmp_path)] == shown
    with pytest.raises(DataError, match="image cannot be read: No such file"):
        read_picture(tmp_path / "gone.png")


def test_a_name_that_is_no_utf8_is_listed_and_read(rgb: Picture, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    try:
        path.write_bytes(encoded(rgb))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert list_pictures(tmp_path) == [path]
    assert read_picture(path).shape == rgb.shape


def test_pixels_of_ordinary_pictures_are_those_of_opencv(rgb: Picture) -> None:
    """What training decodes, inference decodes."""
    for data in (encoded(rgb, 90), saved(Image.fromarray(rgb), "PNG")):
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        np.testing.assert_array_equal(decode_picture(data), expected[..., ::-1])


def test_all_is_there_that_pictures_promises() -> None:
    assert all(hasattr(pictures, name) for name in pictures.__all__)


def test_a_drawn_line_stays_where_it_is_when_turned_back() -> None:
    """Boxes of a stored TIFF mean the stored pixels, as those of a JPEG do."""
    image = Image.new("RGB", (40, 20))
    ImageDraw.Draw(image).line((3, 0, 3, 19), (255, 0, 0))
    tag = Image.Exif()
    tag[0x0112] = 6
    decoded = decode_picture(saved(image, "TIFF", exif=tag))
    assert decoded[:, 3, 0].min() == 255
    assert decoded.shape == (20, 40, 3)


def test_a_pipe_is_no_picture_and_no_video(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DataError, match="a pipe or a device"):
        read_picture(tmp_path / "pipe.mp4")
    with pytest.raises(DataError, match="a pipe or a device"):
        Video(tmp_path / "pipe.mp4")
