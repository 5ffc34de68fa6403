"""Settings of a study: its search space and its budget (configs/search/*.yaml)."""

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from carkp.config.values import MIN_SIGMA, Float, NonNegativeInt, PositiveFloat, PositiveInt, Section

MIN_Q = -math.log10(0.5)
"""The lower bound of q: a percentile of 50 %. Calibration takes only higher ones."""


class Range(Section):
    """Values from ``low`` to ``high``."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _check_order(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        return self


class SearchSpace(Section):
    """Ranges of the three parameters."""

    sigma: Annotated[Range, Field(description="of the heatmaps, in cells; the decoder's window is tied to it")]
    lr: Annotated[Range, Field(description="learning rate, searched on a logarithmic scale")]
    q: Annotated[Range, Field(description="calibration percentile as -log10(1 - p / 100): 2 is 99 %, 5 is 99.999 %")]

    @model_validator(mode="after")
    def _is_within_reach(self) -> Self:
        if self.sigma.low < MIN_SIGMA:
            raise ValueError(f"sigma.low must be at least {MIN_SIGMA} heatmap cells, got {self.sigma.low:g}")
        if self.q.low <= MIN_Q:
            raise ValueError(f"q.low must be above {MIN_Q:.3f}, a percentile of 50, got {self.q.low:g}")
        return self


class SearchBudget(Section):
    """Cost of a trial."""

    epochs: PositiveInt = 3
    num_train_samples: Annotated[
        NonNegativeInt, Field(description="of the training split, a random choice; 0: all")
    ] = 0
    num_scored_samples: Annotated[
        NonNegativeInt, Field(description="of the validation split that the objective is computed on; 0: all")
    ] = 0


class SearchConfig(Section):
    """A study. Its objective is the PCK of the simulated int8 model on the validation split."""

    num_trials: Annotated[
        PositiveInt, Field(description="trainings; the first one uses the values of the configuration")
    ] = 12
    space: SearchSpace
    budget: SearchBudget = SearchBudget()
    num_startup_trainings: Annotated[PositiveInt, Field(description="trainings with random parameters")] = 5
    num_trainings_before_pruning: Annotated[
        PositiveInt, Field(description="trainings that must have reached an epoch before another is pruned at it")
    ] = 4
    kept_percent: Annotated[
        Float,
        Field(
            gt=0,
            le=100,
            description="a training is pruned at an epoch if it is not among this percentage of the best ones",
        ),
    ] = 75.0
    num_swept_percentiles: Annotated[
        NonNegativeInt, Field(description="more values of q, evenly spaced, at which every trained model is scored")
    ] = 7
    num_confirmation_seeds: Annotated[
        NonNegativeInt, Field(description="new seeds with which the best and the default are trained at the end")
    ] = 3
