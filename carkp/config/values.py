"""Types of settings and their limits; every section of the configuration is a ``Section``."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from carkp.config.paths import expand

STRIDE = 32
"""Input pixels per cell of the backbone's last feature map."""

HEATMAP_STRIDE = 4
"""Input pixels per heatmap cell."""

MIN_SIGMA = 0.25
"""In heatmap cells. Below 0.236 a Gaussian, which is cut at three sigmas, can fall between the cells."""

MAX_SEED = 2**32 - 1
"""Largest seed that every random number generator accepts."""

MAX_PROCESSES = 1024
"""Limit of processes of one kind on a machine. More is probably a typing error and would overload the machine."""

MAX_EXTENT_PX = 8192
"""Limit on the height and width of an image, made or read. Batches of larger ones do not fit into memory."""


def _no_bool(value: Any) -> Any:
    """Refuse booleans: YAML reads yes, no, on and off as true and false, and pydantic reads those as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _multiple_of_stride(size: tuple[int, int]) -> tuple[int, int]:
    if any(extent % STRIDE for extent in size):
        raise ValueError(f"must be multiples of {STRIDE}, (height, width)")
    return size


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
PositiveInt = Annotated[Int, Field(gt=0)]
NonNegativeInt = Annotated[Int, Field(ge=0)]
PositiveFloat = Annotated[Float, Field(gt=0)]
NonNegativeFloat = Annotated[Float, Field(ge=0)]
Probability = Annotated[Float, Field(ge=0, le=1)]
Percentile = Annotated[Float, Field(gt=50, le=100)]
Sigma = Annotated[Float, Field(ge=MIN_SIGMA)]
Seed = Annotated[Int, Field(ge=0, le=MAX_SEED)]
Extent = Annotated[Int, Field(gt=0, le=MAX_EXTENT_PX)]
Size = tuple[Extent, Extent]
NumProcesses = Annotated[Int, Field(ge=0, le=MAX_PROCESSES)]
BatchSize = Annotated[Int, Field(gt=0, le=65536)]
StrideSize = Annotated[Size, AfterValidator(_multiple_of_stride)]
Text = Annotated[str, Field(min_length=1), AfterValidator(expand)]
"""A path or a name; ``~`` and ``$NAME`` in it are expanded when the configuration is read."""

OptionalText = Annotated[str, AfterValidator(expand)]


class Section(BaseModel):
    """Base of all sections: frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def require_warmup_within(warmup_epochs: float, epochs: int) -> None:
    """Refuse a warm-up that is longer than the training.

    Raises:
        ValueError: the warm-up is longer.
    """
    if warmup_epochs > epochs:
        raise ValueError(f"warmup_epochs={warmup_epochs:g} must not be more than epochs={epochs}")
