"""What a card says of data: each source of a training, read from the run that prepared it, and whom to credit."""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from carkp.config.loading import ConfigError
from carkp.data.files import expand_path
from carkp.data.summary import SUMMARY_FILE
from carkp.report.model_card import DataSource, MeshCredit
from carkp.tracking.runs import FoundRun, fetch_artifact
from carkp.workflow.preparation import ARTIFACT_DIR

SPLITS = ("train", "val", "test")
RENDERED = "rendered"
MESHES_FILE = "meshes.json"
"""Of a folder of car meshes: name -> author, licence and source, among what rendering needs."""

WORDS: Mapping[str, str] = {
    "synthetic": "drawn by `carkp/synthetic`: procedural cars and streets, no photograph, no mesh",
    RENDERED: "rendered by `carkp/rendered` from the car meshes credited below",
}
"""What a configuration says of generated cars -> how their pictures came to be."""


class _Read(BaseModel):
    """A part of a file that says more than a card shows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Source(_Read):
    source: str
    share: float = 1.0
    name: str = ""

    @property
    def label(self) -> str:
        """What the source is called in its run: its name, else the word or the last part of its path."""
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
        """The settings of generated cars; None of others."""
        return {"synthetic": self.synthetic, RENDERED: self.rendered}.get(source)


class _Scene(_Read):
    num_cars: int


class _Summary(_Read):
    scenes: dict[str, dict[str, _Scene]]
    digests: dict[str, str]

    def num_cars(self, split: str) -> int:
        return sum(scene.num_cars for scene in self.scenes.get(split, {}).values())


class _Mesh(_Read):
    author: str
    license: str
    source: str


_MESHES = TypeAdapter(dict[str, _Mesh])


def data_sources(run: FoundRun, config: Mapping[str, Any]) -> tuple[DataSource, ...]:
    """The sources that ``run`` prepared, one or several.

    Args:
        run: of the stage ``data``.
        config: the resolved configuration of the training.

    Raises:
        TrackingError: the run does not hold its summaries.
        ConfigError: a folder of meshes does not say whom to credit.
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
    """A source by the summary of its preparation."""
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
    """Authors and licences of the meshes in a folder, by name.

    Raises:
        ConfigError: the folder does not say.
    """
    path = folder / MESHES_FILE
    try:
        found = _MESHES.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"rendered.meshes: {path}: {reason}; the card credits the authors of the meshes") from error
    except (ValueError, ValidationError) as error:
        raise ConfigError(f"{path}: does not say author, license and source of each mesh: {error}") from error
    return tuple(
        MeshCredit(name=name, author=mesh.author, licence=mesh.license, source=mesh.source)
        for name, mesh in sorted(found.items())
    )
