"""What is searched, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from optuna.distributions import FloatDistribution


@dataclass(frozen=True)
class Axis:
    """Values that one parameter may take."""

    low: float
    high: float
    is_log: bool = False

    @property
    def distribution(self) -> FloatDistribution:
        return FloatDistribution(self.low, self.high, log=self.is_log)


@dataclass(frozen=True)
class Heartbeat:
    """How often a worker says that it is alive, and after how long a silence its trial counts as killed."""

    interval_s: int = 10
    grace_s: int = 60


@dataclass(frozen=True)
class StudySettings:
    """What is searched, and how.

    Attributes:
        name: of the study in the database.
        axes: parameter -> values.
        num_startup_trainings: trainings with random parameters, before the sampler learns from those that have ended.
        num_trainings_before_pruning: trainings that must have reached an epoch before another is pruned at it.
        kept_percent: a training is pruned where it is not among so many percent of the complete ones at that epoch.
    """

    name: str
    axes: Mapping[str, Axis]
    num_startup_trainings: int = 5
    num_trainings_before_pruning: int = 4
    kept_percent: float = 75.0
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
