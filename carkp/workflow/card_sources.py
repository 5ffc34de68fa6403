"""What a card says of data: each source of a training, read from the run that prepared it."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from carkp.config.schema import SYNTHETIC
from carkp.data.summary import SUMMARY_FILE
from carkp.report.model_card import DataSource
from carkp.tracking.runs import FoundRun, fetch_artifact
from carkp.workflow.preparation import ARTIFACT_DIR

SPLITS = ("train", "val", "test")
WORDS: Mapping[str, str] = {
    SYNTHETIC: "drawn by `carkp/synthetic`: procedural cars and streets, no photograph, no mesh",
}
"""What ``data.source`` says of generated cars -> how their pictures came to be."""


def data_sources(run: FoundRun, config: Mapping[str, Any]) -> tuple[DataSource, ...]:
    """The sources that ``run`` prepared.

    Args:
        run: of the stage ``data``.
        config: the resolved configuration of the training.

    Raises:
        TrackingError: the run does not hold its summary.
    """
    return (
        _source(config["data"]["source"], 1.0, fetch_artifact(run.run_id, f"{ARTIFACT_DIR}/{SUMMARY_FILE}"), config),
    )


def _source(source: str, share: float, summary_path: Path, config: Mapping[str, Any]) -> DataSource:
    summary = json.loads(summary_path.read_text(encoding="utf-8"))
    is_generated = source in WORDS
    name = source if is_generated else PurePosixPath(source).name
    return DataSource(
        name=name,
        what=WORDS.get(source, f"labelled pictures of the data set {name}, under its own licence"),
        is_generated=is_generated,
        share=share,
        num_cars={split: _num_cars(summary, split) for split in SPLITS},
        sha256=summary["digests"]["data"],
        seed=config[source]["seed"] if is_generated else None,
    )


def _num_cars(summary: Mapping[str, Any], split: str) -> int:
    return sum(scene["num_cars"] for scene in summary["scenes"].get(split, {}).values())
