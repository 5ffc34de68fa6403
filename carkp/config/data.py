"""Settings of the data: where cars come from, how many are drawn, how they are stored."""

import math
import os
import re
from collections import Counter
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from carkp.config.values import Float, Int, NumProcesses, OptionalText, PositiveInt, Section, Seed, Size, Text

MIN_FRAME_PX = 96
"""Shortest edge of a generated frame."""

SYNTHETIC = "synthetic"
"""Value of ``data.source`` for drawn cars."""

RENDERED = "rendered"
"""Value of ``data.source`` for cars rendered from meshes."""

GENERATED_SOURCES = (SYNTHETIC, RENDERED)
"""Values for sources that this program generates itself; any other source is a path."""

SHARE_TOLERANCE = 0.01
"""Largest difference of the sum of shares from 1: so 0.333 given three times is accepted as thirds."""


def _large_enough_frame(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < MIN_FRAME_PX:
        raise ValueError(f"must be at least {MIN_FRAME_PX} pixels each way, (height, width)")
    return size


def _all_different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("names a scene twice")
    return names


Ingredient = Literal["vehicles", "faces", "close_ups", "occluders", "light", "sensor", "cameras"]
Scenes = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_all_different)]
FrameSize = Annotated[Size, AfterValidator(_large_enough_frame)]


class SyntheticConfig(Section):
    """The drawn data set; read only where a source is ``synthetic``."""

    num_train_cars: Annotated[
        PositiveInt, Field(description="Labelled cars to draw in the training scenes other than car_craig2.")
    ] = 8000
    num_val_cars: Annotated[
        PositiveInt,
        Field(description="Labelled cars to draw in the scene car_craig2, which validation takes by default."),
    ] = 800
    num_test_cars: Annotated[PositiveInt, Field(description="Labelled cars to draw in the test scenes.")] = 800
    image_size: Annotated[
        FrameSize, Field(description="Height and width of a picture in pixels, each at least 96.")
    ] = (720, 1280)
    seed: Annotated[
        Seed,
        Field(description="Seed of the random numbers for the pictures. Another seed gives other pictures."),
    ] = 0
    ingredients: Annotated[
        tuple[Ingredient, ...],
        Field(
            description="What pictures show besides plain cars in daylight: other vehicles, detailed faces of cars, "
            "close-ups, objects that hide cars, other light, sensor flaws, unusual cameras. Empty: only plain cars."
        ),
    ] = get_args(Ingredient)


class RenderedConfig(Section):
    """The set rendered from car meshes; read only where a source is ``rendered``."""

    meshes: Annotated[
        OptionalText, Field(description="Folder of GLB files and their meshes.json. Needed where a source is rendered.")
    ] = ""
    num_train_cars: Annotated[
        PositiveInt, Field(description="Cars to render in the training scenes other than car_craig2, one per picture.")
    ] = 8000
    num_val_cars: Annotated[
        PositiveInt, Field(description="Cars to render in the scene car_craig2, which validation takes by default.")
    ] = 400
    num_test_cars: Annotated[PositiveInt, Field(description="Cars to render in the test scenes.")] = 400
    seed: Annotated[
        Seed,
        Field(description="Seed of the random numbers for the pictures. Another seed gives other pictures."),
    ] = 0


class SourceConfig(Section):
    """One of several sources that a training draws from."""

    source: Annotated[
        Text,
        Field(
            description="Where the cars come from: synthetic, rendered, or the path of CarFusion's folder, of a COCO "
            "keypoints file, or of a folder of crops."
        ),
    ]
    share: Annotated[
        Float,
        Field(gt=0, le=1, description="Share of every batch, and of the samples of an epoch. All shares add up to 1."),
    ]
    name: Annotated[
        str,
        Field(
            pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$",
            description="Name of the source in metrics and sample ids. Empty: synthetic, rendered, or the last part of "
            "its path.",
        ),
    ] = ""
    val_scenes: Annotated[
        Scenes | None,
        Field(
            description="Training scenes of this source that are used for validation. Not given: those of "
            "data.val_scenes."
        ),
    ] = None

    @property
    def label(self) -> str:
        """What the source is called: its name, else the word or the last part of its path."""
        stem = os.path.splitext(os.path.basename(os.path.normpath(self.source)))[0]  # noqa: PTH119, PTH122
        return self.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._")[:64]

    @property
    def is_generated(self) -> bool:
        """Whether the cars are drawn or rendered, and not the user's."""
        return self.source in GENERATED_SOURCES


class DataConfig(Section):
    """Where samples come from and how they are stored."""

    source: Annotated[
        Text,
        Field(
            description="Where the cars come from: synthetic, rendered, or the path of CarFusion's folder, of a COCO "
            "keypoints file, or of a folder of crops."
        ),
    ] = SYNTHETIC
    sources: Annotated[
        tuple[SourceConfig, ...],
        Field(
            description="Several sources instead of data.source, each with its share of every batch. If some are "
            "generated, only their validation cars choose the best epoch. Empty: only data.source."
        ),
    ] = ()
    root: Annotated[
        Text, Field(description="Folder of the prepared data. A relative path starts at the project's folder.")
    ] = "data"
    val_scenes: Annotated[
        Scenes,
        Field(
            description="Training scenes that are used for validation. Ignored if the source has its own validation "
            "split."
        ),
    ] = ("car_craig2",)
    boxes: Annotated[
        Literal["files", "hull"],
        Field(
            description="Where the box of a car comes from. files: from the source's files; hull: the smallest box "
            "around the labelled keypoints."
        ),
    ] = "files"
    box_jitter: Annotated[
        Float,
        Field(
            ge=0,
            le=0.5,
            description="Largest random movement of a side of a training car's box outwards, as a share of the box's "
            "extent, so that a model learns loose boxes; inwards it is less, and half of the cars keep their box. 0: "
            "none. Not used for folders of crops.",
        ),
    ] = 0.0
    jpeg_quality: Annotated[
        Int, Field(ge=1, le=100, description="JPEG quality of the stored crops. 100 is the best.")
    ] = 95
    num_workers: Annotated[NumProcesses, Field(description="Processes that prepare data. 0: one for every core.")] = 0

    @model_validator(mode="after")
    def _sources_agree(self) -> Self:
        if self.sources and (problems := _source_problems(self)):
            raise ValueError("; ".join(problems))
        return self

    @property
    def is_generated(self) -> bool:
        """Whether the cars of the only source are drawn or rendered, and not the user's."""
        return not self.sources and self.source in GENERATED_SOURCES

    @property
    def title(self) -> str:
        """Where the samples come from, for a person: the source, or the names of several."""
        return " + ".join(item.label for item in self.sources) or self.source


def _source_problems(data: DataConfig) -> list[str]:
    """List the problems: sources that cannot be told apart, and shares that cannot be kept."""
    found = []
    if data.source != SYNTHETIC:
        found.append(
            f"source={data.source} and sources are both given: leave source at {SYNTHETIC!r}, its default, or move it "
            "into sources"
        )
    total = math.fsum(item.share for item in data.sources)
    if abs(total - 1) > SHARE_TOLERANCE:
        found.append(f"the shares of sources add up to {total:g}, but must add up to 1")
    paths = Counter(os.path.normpath(item.source) for item in data.sources)
    found += [
        f"sources name {path} twice: give it once, with the sum of both shares"
        for path, num in paths.items()
        if num > 1
    ]
    labels = Counter(item.label for item in data.sources)
    found += [f"two sources are called {label!r}: give each its own name" for label, num in labels.items() if num > 1]
    found += [f"source {item.source}: give it a name" for item in data.sources if not item.label]
    return found
