"""What is said of a model that comes with carkp: figures as data (``card.yaml``) and the page made of them alone."""

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
"""Groups are compared by the PCK at this threshold."""

WEAK_PCK, MIN_CARS = 0.8, 3
"""A group of real cars with a lower PCK, and with so many cars at least, counts as a weakness."""

BREAKDOWNS: Mapping[str, str] = {
    "kind": "kind of vehicle",
    "view": "side that is seen",
    "heading": "where the car looks",
    "size": "size in the frame",
    "truncated": "cut by the frame",
    "occluded": "hidden by others",
    "keypoint": "keypoints seen and hidden",
    "source": "source",
}
"""What figures are broken down by, in the order of the card, with the words for it."""

DASH = "–"


class CardError(ValueError):
    """A card that cannot be read; the message says why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Figure(_Part):
    """A value and the ends of its 95 % interval; None where it is not known."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Difference(Figure):
    """Of two models on the same cars, paired, with the p-value of the sign-flip test."""

    p_value: float | None = None


class Group(_Part):
    """Some keypoints of some cars; ``pck`` by threshold."""

    num_cars: int
    num_points: int
    pck: dict[str, Figure]


class ModelFigures(_Part):
    """Of one file on one set of cars.

    Attributes:
        sha256: of the file.
        groups: breakdown -> group -> figures; ``all`` has the one group ``all``.
        turned, mirrored: shares of the cars that are turned front to back and mirrored left to right, where known.
    """

    sha256: str
    groups: dict[str, dict[str, Group]]
    turned: Figure | None = None
    mirrored: Figure | None = None

    @property
    def total(self) -> Group:
        return self.groups["all"]["all"]


class SetFigures(_Part):
    """A set of cars and what both files of a model reach on it.

    Attributes:
        title: for a person.
        sha256: digest of the cars.
        unit: what intervals rest on: how many of what.
        difference: PCK of the int8 file minus that of the float one, by threshold.
    """

    title: str
    sha256: str
    unit: str
    float_: Annotated[ModelFigures, Field(alias="float")]
    int8: ModelFigures
    difference: dict[str, Difference]


class MeshCredit(_Part):
    """A car mesh that cars were rendered from."""

    name: str
    author: str
    licence: str
    source: str


class DataSource(_Part):
    """Where training samples come from.

    Attributes:
        name: of the source.
        what: how its pictures came to be.
        is_generated: whether they are drawn or rendered, and no photographs.
        share: of every training batch.
        num_cars: by split.
        sha256: of the prepared stores.
        seed: of the generator; None where nothing was generated.
        meshes: that were rendered.
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
        commands: in their order.
        commit: of the training; ``is_dirty``: there were uncommitted changes.
        date: of the training, UTC.
        versions: of what computes.
        config_sha256: of ``config``, the resolved configuration of the training.
        first_weights: what the training began with.
        best_epoch: that validation chose.
        note: what the runs do not know, such as the machine of a training that was brought here finished.
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
    """PCK on generated validation cars of the weights as trained and as shipped, in float16."""

    alpha: float
    float32: float
    float16: float


class FileFacts(_Part):
    """Size and SHA-256 of a file."""

    num_bytes: int
    sha256: str


class Card(_Part):
    """All that is said of a model.

    Attributes:
        name: of the model.
        inputs: digest of all that decides the figures of generated cars.
        input_size: (height, width) that the network takes.
        files: of the model, by name.
        generated: split -> figures; the last one is the one that nothing was chosen by.
        real: figures of photographs, none of which was trained on.
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
    """A group of real cars that the int8 model is bad at."""

    title: str
    breakdown: str
    name: str
    group: Group


def card_to_yaml(card: Card) -> str:
    return yaml.safe_dump(card.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True, width=120)


def card_from_yaml(text: str) -> Card:
    """The inverse of ``card_to_yaml``.

    Raises:
        CardError: the text is something else.
    """
    try:
        return Card.model_validate(parse_yaml(text))
    except (YamlError, ValidationError) as error:
        raise CardError(f"no card of a model: {error}") from error


def card_page(card: Card) -> str:
    """The card as Markdown; every number in it is one of the card's."""
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
    """Groups of real cars by kind and by view that the int8 model is bad at, the worst first."""
    found = [
        Weakness(real.title, BREAKDOWNS[breakdown], name, group)
        for real in card.real
        for breakdown in ("kind", "view")
        for name, group in real.int8.groups.get(breakdown, {}).items()
        if group.num_cars >= MIN_CARS and (group.pck[MAIN_ALPHA].value or 0.0) < WEAK_PCK
    ]
    yield from sorted(found, key=lambda item: item.group.pck[MAIN_ALPHA].value or 0.0)


def show_figure(found: Figure | None) -> str:
    """``0.912 (0.88 to 0.94)``."""
    if found is None or found.value is None or not math.isfinite(found.value):
        return DASH
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def show_difference(found: Difference | None) -> str:
    """In points of PCK, with its sign: ``-0.3 (-0.6 to +0.1)``."""
    if found is None or found.value is None:
        return DASH
    value = f"{100 * found.value:+.2f}"
    if found.low is None or found.high is None:
        return value
    return f"{value} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def show_mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.2f} MiB"
