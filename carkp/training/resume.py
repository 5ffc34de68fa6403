"""Checks that a checkpoint belongs to the current training, before the training resumes from it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from carkp.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint

_STATE_NAMES = ("weights", "optimizer", "num_steps_done", "num_averaged", "random", "best_epoch", "best_pck",
                "best_weights", "history", "num_steps_an_epoch")  # fmt: skip
_IMPLEMENTATION = frozenset({"params", "lr", "fused", "foreach", "capturable", "differentiable"})
"""Entries of an optimiser's groups that do not change the result, or that are set at every step."""

_MAX_TEXT = 60


class Difference(NamedTuple):
    """A setting with its value in the checkpoint and its current value."""

    name: str
    before: object
    now: object

    def __str__(self) -> str:
        return f"{self.name}: {_short(self.before)} -> {_short(self.now)}"


def find_differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[Difference]:
    """Return the differences for names in both mappings, in the order of ``now``."""
    return [Difference(name, before[name], value) for name, value in now.items() if name in before
            and before[name] != value]  # fmt: skip


def list_differences(differences: Iterable[Difference]) -> str:
    """Return text with one difference per line, to follow a heading."""
    return "".join(f"\n  {difference}" for difference in differences)


def load_resumable(path: Path) -> Checkpoint:
    """Load a ``last.pt``; if an earlier version wrote it without the best weights, add those of ``best.pt`` beside it.

    Raises:
        CheckpointError: a file cannot be used or holds only weights, or the two files are from different trainings.
    """
    last = load_checkpoint(path)
    state = last.training_state
    if not state:
        raise CheckpointError(f"{path}: contains only weights (is it best.pt?); resume from last.pt")
    if "best_weights" in state or "best_epoch" not in state:
        return last
    beside = path.with_name("best.pt")
    best = load_checkpoint(beside)
    # if the process was killed after writing best.pt, best.pt is one epoch ahead: that epoch will be trained again
    is_of_it = best.epoch in (state["best_epoch"], last.epoch + 1)
    if not is_of_it or best.config != last.config or best.architecture != last.architecture:
        raise CheckpointError(
            f"{beside} belongs to another training than {path.name} beside it: the best epoch was "
            f"{state['best_epoch']}, but the file is from epoch {best.epoch}; copy the best.pt of the same run there"
        )
    return Checkpoint(**{**vars(last), "training_state": {**state, "best_weights": best.weights}})


def check_state(checkpoint: Checkpoint, architecture: Mapping[str, Any], num_steps_an_epoch: int) -> None:
    """Refuse a checkpoint from which training cannot resume.

    Raises:
        ValueError: its training state is missing or incomplete, or its network or number of steps differs.
    """
    state = checkpoint.training_state
    if not state:
        raise ValueError("this checkpoint contains only weights (is it best.pt?); resume from last.pt")
    if missing := [name for name in _STATE_NAMES if name not in state]:
        raise ValueError(f"the training state lacks {', '.join(missing)}: it was not written by carkp, or was changed")
    if checkpoint.architecture != architecture:
        names = {**architecture, **checkpoint.architecture}
        both = [{name: part.get(name, "missing") for name in names} for part in (checkpoint.architecture, architecture)]
        raise ValueError(f"the checkpoint contains another network:{list_differences(find_differences(*both))}")
    if state["num_steps_an_epoch"] != num_steps_an_epoch:
        raise ValueError(
            f"the checkpoint was trained with {state['num_steps_an_epoch']} steps per epoch, now there are "
            f"{num_steps_an_epoch}: data, batch size and number of processes must stay the same"
        )


def check_settings(
    state: Mapping[str, Any], settings: Mapping[str, object], optimizer: torch.optim.Optimizer, last_lr: float
) -> None:
    """Refuse to resume with other settings.

    Earlier versions stored no settings. For them the optimiser's values and the learning rate are compared.

    Args:
        state: training state of the checkpoint.
        settings: settings of the current training, by name.
        optimizer: optimiser of the current training.
        last_lr: learning rate of the checkpoint's last step according to the current schedule.

    Raises:
        ValueError: the settings differ.
    """
    found = find_differences(state.get("settings", {}), settings)
    groups = state["optimizer"]["param_groups"]
    for number, (before, now) in enumerate(zip(groups, optimizer.param_groups, strict=False)):
        own = {name: value for name, value in now.items() if name not in _IMPLEMENTATION}
        found += [
            Difference(f"optimiser {name}, group {number}", *rest) for name, *rest in find_differences(before, own)
        ]
        if before["lr"] != last_lr and "settings" not in state:
            found.append(
                Difference("learning rate of the last step (lr, warmup_epochs, epochs)", before["lr"], last_lr)
            )
    if found:
        raise ValueError(
            f"the checkpoint was trained with other settings (checkpoint -> now):{list_differences(found)}\n"
            "continue with the settings of the checkpoint, or start a new training"
        )


def with_own_settings(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return a saved optimiser state with the settings of ``optimizer``, so that loading it does not change them.

    Raises:
        ValueError: the saved state has other parameters than ``optimizer``.
    """
    own = optimizer.state_dict()["param_groups"]
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in saved["param_groups"]]:
        raise ValueError("the optimiser of the checkpoint has other parameters than the network")
    return {"state": saved["state"], "param_groups": own}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
