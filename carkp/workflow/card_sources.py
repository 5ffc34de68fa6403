"""Data in a model card: each source of a training, read from the run that prepared it, and the credits."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict

from carkp.config.loading import ConfigError
from carkp.config.schema import RENDERED, SYNTHETIC
from carkp.data.files import expand_path
from carkp.data.summary import SUMMARY_FILE
from carkp.rendered.catalog import CatalogError, read_catalog
from carkp.rendered.fleet import MIN_KNOWN
from carkp.report.model_card import DataSource, MeshCredit
from carkp.tracking.runs import FoundRun, fetch_artifact
from carkp.workflow.preparation import ARTIFACT_DIR

SPLITS = ("train", "val", "test")
WORDS: Mapping[str, str] = {
    SYNTHETIC: "drawn by `carkp/synthetic`: procedural cars and streets, no photograph, no mesh",
    RENDERED: "rendered by `carkp/rendered` from the car meshes credited below",
}
"""Kind of generated cars in a configuration -> how their pictures were made."""


class _Read(BaseModel):
    """A part of a file; fields that a card does not show are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Source(_Read):
    source: str
    share: float = 1.0
    name: str = ""

    @property
    def label(self) -> str:
        """Name of the source in its run: its given name, else the word or the last part of its path."""
        return self.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", PurePath(self.source).stem).strip("-._")


class _Data(_Read):
    source: str
    sources: tuple[_Source, ...] = ()


class _Generator(_Read):
    seed: int = 0
    meshes: str = ""


class _Configuration(_Read):
    data: _Data
    synthetic: _Generator = _Generator()
    rendered: _Generator = _Generator()

    def generator_of(self, source: str) -> _Generator | None:
        """Return the settings of generated cars; None for other sources."""
        return {SYNTHETIC: self.synthetic, RENDERED: self.rendered}.get(source)


class _Scene(_Read):
    num_cars: int


class _Summary(_Read):
    scenes: dict[str, dict[str, _Scene]]
    digests: dict[str, str]

    def num_cars(self, split: str) -> int:
        return sum(scene.num_cars for scene in self.scenes.get(split, {}).values())


def data_sources(run: FoundRun, config: Mapping[str, Any]) -> tuple[DataSource, ...]:
    """Return the sources that ``run`` prepared, one or several.

    Args:
        run: a run of the stage ``data``.
        config: the resolved configuration of the training.

    Raises:
        TrackingError: the run does not hold its summaries.
        ConfigError: a folder of meshes does not name authors and licences.
    """
    read = _Configuration.model_validate(config)
    several = {f"{ARTIFACT_DIR}/{item.label}": item for item in read.data.sources}
    listed = several or {ARTIFACT_DIR: _Source(source=read.data.source)}
    return tuple(
        describe_source(
            item.label, item.source, item.share, fetch_artifact(run.run_id, f"{place}/{SUMMARY_FILE}"), read
        )
        for place, item in listed.items()
    )


def describe_source(name: str, source: str, share: float, summary_path: Path, config: _Configuration) -> DataSource:
    """Describe a source by the summary of its preparation."""
    summary = _Summary.model_validate_json(summary_path.read_bytes())
    generator = config.generator_of(source)
    return DataSource(
        name=name,
        what=WORDS.get(source, "labelled pictures of somebody else, under their own licence"),
        is_generated=generator is not None,
        share=share,
        num_cars={split: summary.num_cars(split) for split in SPLITS},
        sha256=summary.digests["data"],
        seed=None if generator is None else generator.seed,
        meshes=mesh_credits(expand_path(config.rendered.meshes)) if source == RENDERED else (),
    )


def mesh_credits(folder: Path) -> tuple[MeshCredit, ...]:
    """Return authors and licences of those meshes in a folder that may be rendered, by name.

    Raises:
        ConfigError: the folder does not name them.
    """
    try:
        found = read_catalog(folder)
    except CatalogError as error:
        raise ConfigError(f"rendered.meshes: {error}; the card credits the authors of the meshes") from error
    return tuple(
        MeshCredit(name=mesh.name, author=mesh.author, licence=mesh.licence, source=mesh.source)
        for mesh in found
        if mesh.is_known.sum() >= MIN_KNOWN
    )
