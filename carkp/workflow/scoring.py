"""Logging of every run that scores a model: metrics, the predictions file, crops and figures."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import default_collate
from tqdm import tqdm

from carkp.config.schema import ExperimentConfig
from carkp.config.sources import choosing
from carkp.data.colour import yuv_to_rgb
from carkp.data.dataset import CropDataset, eval_loader, normalise
from carkp.data.mixture import restrict
from carkp.data.store import Store, Stores
from carkp.keypoints.codec import HeatmapCodec
from carkp.keypoints.heatmap_tensors import oracle_errors_px
from carkp.keypoints.metrics import Scores
from carkp.keypoints.predictions import Predictions
from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.progress import is_hidden
from carkp.report import figures
from carkp.report.sheets import prediction_sheet
from carkp.tracking.tracker import Tracker
from carkp.training.distributed import ProcessContext
from carkp.training.evaluate import EvalSplit, Forward, eval_forward, predict
from carkp.workflow.build import build_codec, eval_dataset
from carkp.workflow.picture_files import write_jpeg

VAL = "val"
PREDICTIONS_DIR = "predictions"
CROPS_NAME = "crops.zip"
SHEET_SIZE = 16

_CROP_JPEG_QUALITY = 92
_SAMPLE_SEED = 0
_ALPHAS = np.linspace(0.01, 0.3, 30)


@dataclass(frozen=True)
class Scorer:
    """Scores models for a stage; built once, by ``build_scorer``.

    Attributes:
        codec: codec that reads the heatmaps.
        alpha: threshold of the PCK.
        input_size: (height, width) of the network's input.
        seed: seed of the data set's random numbers; validation transforms use none.
        batch_size, num_workers: settings of the loaders.
        channels_last: memory format of the input.
        num_kept_crops: number of worst and of median crops in ``crops.zip``.
        context: this process among its peers.
        choosing: names of the sources whose validation cars choose the epoch; empty if there is only one source.
    """

    codec: HeatmapCodec
    alpha: float
    input_size: tuple[int, int]
    seed: int
    batch_size: int
    num_workers: int
    channels_last: bool
    num_kept_crops: int
    context: ProcessContext
    choosing: tuple[str, ...] = ()

    def dataset(self, store: Store) -> CropDataset:
        """Return a split with validation transforms."""
        return eval_dataset(store, self.input_size, self.seed)

    def split(self, store: Store) -> EvalSplit:
        """Return this process's share of a split with validation transforms."""
        batches = eval_loader(
            self.dataset(store),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            rank=self.context.rank,
            world_size=self.context.world_size,
        )
        sample_ids = [store.sample_id(index) for index in range(len(store))]
        return EvalSplit(batches=batches, sample_ids=sample_ids, input_size=self.input_size)

    def forward(self, net: nn.Module) -> Forward:
        """Return a network as a function from uint8 images to heatmaps."""
        return eval_forward(net, normalise, self.channels_last)

    def predict(self, forward: Forward, store: Store, title: str = "") -> Predictions:
        """Run ``forward`` on a split; with a ``title``, a progress bar shows it."""
        with tqdm(
            total=len(store), desc=title, unit="crop", disable=is_hidden(not (title and self.context.is_main))
        ) as bar:
            return predict(forward, self.split(store), self.codec, self.context, lambda num: _advance(bar, num))

    def sample(self, store: Store, num_samples: int) -> EvalSplit:
        """Load a choice of samples of a split into memory, the same every time; ``num_samples`` 0: all of them."""
        dataset, chosen = self.dataset(store), chosen_samples(len(store), num_samples)
        samples = [{**dataset[index], "index": torch.tensor(place)} for place, index in enumerate(chosen)]
        starts = range(0, len(samples), self.batch_size)
        batches = [default_collate(samples[start : start + self.batch_size]) for start in starts]
        return EvalSplit(batches, [store.sample_id(index) for index in chosen], self.input_size)

    def predict_sample(self, forward: Forward, sample: EvalSplit) -> Predictions:
        """Run ``forward`` on loaded samples."""
        return predict(forward, sample, self.codec, self.context)

    def score(self, predictions: Predictions, split: str) -> Scores:
        """Score validation on the cars that choose the epoch, other splits on all cars; also score each source."""
        scores = self.judged(predictions, split).score(self.alpha)
        names = [name for name in dict.fromkeys(predictions.sources.tolist()) if name]
        by_source = {name: predictions.of_sources([name]).score(self.alpha) for name in names}
        return replace(scores, by_source={name: found for name, found in by_source.items() if found.num_points > 0})

    def judged(self, predictions: Predictions, split: str) -> Predictions:
        """Return the samples that the score of a split is based on."""
        names = set(self.choosing) & set(predictions.sources.tolist())
        return predictions.of_sources(names) if names and split == VAL else predictions

    def judged_store(self, stores: Stores, split: str) -> Store:
        """Return the part of a split that its score is based on."""
        store: Store = getattr(stores, split)
        return restrict(store, self.choosing) if split == VAL and self.choosing else store

    def mean_oracle_error_px(self, predictions: Predictions) -> float:
        """Return the mean error that the codec alone makes on the labels of a split, in input pixels."""
        targets, validity = torch.from_numpy(predictions.targets), torch.from_numpy(predictions.validity)
        errors = oracle_errors_px(self.codec, targets, validity)
        return float(errors.mean()) if errors.numel() else float("nan")


def chosen_samples(num_there: int, num_wanted: int) -> list[int]:
    """Return the indices of a random choice of samples, always the same, in ascending order; 0: all."""
    if num_wanted == 0 or num_wanted >= num_there:
        return list(range(num_there))
    chosen = np.random.default_rng(_SAMPLE_SEED).choice(num_there, num_wanted, replace=False)
    return [int(index) for index in np.sort(chosen)]


def build_scorer(config: ExperimentConfig, context: ProcessContext) -> Scorer:
    return Scorer(
        codec=build_codec(config.heatmap, config.model.input_size),
        alpha=config.eval.alpha,
        input_size=config.model.input_size,
        seed=config.seed,
        batch_size=config.eval.batch_size,
        num_workers=config.train.num_workers,
        channels_last=config.train.channels_last,
        num_kept_crops=config.tracking.num_kept_crops,
        context=context,
        choosing=choosing(config.data),
    )


def headline_metrics(split: str, scores: Scores) -> dict[str, float]:
    """Return the three main scores of a split, and of each source in it."""
    named = {"": scores} | {f"/{name}": found for name, found in scores.by_source.items()}
    return {
        f"{split}/{metric}{name}": getattr(found, metric)
        for name, found in named.items()
        for metric in ("pck", "pck_hat", "mean_dist")
    }


def describe_scores(scores: Mapping[str, Scores]) -> str:
    """Return one line for each split, and for each source in it, for a person."""
    return "\n".join(
        f"{name:>5}: pck {found.pck:.4f}, pck_hat {found.pck_hat:.4f}, "
        f"mean distance {found.mean_dist:.2f} px over {found.num_points} keypoints"
        for name, found in _with_sources(scores).items()
    )


def _with_sources(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """Return the scores of splits, each followed by those of its sources."""
    return {
        name: found
        for split, whole in scores.items()
        for name, found in {
            split: whole,
            **{f"{split}, {name}": part for name, part in whole.by_source.items()},
        }.items()
    }


def describe_run(
    tracker: Tracker,
    what: str,
    scores: Mapping[str, Scores],
    kept: Mapping[str, float] = MappingProxyType({}),
    target: str = "",
) -> None:
    """Describe a run that scored a model: the score of the last split, the text ``what``, and a table.

    ``kept``: shares of the float model's PCK that were kept.
    """
    rows = [
        f"| {split} | {found.pck:.4f} | {found.pck_hat:.4f} | {found.mean_dist:.2f} | {_share(kept, split)} |"
        for split, found in _with_sources(scores).items()
    ]
    head = "| split | pck | pck_hat | mean distance (px) | of float |\n|---|---|---|---|---|"
    split, found = list(scores.items())[-1]
    share = _share(kept, split)
    of_float = f", {share} of float" if share else ""
    headline = f"{split} pck {found.pck:.4f}{of_float}, mean distance {found.mean_dist:.2f} px."
    tracker.describe("\n".join([f"{headline} {what}", "", head, *rows]), target)


def keypoint_metrics(split: str, scores: Scores) -> dict[str, float]:
    """Return the PCK of each keypoint."""
    return {
        f"{split}/pck/{name}": float(value) for name, value in zip(KEYPOINT_NAMES, scores.pck_per_keypoint, strict=True)
    }


def log_scored_splits(
    scorer: Scorer,
    scored: Mapping[str, tuple[Store, Predictions]],
    tracker: Tracker,
    out_dir: Path,
    label: str,
    step: int = 0,
) -> dict[str, Scores]:
    """Log everything about the predictions of the model ``label`` on one or more splits; the last is the main one.

    ``step``: the last epoch if the run has logged epochs before, because MLflow shows the value of the highest step.
    """
    scores = {split: scorer.score(predictions, split) for split, (_, predictions) in scored.items()}
    for split, (_, predictions) in scored.items():
        tracker.log_metrics(headline_metrics(split, scores[split]), step=step)
        path = out_dir / PREDICTIONS_DIR / f"{split}.npz"
        predictions.save(path)
        tracker.log_file(path, PREDICTIONS_DIR)
    main_split, (store, predictions) = list(scored.items())[-1]
    tracker.log_metrics(keypoint_metrics(main_split, scores[main_split]))
    crops_path = out_dir / PREDICTIONS_DIR / CROPS_NAME
    save_crops(scorer, store, predictions, crops_path)
    tracker.log_file(crops_path, PREDICTIONS_DIR)
    _log_figures(scorer.alpha, scored, scores, tracker, label)
    return scores


def log_sheet(scorer: Scorer, store: Store, predictions: Predictions, tracker: Tracker, out: Path) -> None:
    """Log a picture of 16 samples, evenly spread over a split, with predictions and labels."""
    chosen = np.linspace(0, len(predictions) - 1, min(SHEET_SIZE, len(predictions))).astype(int)
    dataset = scorer.dataset(store)
    sheet = prediction_sheet(
        [_input_rgb(dataset, int(index)) for index in chosen],
        predictions.points[chosen],
        predictions.targets[chosen],
        predictions.validity[chosen],
        predictions.mean_distances()[chosen],
    )
    write_jpeg(out, sheet)
    tracker.log_file(out, "pictures")


def save_crops(scorer: Scorer, store: Store, predictions: Predictions, path: Path) -> None:
    """Save the worst and the median samples by mean distance as JPEG in a ZIP: ``worst/…`` and ``median/…``.

    The pictures are network inputs, so that predicted points apply as they are.
    """
    dataset = scorer.dataset(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for folder, indices in _worst_and_median(predictions.mean_distances(), scorer.num_kept_crops).items():
            for place, index in enumerate(indices):
                name = f"{folder}/{place:03d}__{str(predictions.sample_ids[index]).replace('/', '__')}.jpg"
                archive.writestr(zipfile.ZipInfo(name), _jpeg(_input_rgb(dataset, int(index))))


def _share(kept: Mapping[str, float], split: str) -> str:
    value = kept.get(f"{split}/retention")
    return "" if value is None else f"{value:.2%}"


def _advance(bar: "tqdm[Any]", num_samples: int) -> None:
    bar.update(num_samples)


def _worst_and_median(distances: NDArray[np.float64], num_each: int) -> dict[str, Sequence[int]]:
    scored = np.flatnonzero(np.isfinite(distances))
    order = scored[np.argsort(-distances[scored], kind="stable")]
    start = max(0, (len(order) - num_each) // 2)
    return {"worst": order[:num_each].tolist(), "median": order[start : start + num_each].tolist()}


def _input_rgb(dataset: CropDataset, index: int) -> NDArray[np.uint8]:
    return yuv_to_rgb(dataset[index]["image"].numpy())


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    is_ok, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _CROP_JPEG_QUALITY]
    )
    assert is_ok
    return data.tobytes()


def _log_figures(
    alpha: float,
    scored: Mapping[str, tuple[Store, Predictions]],
    scores: Mapping[str, Scores],
    tracker: Tracker,
    label: str,
) -> None:
    curves = {f"{label}, {split}": (_ALPHAS, item[1].pck_curve(_ALPHAS)) for split, item in scored.items()}
    tracker.log_figure(figures.pck_curve_figure(curves, marked_alpha=alpha), "figures/pck_curve.png")
    bars = {f"{label}, {split}": scores[split].pck_per_keypoint for split in scored}
    title = f"PCK at alpha {alpha:g} by keypoint"
    tracker.log_figure(figures.per_keypoint_figure(bars, title), "figures/pck_per_keypoint.png")
