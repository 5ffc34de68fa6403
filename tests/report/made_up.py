"""A report's content out of made-up numbers, every part of it there."""

from dataclasses import replace

import numpy as np

from carkp.report import accuracy_data as data
from carkp.report.cars import encode_jpeg
from tests.keypoints.test_breakdown import spread

NUM_CARS, NUM_CAMERAS = 40, 12


def predictions(noise_px: float, seed: int = 0, num_cameras: int = NUM_CAMERAS):
    """Cars 100 px long whose keypoints are off by ``noise_px`` on average; some are cut, some of unknown truncation."""
    exact = spread(NUM_CARS)
    rng = np.random.default_rng(seed)
    return replace(
        exact,
        sample_ids=np.array([f"test/scene/{1 + car % num_cameras}_{1 + car:05d}_0" for car in range(NUM_CARS)]),
        points=(exact.targets + rng.normal(0, noise_px, exact.targets.shape)).astype(np.float32),
        validity=(1 + np.arange(NUM_CARS * 12).reshape(NUM_CARS, 12) % 2).astype(np.uint8),
        crop_size=np.stack([np.arange(NUM_CARS) * 12 + 40] * 2, axis=1).astype(np.int32),
        truncated=(np.arange(NUM_CARS) % 3 - 1).astype(np.int8),
    )


def rows_of(int8_noise_px: float, num_cameras: int) -> list[data.ModelRow]:
    found = [predictions(noise, num_cameras=num_cameras) for noise in (6, 6.2, int8_noise_px)]
    return [
        data.ModelRow(data.FLOAT, "runs:/a1", found[0], 16_000_000, data.Latency(6.7, "measured on a <CPU>")),
        data.ModelRow(data.CALIBRATED, "runs:/b2", found[1]),
        data.ModelRow(data.SIMULATED, "runs:/c3", found[2], 4_200_000),
        data.ModelRow(data.ONNXRUNTIME, "runs:/c3", found[2], 4_200_000, data.Latency(2.8, "measured")),
    ]


def family(
    name: str = "made-up",
    target: str = "bpu",
    int8_noise_px: float = 6.5,
    num_cameras: int = NUM_CAMERAS,
    **changes,
) -> data.Family:
    rows = rows_of(int8_noise_px, num_cameras)
    card = data.DataCard(
        "d" * 64,
        "raw",
        [data.SceneRow(split, f"scene_{split}", 10, 40, 200, 250, 30) for split in ("train", "test")],
        ["Left out: 2 × no picture."],
        encode_jpeg(np.full((60, 1200, 3), 90, np.uint8)),
    )
    runs = [
        data.RunCard(
            "float", f"a1{name}", "float", {"commit": "abc"}, {"torch": "2"}, "mlflow run . -e float", {"seed": "0"}
        ),
        data.RunCard("align", f"c3{name}", "align", {"commit": "abd+"}, {"torch": "2"}, "", {"seed": "1"}),
    ]
    crop = encode_jpeg(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8))
    crops = {data.crop_key(str(sample)): crop for sample in rows[0].predictions.sample_ids[:-1]}
    made = data.Family(
        name,
        target,
        rows,
        missing={"qat": "QAT not run: `mlflow run . -e qat -P target=bpu`."},
        noise=[data.LayerNoise(f"layer/{i}", "conv", 40.0 - i, 38.0, 300.0 if i == 0 else 30.0 - i) for i in range(6)],
        sweep=data.Sweep({99.0: 0.9, 99.9: 0.95, 100.0: 0.96}, 0.961, 99.9),
        data=card,
        runs=runs,
        crops=crops,
        config_yaml="seed: 0\n",
        remarks=["Everything is made up."],
    )
    return replace(made, **changes)


def content(*families: data.Family) -> data.ReportContent:
    return data.ReportContent(
        "Accuracy report: <made-up>",
        families or (family(),),
        "test",
        0.1,
        "mlflow run . -e report",
        "Report made today",
    )
