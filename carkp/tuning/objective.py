"""The interface between a study and the trainings that it queues."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Pruned(Exception):  # noqa: N818 - it is no error
    """The training is worse than the others at the same epoch and need not continue."""


@dataclass(frozen=True)
class Alternative:
    """Other parameters that a trial has scored without another training, and their value."""

    params: Mapping[str, float]
    value: float


@dataclass(frozen=True)
class Outcome:
    """The value of a training with its own parameters, and the values with others."""

    value: float
    alternatives: Sequence[Alternative] = ()


class Trial(Protocol):
    """The view of a trial that an objective gets."""

    @property
    def number(self) -> int: ...
    @property
    def params(self) -> Mapping[str, float]: ...
    @property
    def notes(self) -> Mapping[str, Any]: ...
    def note(self, name: str, value: Any) -> None: ...
    def report(self, value: float, epoch: int) -> None: ...


Objective = Callable[[Trial], Outcome]


@dataclass(frozen=True)
class Job:
    """A training to queue: fixed parameters (the sampler chooses the others), and notes for the objective."""

    params: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
