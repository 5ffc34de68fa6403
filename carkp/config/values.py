"""What values settings take, and the limits on them; every section is a ``Section``."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from carkp.config.paths import expand

STRIDE = 32
"""Input pixels a cell of a backbone's last map."""

HEATMAP_STRIDE = 4
"""Input pixels a heatmap cell."""

MIN_SIGMA = 0.25
"""In heatmap cells: a Gaussian that ends three sigmas from its centre can fall between the cells below 0.236."""

MAX_SEED = 2**32 - 1
"""What every generator of random numbers takes."""

MAX_PROCESSES = 1024
"""Of one kind on a machine: more is a slip of the pen, and starting them would take the machine down."""

MAX_EXTENT_PX = 8192
"""Of an image that is made or read: more does not fit into memory in batches."""


def _no_bool(value: Any) -> Any:
    """YAML reads yes, no, on and off as true and false, and pydantic those as 1 and 0."""
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
"""A path or a name: ``~`` and ``$NAME`` in it are filled in when the configuration is read."""

OptionalText = Annotated[str, AfterValidator(expand)]


class Section(BaseModel):
    """Frozen, and without names that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def require_warmup_within(warmup_epochs: float, epochs: int) -> None:
    """Refuse a warm-up that is longer than the training.

    Raises:
        ValueError: so it is.
    """
    if warmup_epochs > epochs:
        raise ValueError(f"warmup_epochs={warmup_epochs:g} must not be more than epochs={epochs}")
