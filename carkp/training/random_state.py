"""Random states: what dropout and stochastic depth draw from, so that a resumed training draws what it would have."""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

RandomState = dict[str, Tensor]
"""``cpu`` and, where the process trains on a CUDA device, ``cuda``: states of torch's generators."""


def get_random_state(device: torch.device) -> RandomState:
    """Of this process and the device that it trains on."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """The inverse of ``get_random_state``."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def read_random_states(
    saved: Tensor | Sequence[RandomState], num_ranks: int, device: torch.device
) -> list[RandomState]:
    """One state a rank out of a checkpoint.

    Earlier versions kept that of rank 0 on the CPU alone: all of it for one process on the CPU, a warning elsewhere.

    Raises:
        ValueError: the states are of another number of processes or another kind of device.
    """
    if isinstance(saved, Tensor):
        if num_ranks > 1 or device.type == "cuda":
            warnings.warn(
                "the checkpoint is of an earlier version of carkp, without random states of CUDA and of each process: "
                "with model.drop_path_rate > 0 the result is not that of an uninterrupted training",
                stacklevel=3,
            )
        return [{"cpu": saved}] * num_ranks
    if len(saved) != num_ranks:
        raise ValueError(f"the checkpoint was trained by {len(saved)} processes, now there are {num_ranks}")
    was_cuda, is_cuda = "cuda" in saved[0], device.type == "cuda"
    if was_cuda != is_cuda:
        there, here = ("CUDA", "the CPU") if was_cuda else ("the CPU", "CUDA")
        raise ValueError(
            f"the checkpoint was trained on {there}, this process trains on {here}: go on with it on {there}"
        )
    return list(saved)
