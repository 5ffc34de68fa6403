"""Random states for dropout and stochastic depth, so that a resumed training draws the same random numbers."""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

RandomState = dict[str, Tensor]
"""States of torch's generators: ``cpu`` and, if the process trains on a CUDA device, ``cuda``."""


def get_random_state(device: torch.device) -> RandomState:
    """Return the random state of this process and of the device that it trains on."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore a state that ``get_random_state`` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def read_random_states(
    saved: Tensor | Sequence[RandomState], num_ranks: int, device: torch.device
) -> list[RandomState]:
    """Return one state per rank from a checkpoint.

    Earlier versions saved only the CPU state of rank 0. This is complete for one process on the CPU; otherwise a
    warning is given.

    Raises:
        ValueError: the states are for another number of processes or another kind of device.
    """
    if isinstance(saved, Tensor):
        if num_ranks > 1 or device.type == "cuda":
            warnings.warn(
                "the checkpoint is from an earlier version of carkp and has no random states of CUDA and of each "
                "process: "
                "with model.drop_path_rate > 0 the result is not that of an uninterrupted training",
                stacklevel=3,
            )
        return [{"cpu": saved}] * num_ranks
    if len(saved) != num_ranks:
        raise ValueError(f"the checkpoint was trained by {len(saved)} processes, now there are {num_ranks}")
    was_cuda, is_cuda = "cuda" in saved[0], device.type == "cuda"
    if was_cuda != is_cuda:
        there, here = ("CUDA", "the CPU") if was_cuda else ("the CPU", "CUDA")
        raise ValueError(f"the checkpoint was trained on {there}, this process trains on {here}: continue on {there}")
    return list(saved)
