"""The card of a model that comes with carkp: figures as data (``card.yaml``), and the page made only from them."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carkp.config.yaml_files import YamlError, parse_yaml
from carkp.keypoints.schema import KEYPOINT_NAMES
from carkp.report.markdown import cell
from carkp.report.page import templates

TEMPLATE = "model_card.md"
MAIN_ALPHA = "0.1"
"""Threshold of the PCK by which groups are compared."""

WEAK_PCK, MIN_CARS = 0.8, 3
"""A group of real cars with a lower PCK counts as a weakness, if it has at least this number of cars."""

BREAKDOWNS: Mapping[str, str] = {
    "kind": "kind of vehicle",
    "view": "visible side",
    "heading": "heading of the car",
    "size": "size in the frame",
    "truncated": "cut by the frame",
    "occluded": "hidden by others",
    "keypoint": "visible and hidden keypoints",
    "source": "source",
}
"""Breakdowns of the figures, in the order of the card -> words for them."""

DASH = "–"


class CardError(ValueError):
    """A card cannot be read; the message says why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Figure(_Part):
    """A value and the ends of its 95 % interval; None if not known."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Difference(Figure):
    """The paired difference of two models on the same cars, with the p-value of the sign-flip test."""

    p_value: float | None = None


class Group(_Part):
    """The figures of a group of keypoints; ``pck`` by threshold."""

    num_cars: int
    num_points: int
    pck: dict[str, Figure]


class ModelFigures(_Part):
    """The figures of one file on one set of cars.

    Attributes:
        sha256: SHA-256 of the file.
        groups: breakdown -> group -> figures; ``all`` has only the group ``all``.
        turned, mirrored: shares of cars that are turned front to back and mirrored left to right, if known.
    """

    sha256: str
    groups: dict[str, dict[str, Group]]
    turned: Figure | None = None
    mirrored: Figure | None = None

    @property
    def total(self) -> Group:
        return self.groups["all"]["all"]


class SetFigures(_Part):
    """A set of cars, and the figures of both files of a model on it.

    Attributes:
        title: readable title.
        sha256: digest of the cars.
        unit: number and kind of the units that intervals resample.
        difference: PCK of the int8 file minus that of the float file, by threshold.
    """

    title: str
    sha256: str
    unit: str
    float_: Annotated[ModelFigures, Field(alias="float")]
    int8: ModelFigures
    difference: dict[str, Difference]


class MeshCredit(_Part):
    """Credit for a car mesh from which cars were rendered."""

    name: str
    author: str
    licence: str
    source: str


class DataSource(_Part):
    """A source of training samples.

    Attributes:
        name: name of the source.
        what: text on how its pictures were made.
        is_generated: whether pictures are drawn or rendered, and not photographs.
        share: share of every training batch.
        num_cars: number of cars by split.
        sha256: digest of the prepared stores.
        seed: seed of the generator; None if nothing was generated.
        meshes: meshes that were rendered.
    """

    name: str
    what: str
    is_generated: bool
    share: float
    num_cars: dict[str, int]
    sha256: str
    seed: int | None = None
    meshes: tuple[MeshCredit, ...] = ()


class Making(_Part):
    """How to make the model again.

    Attributes:
        commands: commands in order.
        commit: commit of the training; ``is_dirty``: whether there were uncommitted changes.
        date: date of the training, UTC.
        versions: versions of the packages that compute.
        config_sha256: digest of ``config``, which is the resolved configuration of the training.
        first_weights: initial weights of the training.
        best_epoch: epoch that validation chose.
        note: information that the runs do not have, for example the machine of a training that was imported.
    """

    commands: tuple[str, ...]
    commit: str
    is_dirty: bool
    date: str
    versions: dict[str, str]
    config: dict[str, Any]
    config_sha256: str
    first_weights: str
    best_epoch: int
    note: str = ""


class Rounding(_Part):
    """PCK on generated validation cars, for the trained weights and for the shipped weights in float16."""

    alpha: float
    float32: float
    float16: float


class FileFacts(_Part):
    """Size and SHA-256 of a file."""

    num_bytes: int
    sha256: str


class Card(_Part):
    """The card of a model.

    Attributes:
        name: name of the model.
        inputs: digest of everything that determines the figures of generated cars.
        input_size: (height, width) of the network's input.
        files: files of the model, by name.
        generated: split -> figures; the last split was not used for any choice.
        real: figures on photographs, none of which was used for training.
    """

    name: str
    inputs: str
    input_size: tuple[int, int]
    files: dict[str, FileFacts]
    data: tuple[DataSource, ...]
    making: Making
    rounding: Rounding
    generated: dict[str, SetFigures]
    real: tuple[SetFigures, ...] = ()


class Weakness(NamedTuple):
    """A group of real cars with a low PCK of the int8 model."""

    title: str
    breakdown: str
    name: str
    group: Group


def card_to_yaml(card: Card) -> str:
    return yaml.safe_dump(card.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True, width=120)


def card_from_yaml(text: str) -> Card:
    """Read the text that ``card_to_yaml`` wrote.

    Raises:
        CardError: the text is not a card.
    """
    try:
        return Card.model_validate(parse_yaml(text))
    except (YamlError, ValidationError) as error:
        raise CardError(f"not a model card: {error}") from error


def card_page(card: Card) -> str:
    """Return the card as Markdown; all numbers in it come from the card."""
    environment = templates()
    environment.filters.update({"figure": show_figure, "signed": show_difference, "mib": show_mib, "cell": cell})
    page = environment.get_template(TEMPLATE).render(
        card=card,
        keypoints=KEYPOINT_NAMES,
        config=yaml.safe_dump(card.making.config, sort_keys=False).rstrip(),
        sets=[*card.real, *card.generated.values()],
        breakdowns=BREAKDOWNS,
        weaknesses=list(weaknesses(card)),
        meshes=[mesh for source in card.data for mesh in source.meshes],
        main_alpha=MAIN_ALPHA,
        weak_pck=WEAK_PCK,
    )
    return page.rstrip() + "\n"


def weaknesses(card: Card) -> Iterator[Weakness]:
    """Yield groups of real cars, by kind and by view, with a low PCK of the int8 model, the worst first."""
    found = [
        Weakness(real.title, BREAKDOWNS[breakdown], name, group)
        for real in card.real
        for breakdown in ("kind", "view")
        for name, group in real.int8.groups.get(breakdown, {}).items()
        if group.num_cars >= MIN_CARS and (group.pck[MAIN_ALPHA].value or 0.0) < WEAK_PCK
    ]
    yield from sorted(found, key=lambda item: item.group.pck[MAIN_ALPHA].value or 0.0)


def show_figure(found: Figure | None) -> str:
    """Return a figure as text, for example ``0.912 (0.880 to 0.940)``."""
    if found is None or found.value is None or not math.isfinite(found.value):
        return DASH
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def show_difference(found: Difference | None) -> str:
    """Return a difference in points of PCK, with its sign: ``-0.30 (-0.60 to +0.10)``."""
    if found is None or found.value is None:
        return DASH
    value = f"{100 * found.value:+.2f}"
    if found.low is None or found.high is None:
        return value
    return f"{value} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def show_mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.2f} MiB"
