"""What a study asks of the trainings that it queues, and what it gets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Pruned(Exception):  # noqa: N818 - it is no error
    """The training is worse than the others at the same epoch and need not go on."""


@dataclass(frozen=True)
class Alternative:
    """Other parameters that a trial has scored without training again, and what they gave."""

    params: Mapping[str, float]
    value: float


@dataclass(frozen=True)
class Outcome:
    """What a training gave with its own parameters, and with others."""

    value: float
    alternatives: Sequence[Alternative] = ()


class Trial(Protocol):
    """What an objective sees of its trial."""

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
    """A training to queue: parameters that are fixed, the sampler chooses the others; and notes for the objective."""

    params: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
