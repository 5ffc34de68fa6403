"""Is the test split hard enough to mean something?

Command:  python experiments/data_difficulty.py            (after `mlflow run . -e data`; about a minute)
Asks:     the share of occluded labelled keypoints, of truncated cars and of each heading octant in the test split, and
          the PCK of two predictors that do not look for keypoints: the mean training position, and the labels of the
          training crop that is nearest in pixels.
Expect:   occluded >= 0.25, truncated >= 0.10, each octant >= 0.06, mean position <= 0.20, nearest crop <= 0.45 on the
          generated cars; a data set beyond these limits is too easy. Headings need the generator's truth.jsonl, so
          real data have none.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.data.dataset import CropDataset
from carkp.keypoints import metrics
from carkp.keypoints.schema import OCCLUDED
from carkp.measurements.record import Goal, Measurement
from carkp.tracking.tracker import Tracker
from carkp.workflow.build import build_eval_dataset
from carkp.workflow.cli import DATA, execute, guarded
from carkp.workflow.preparation import PreparedData, require_samples
from carkp.workflow.recording import Findings, parse_study, write_record
from carkp.workflow.references import require_data

STUDY = "data_difficulty"
QUANTITIES = {
    "occluded": ("occluded share of the labelled keypoints", Goal(at_least=0.25)),
    "truncated": ("cars cut by the frame", Goal(at_least=0.10)),
    "smallest_octant": ("rarest of eight headings", Goal(at_least=0.06)),
    "mean_position_pck": ("PCK of the mean training position", Goal(at_most=0.20)),
    "nearest_crop_pck": ("PCK of the nearest training crop", Goal(at_most=0.45)),
}
"""Name -> description and goal."""

NUM_OCTANTS = 8
CHUNK = 500


class Split:
    """All samples of a split with validation transforms: images (N, 3 H W), points (N, K, 2), validity (N, K)."""

    def __init__(self, dataset: CropDataset, name: str) -> None:
        samples = [dataset[index] for index in tqdm(range(len(dataset)), f"read {name}")]
        self.images = np.stack([sample["image"].numpy().reshape(-1) for sample in samples])
        self.points = np.stack([sample["points"].numpy() for sample in samples]).astype(np.float64)
        self.validity = np.stack([sample["validity"].numpy() for sample in samples])
        self.truncated = np.array([int(sample["truncated"]) for sample in samples])

    def pck(self, predicted: NDArray[np.float64], alpha: float) -> float:
        lengths = metrics.labelled_extent(self.points, self.validity)
        is_scored = (self.validity > 0) & (lengths > 0)[:, None]
        return metrics.pck(metrics.distances(predicted, self.points), lengths, is_scored, alpha)


def mean_positions(train: Split) -> NDArray[np.float64]:
    """Return the mean position (K, 2) of each keypoint over its labels."""
    is_labelled = (train.validity > 0)[..., None]
    means: NDArray[np.float64] = (train.points * is_labelled).sum(axis=0) / is_labelled.sum(axis=0)
    return means


def nearest_crops(test: Split, train: Split) -> NDArray[np.int64]:
    """Return the index of the training image with the smallest Euclidean distance to each test image."""
    queries = test.images.astype(np.float32) - 128
    best, index = np.full(len(queries), np.inf, np.float32), np.zeros(len(queries), np.int64)
    for start in tqdm(range(0, len(train.images), CHUNK), "search nearest"):
        keys = train.images[start : start + CHUNK].astype(np.float32) - 128
        squared = (keys**2).sum(axis=1)[None, :] - 2 * queries @ keys.T
        nearest = squared.argmin(axis=1)
        value = squared[np.arange(len(queries)), nearest]
        is_better = value < best
        best[is_better], index[is_better] = value[is_better], nearest[is_better] + start
    return index


def copied_points(test: Split, train: Split) -> NDArray[np.float64]:
    """Return the labels of the nearest training crop; a keypoint that it lacks gets its mean position."""
    chosen = nearest_crops(test, train)
    is_labelled = (train.validity[chosen] > 0)[..., None]
    return np.where(is_labelled, train.points[chosen], mean_positions(train)[None])


def octant_shares(raw: Path, sample_ids: list[str]) -> list[float]:
    """Return the share of each heading octant among the samples; empty if the source has no truth.jsonl."""
    octants = {}
    for path in sorted(raw.glob("*/*/truth.jsonl")):
        split, scene = path.parts[-3:-1]
        for line in path.read_text().splitlines():
            car = json.loads(line)
            octants[f"{split}/{scene}/{car['frame']}_{car['instance']}"] = car["octant"]
    counts = Counter(octants[sample_id] for sample_id in sample_ids if sample_id in octants)
    total = counts.total()
    return [counts[octant] / total for octant in range(NUM_OCTANTS)] if total else []


def run(config: ExperimentConfig, data: PreparedData, tracker: Tracker) -> dict[str, float]:
    stores = data.open()
    require_samples(stores.train, "the comparison")
    require_samples(stores.test, "the comparison")
    test = Split(build_eval_dataset(config, stores.test), "test")
    train = Split(build_eval_dataset(config, stores.train), "train")
    is_known = test.truncated >= 0
    found = {
        "occluded": float((test.validity == OCCLUDED).sum() / (test.validity > 0).sum()),
        "truncated": float(test.truncated[is_known].mean()) if is_known.any() else float("nan"),
        "mean_position_pck": test.pck(np.broadcast_to(mean_positions(train), test.points.shape), config.eval.alpha),
        "nearest_crop_pck": test.pck(copied_points(test, train), config.eval.alpha),
    }
    shares = octant_shares(data.directory / "raw", [stores.test.sample_id(i) for i in range(len(stores.test))])
    if shares:
        found["smallest_octant"] = min(shares)
        tracker.log_metrics({f"octant/{octant}": share for octant, share in enumerate(shares)})
    tracker.log_metrics(found)
    tracker.set_tags({"carkp.data_digest": data.digest})
    return found


def show(found: dict[str, float]) -> None:
    table = Table("quantity", "value", "limit", "holds", title="Test split")
    for name, value in found.items():
        goal = QUANTITIES[name][1]
        table.add_row(name, f"{value:.3f}", str(goal), "yes" if goal.holds(value) else "NO")
    Console().print(table)


def findings(found: Mapping[str, float]) -> Findings:
    """Return the findings for ``--record``; data without known truncation have no such share."""
    known = {name: value for name, value in found.items() if math.isfinite(value)}
    return Findings(
        [
            Measurement(name=name, quantity=quantity, value=known[name], goal=goal, format=".4f")
            for name, (quantity, goal) in QUANTITIES.items()
            if name in known
        ]
    )


def main() -> int:
    arguments = parse_study(STUDY, str(__doc__), [DATA])
    config = arguments.config
    data = require_data(config, arguments.values["data"])

    def work(tracker: Tracker, _: Path) -> None:
        found = run(config, data, tracker)
        show(found)
        write_record(arguments, STUDY, findings(found))

    execute(STUDY, config, work)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
