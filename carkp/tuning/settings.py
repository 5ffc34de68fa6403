"""Settings of a study."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from optuna.distributions import FloatDistribution


@dataclass(frozen=True)
class Axis:
    """Range of values of one parameter."""

    low: float
    high: float
    is_log: bool = False

    @property
    def distribution(self) -> FloatDistribution:
        return FloatDistribution(self.low, self.high, log=self.is_log)


@dataclass(frozen=True)
class Heartbeat:
    """Time between two heartbeats of a worker, and the silence after which its trial counts as killed."""

    interval_s: int = 10
    grace_s: int = 60


@dataclass(frozen=True)
class StudySettings:
    """Settings of a study: the search space and the rules of sampling and pruning.

    Attributes:
        name: name of the study in the database.
        axes: parameter -> range of values.
        num_startup_trainings: trainings with random parameters before the sampler learns from ended ones.
        num_trainings_before_pruning: trainings that must have reached an epoch before another is pruned at it.
        kept_percent: a training is pruned if it is not among this percentage of the best ones at that epoch.
    """

    name: str
    axes: Mapping[str, Axis]
    num_startup_trainings: int = 5
    num_trainings_before_pruning: int = 4
    kept_percent: float = 75.0
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
