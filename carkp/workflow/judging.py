"""Measurement of an adapted network before and after: on the configuration's data and on the user's own cars."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from carkp.config.schema import ExperimentConfig
from carkp.data.colour import yuv_to_rgb
from carkp.data.store import Stores
from carkp.data.transforms import EvalTransform, TrainTransform
from carkp.data.views import TwoViewDataset, view_batches
from carkp.keypoints.heatmap_tensors import Decoded
from carkp.keypoints.metrics import Scores
from carkp.keypoints.predictions import Predictions, join
from carkp.keypoints.schema import MISSING, VISIBLE
from carkp.report.drawing import draw_keypoints
from carkp.report.sheets import contact_sheet
from carkp.tracking.tracker import Tracker
from carkp.training.mean_teacher import Consistency, measure_consistency
from carkp.workflow.picture_files import write_jpeg
from carkp.workflow.scoring import VAL, Scorer, headline_metrics
from carkp.workflow.target_cars import TargetCars

HOLDOUT, LABELLED = "holdout", "labelled"

NUM_SHOWN, SHEET_COLUMNS, SHEET_SCALE, TILE_SIZE = 16, 8, 2, 200
"""Unlabelled cars in the sheet, tiles per row (two per car), enlargement of inputs, and tile size in pixels."""


@dataclass(frozen=True)
class Measured:
    """Scores of a network.

    Attributes:
        val: scores on the validation split of the configuration's data.
        holdout: consistency on the held-out unlabelled cars; None without such cars.
        labelled: scores on the held-out labelled cars; None without such cars.
    """

    val: Scores
    holdout: Consistency | None
    labelled: Scores | None

    def metrics(self) -> dict[str, float]:
        """Return the scores under the names that are logged."""
        found = headline_metrics(VAL, self.val)
        if self.holdout is not None:
            found |= {f"{HOLDOUT}/{name}": value for name, value in vars(self.holdout).items()}
        if self.labelled is not None:
            found |= headline_metrics(LABELLED, self.labelled)
        return found


@dataclass(frozen=True, eq=False)
class Look:
    """Network inputs (N, 3, H, W), the keypoints found in them, and the lowest peak of a trusted keypoint."""

    images: Tensor
    found: Decoded
    min_confidence: float

    def picture(self, place: int) -> NDArray[np.uint8]:
        """Return an RGB picture of the car with its trusted keypoints."""
        scores = self.found.scores[place].cpu().numpy()
        validity = np.where(scores >= self.min_confidence, VISIBLE, MISSING)
        image = yuv_to_rgb(self.images[place].numpy())
        return draw_keypoints(image, self.found.points[place].cpu().numpy(), validity, SHEET_SCALE)

    def mean_peak(self, place: int) -> float:
        return float(self.found.scores[place].mean())


@dataclass(frozen=True, eq=False)
class Judge:
    """Measures different networks in the same way."""

    config: ExperimentConfig
    scorer: Scorer
    stores: Stores
    cars: TargetCars

    def measure(self, net: nn.Module) -> Measured:
        forward = self.scorer.forward(net)
        val = self.scorer.score(self.scorer.predict(forward, self.stores.val, "score validation"), VAL)
        return Measured(val, self._consistency(net), self._labelled(net))

    def look(self, net: nn.Module) -> Look | None:
        """Return the keypoints found in some unlabelled cars: held-out ones if there are any."""
        unlabelled = self.cars.unlabelled
        if unlabelled is None:
            return None
        places = unlabelled.held_out if len(unlabelled.held_out) else unlabelled.learnt
        dataset = self.scorer.dataset(unlabelled.store)
        images = torch.stack([dataset[int(place)]["image"] for place in places[:NUM_SHOWN]])
        heatmaps = self.scorer.forward(net)(images.to(self.scorer.context.device))
        return Look(images, self.scorer.codec.decode(heatmaps), self.config.adapt.min_confidence)

    def _consistency(self, net: nn.Module) -> Consistency | None:
        unlabelled = self.cars.unlabelled
        if unlabelled is None or len(unlabelled.held_out) == 0:
            return None
        config, size = self.config, self.scorer.input_size
        strong = TrainTransform(input_size=size, **config.adapt.augment.model_dump())
        dataset = TwoViewDataset(unlabelled.store, EvalTransform(size), strong, config.seed)
        batches = view_batches(
            dataset,
            unlabelled.held_out.tolist(),
            config.adapt.num_holdout_views,
            self.scorer.batch_size,
            self.scorer.num_workers,
        )
        return measure_consistency(
            self.scorer.forward(net),
            batches,
            self.scorer.codec,
            self.scorer.alpha,
            config.adapt.min_confidence,
            self.scorer.context.device,
        )

    def _labelled(self, net: nn.Module) -> Scores | None:
        found = self.predict_labelled(net)
        return None if found is None else found.score(self.scorer.alpha)

    def predict_labelled(self, net: nn.Module) -> Predictions | None:
        """Predict the labelled source's own validation and test cars, and held-out ones; None without any."""
        forward, labelled = self.scorer.forward(net), self.cars.labelled
        found = [self.scorer.predict(forward, store, "score labelled cars") for store in self.cars.scored]
        if labelled is not None and len(labelled.held_out) > 0:
            everything = self.scorer.predict(forward, labelled.store, "score labelled cars")
            found.append(everything.chosen(labelled.held_out))
        return join(found) if found else None


def log_looks(before: Look | None, after: Look | None, out_dir: Path, tracker: Tracker) -> None:
    """Log a sheet of unlabelled cars before and after: pictures show more than a mean peak does."""
    if before is None or after is None:
        return
    tiles = [look.picture(place) for place in range(len(before.images)) for look in (before, after)]
    captions = [
        f"{when}, mean peak {look.mean_peak(place):.2f}"
        for place in range(len(before.images))
        for when, look in (("before", before), ("after", after))
    ]
    path = out_dir / "unlabelled.jpg"
    write_jpeg(path, contact_sheet(tiles, captions, columns=SHEET_COLUMNS, tile_size=TILE_SIZE))
    tracker.log_file(path, "pictures")
