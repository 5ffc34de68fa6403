"""Videos that people have: cut short, turned, of odd rates, sizes and names; and what is written of them."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from carkp.data import containers
from carkp.data.issues import DataError
from carkp.data.video import DEFAULT_FPS, MAX_FPS, Video, VideoWriter, writable_fps

Picture = NDArray[np.uint8]


def noise(height: int, width: int, index: int = 0) -> Picture:
    small = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def clip(path: Path, num_frames: int = 20, size: tuple[int, int] = (96, 160), codec: str = "mp4v") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10.0, size[::-1])
    assert writer.isOpened()
    for index in range(num_frames):
        writer.write(noise(*size, index))
    writer.release()
    return path


def frames_of(path: Path, orientation: str = "ignore") -> list[Picture]:
    with Video(path, orientation) as video:
        return list(video)


CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v", ".webm": "VP80"}


@pytest.mark.parametrize("suffix", CODECS)
def test_whole_videos_are_not_cut_short(tmp_path: Path, suffix: str) -> None:
    path = clip(tmp_path / f"clip{suffix}", codec=CODECS[suffix])
    assert not containers.is_video_cut_short(path)
    path.write_bytes(path.read_bytes() + b"trailer" * 100)
    with Video(path) as video:
        assert not video.is_cut_short
        assert len(list(video)) == video.num_read == video.num_frames == 20
        assert video.fps == video.stated_fps == 10


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".webm"])
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_a_cut_video_gives_its_frames_and_says_so(tmp_path: Path, suffix: str, share: float) -> None:
    path = clip(tmp_path / f"clip{suffix}", codec=CODECS[suffix])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with Video(path) as video:
        assert video.is_cut_short
        assert 0 < len(list(video)) <= 20
        assert video.num_read < video.num_frames or share > 0.9


def with_index_first(data: bytes) -> bytes:
    """An MP4 of one track as it is put on the web: moov before mdat, the chunks' places moved accordingly."""
    boxes, position = {}, 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        boxes[data[position + 4 : position + 8]] = data[position : position + size]
        position += size
    moov = bytearray(boxes[b"moov"])
    at = moov.find(b"stco") + 8
    for index in range(int.from_bytes(moov[at : at + 4], "big")):
        place = slice(at + 4 + 4 * index, at + 8 + 4 * index)
        moov[place] = (int.from_bytes(moov[place], "big") + len(moov)).to_bytes(4, "big")
    rest = b"".join(box for kind, box in boxes.items() if kind not in (b"ftyp", b"moov"))
    return boxes[b"ftyp"] + bytes(moov) + rest


def test_a_cut_mp4_with_its_index_first(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4", num_frames=60)
    data = with_index_first(path.read_bytes())
    path.write_bytes(data)
    assert len(frames_of(path)) == 60
    path.write_bytes(data[: len(data) * 6 // 10])
    with Video(path) as video:
        assert video.is_cut_short
        assert 0 < len(list(video)) < 60


def test_a_cut_mp4_with_its_index_last_is_refused(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="or its index at the end is missing"):
        Video(path)


def turned_mp4(path: Path, quarter: int) -> Path:
    """The track's matrix says that a viewer turns it clockwise by ``quarter`` quarters."""
    data = bytearray(clip(path).read_bytes())
    at = data.find(b"tkhd") + 44
    one = 0x10000
    a, b = {0: (one, 0), 1: (0, one), 2: (-one, 0), 3: (0, -one)}[quarter]
    numbers = (a, b, 0, -b, a, 0, 96 << 16 if quarter else 0, 0, 0x40000000)
    data[at : at + 36] = b"".join((number & 0xFFFFFFFF).to_bytes(4, "big") for number in numbers)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_rotation_follows_the_rule_of_pictures(tmp_path: Path, quarter: int) -> None:
    plain = frames_of(clip(tmp_path / "plain.mp4"))
    path = turned_mp4(tmp_path / "turned.mp4", quarter)
    with Video(path) as video:
        assert video.is_turned == (quarter != 0)
        np.testing.assert_array_equal(list(video), plain)
    upright = np.stack([np.rot90(frame, -quarter) for frame in plain])
    assert np.abs(np.stack(frames_of(path, "apply")).astype(int) - upright).max() <= 2
    with pytest.raises(DataError, match="expected one of ignore, apply"):
        Video(path, "auto")


NAMES = ("12:30.mp4", "http:a.mp4", "c%02d.mp4", "100%.mp4", "a#1.mp4", "what?.mp4", "a b.mp4", "ä.mp4", "-i.mp4")


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"caf\xe9.mp4")])
def test_names_mean_files_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data = clip(tmp_path / "clip.mp4").read_bytes()
    try:
        (tmp_path / name).write_bytes(data)
    except OSError:
        pytest.skip("this file system takes no such name")
    monkeypatch.chdir(tmp_path)
    assert len(frames_of(Path(name))) == 20
    (tmp_path / name).unlink()
    with VideoWriter(Path(name), 10.0) as writer:
        writer.add(noise(96, 160))
    assert len(frames_of(Path(name))) == 1
    assert sorted(os.listdir()) == sorted(["clip.mp4", name])  # noqa: PTH208


def test_a_folder_that_is_no_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such name")
    with VideoWriter(folder / "a.mp4", 10.0) as writer:
        writer.add(noise(96, 160))
    assert len(frames_of(folder / "a.mp4")) == 1


@pytest.mark.parametrize(
    ("fps", "written"),
    [(10, 10), (29.97, 29.97), (23.976, 23.976), (211.222, 211.22), (12345.678, 12346), (65535, 65535), (0.001, 0.01)]
    + [(fps, DEFAULT_FPS) for fps in (90_000, float("nan"), float("inf"), 0, -1)],
)
def test_every_rate_is_written_as_near_as_can_be(tmp_path: Path, fps: float, written: float) -> None:
    assert writable_fps(fps) == pytest.approx(written)
    assert round(writable_fps(fps) * 1000) / 1000 <= MAX_FPS
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps) as writer:
        for index in range(3):
            writer.add(noise(48, 64, index))
    with Video(path) as video:
        assert video.fps == pytest.approx(written, rel=0.001)
        assert len(list(video)) == 3


@pytest.mark.parametrize("size", [(1, 1), (97, 161), (33, 17), (96, 161)])
def test_odd_sizes_grow_by_a_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10.0) as writer:
        writer.add(noise(*size))
    (frame,) = frames_of(tmp_path / "a.mp4")
    assert frame.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    written = frame[: size[0], : size[1]].astype(int)
    assert np.abs(written - noise(*size)).mean() < 20


def test_frames_that_change_their_size_are_not_lost(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10.0) as writer:
        for size in ((96, 160), (160, 96), (96, 160)):
            writer.add(noise(*size))
    assert [frame.shape for frame in frames_of(tmp_path / "a.mp4")] == [(96, 160, 3)] * 3


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with (
        pytest.raises(OSError, match="cannot write a video of 9000x20 pixels, 10 frames"),
        VideoWriter(path, 10.0) as writer,
    ):
        writer.add(noise(20, 9000))
    writer_of_nothing = VideoWriter(path, 10.0)
    writer_of_nothing.add(noise(96, 160))
    writer_of_nothing._num_added += 5  # as if frames had got lost on a full disk
    with pytest.raises(OSError, match="1 of 6 frames were written; is the disk full"):
        writer_of_nothing.__exit__(None, None, None)
    interrupted = VideoWriter(path, 10.0)
    interrupted.add(noise(96, 160))
    interrupted.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"no video", b"RIFF", b"\x1aE\xdf\xa3", b"\0\0\0\x18ftyp", bytes(5000)):
        (tmp_path / "a.mp4").write_bytes(data)
        with pytest.raises(DataError, match=r"video cannot be (read|decoded)"):
            Video(tmp_path / "a.mp4")
    with pytest.raises(DataError, match="video cannot be read: No such file"):
        Video(tmp_path / "none.mp4")
