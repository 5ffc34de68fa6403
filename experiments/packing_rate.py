"""Does the data stage cost more than the JPEG work that nobody can avoid?

Command:  python experiments/packing_rate.py       (a minute on two cores; `--frames 500` for quieter numbers)
Asks:     frames a second of two jobs with the same number of workers, in interleaved rounds. Packing: from raw
          1920x1080 frames to crops to three stores. JPEG alone: decoding each frame and encoding its crops, without
          reading labels or writing anything. The frames are generated, with four cars each.
Expect:   packing / JPEG alone >= 0.8. Machines are noisy: read the ratio.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from carkp.data import jpeg
from carkp.data.carfusion import FrameFiles, list_frames, read_frame
from carkp.data.issues import Issues
from carkp.data.parallel import map_ordered, resolve_num_workers
from carkp.data.prepare import prepare
from carkp.data.rectangles import CropRectangle, crop_rectangle
from carkp.measurements.record import Goal, Measurement

# Other modules are imported in main(): worker processes import this module, too, for jpeg_alone.

STUDY = "packing_rate"
FRAME_SIZE = (1080, 1920)
CAR_BOXES = ((200, 500, 170, 90), (600, 520, 220, 120), (1000, 480, 150, 80), (1400, 600, 300, 160))
SCENES = (("train", "car_a"), ("train", "car_v"), ("test", "car_t"))
QUANTITIES = {
    "packing_to_jpeg_alone": "packing rate / JPEG decoding and encoding alone",
    "packing_frames_per_s": "frames packed in a second",
    "jpeg_alone_frames_per_s": "frames whose JPEG is decoded and encoded in a second",
}
GOALS = {"packing_to_jpeg_alone": Goal(at_least=0.8)}

Job = tuple[FrameFiles, list[CropRectangle]]


def make_raw_frames(root: Path, num_frames: int) -> None:
    """Make frames of usual JPEG complexity with fully labelled cars."""
    rng = np.random.default_rng(0)
    for number in tqdm(range(num_frames), "make frames"):
        split, scene = SCENES[number % len(SCENES)]
        directory, name = root / split / scene, f"1_{number:05d}"
        for part in ("images_jpg", "gt", "bb"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (68, 120, 3), dtype=np.uint8)
        image = cv2.resize(coarse, FRAME_SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        image = cv2.add(image, rng.integers(-5, 6, (*FRAME_SIZE, 3), dtype=np.int8), dtype=cv2.CV_8U)
        cv2.imwrite(str(directory / "images_jpg" / f"{name}.jpg"), image)
        (directory / "bb" / f"{name}.txt").write_text("".join(f"[{x} {y} {w} {h}],car\n" for x, y, w, h in CAR_BOXES))
        (directory / "gt" / f"{name}.txt").write_text(keypoint_lines())


def keypoint_lines() -> str:
    return "".join(
        f"{x + w * keypoint // 14},{y + h * keypoint // 14},{keypoint},{car},1\n"
        for car, (x, y, w, h) in enumerate(CAR_BOXES)
        for keypoint in (*range(1, 9), *range(10, 14))
    )


def jpeg_alone(job: Job, jpeg_quality: int) -> int:
    """Decode a frame and encode its crops; return the number of encoded bytes."""
    files, rectangles = job
    image = jpeg.decode_bgr(files.image.read_bytes())
    assert image is not None
    return sum(len(jpeg.encode_bgr(image[y1:y2, x1:x2], jpeg_quality)) for x1, y1, x2, y2 in rectangles)


def list_jobs(raw: Path) -> list[Job]:
    """Return the frames with the crops that packing cuts, computed in advance."""
    issues = Issues()
    frames = list_frames(raw, issues)
    boxes = [[car.box for car in read_frame(files, issues).instances] for files in frames]
    return [
        (files, [crop_rectangle(box, FRAME_SIZE) for box in of_frame])
        for files, of_frame in zip(frames, boxes, strict=True)
    ]


def timed_packing(raw: Path, out_dir: Path, num_workers: int, jpeg_quality: int) -> float:
    """Return the seconds of packing."""
    shutil.rmtree(out_dir, ignore_errors=True)
    start = time.perf_counter()
    prepare(raw, out_dir, ("car_v",), num_workers, jpeg_quality, show_progress=False)
    return time.perf_counter() - start


def timed_jpeg_alone(jobs: list[Job], num_workers: int, jpeg_quality: int) -> float:
    """Return the seconds of the JPEG work alone."""
    start = time.perf_counter()
    sum(map_ordered(partial(jpeg_alone, jpeg_quality=jpeg_quality), jobs, num_workers))
    return time.perf_counter() - start


def measure(num_frames: int, num_rounds: int, num_workers: int, jpeg_quality: int) -> dict[str, float]:
    """Return median rates in frames per second, and the median of the rounds' ratios."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        make_raw_frames(raw, num_frames)
        jobs = list_jobs(raw)
        seconds = [
            (
                timed_packing(raw, Path(folder) / "out", num_workers, jpeg_quality),
                timed_jpeg_alone(jobs, num_workers, jpeg_quality),
            )
            for _ in tqdm(range(num_rounds), "rounds")
        ]
    packing, alone = np.array(seconds).T
    return {
        "packing_frames_per_s": float(num_frames / np.median(packing)),
        "jpeg_alone_frames_per_s": float(num_frames / np.median(alone)),
        "packing_to_jpeg_alone": float(np.median(alone / packing)),
    }


def measurements(found: Mapping[str, float]) -> list[Measurement]:
    """Return the measurements for ``--record``."""
    return [
        Measurement(name=name, quantity=quantity, value=found[name], goal=GOALS.get(name))
        for name, quantity in QUANTITIES.items()
    ]


def main() -> int:
    from rich.console import Console
    from rich.table import Table

    from carkp.tracking.tracker import Tracker
    from carkp.workflow.cli import Parameter, execute
    from carkp.workflow.recording import Findings, parse_study, write_record

    parameters = [
        Parameter("frames", "120", "raw frames to make"),
        Parameter("rounds", "5", "interleaved rounds"),
        Parameter("workers", "0", "processes; 0: one a core"),
    ]
    arguments = parse_study(STUDY, str(__doc__), parameters)
    config = arguments.config
    num_frames, num_rounds, num_workers = (int(arguments.values[name]) for name in ("frames", "rounds", "workers"))

    def work(tracker: Tracker, out_dir: Path) -> None:
        found = measure(num_frames, num_rounds, resolve_num_workers(num_workers), config.data.jpeg_quality)
        tracker.log_metrics(found)
        table = Table("quantity", "value", "wanted", title="Packing rate")
        for name, value in found.items():
            table.add_row(name, f"{value:.2f}", str(GOALS.get(name, "")))
        Console().print(table)
        write_record(arguments, STUDY, Findings(measurements(found)))

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    from carkp.workflow.cli import guarded

    sys.exit(guarded(main))
