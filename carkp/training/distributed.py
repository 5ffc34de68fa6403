"""One or many training processes: torch's process group."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn

_TIMEOUT = datetime.timedelta(hours=12)
"""Long, for the other ranks wait while rank 0 prepares a data set."""

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessContext:
    """This process among its peers, and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def broadcast(self, value: T) -> T:
        """Rank 0's ``value`` on every rank."""
        if self.world_size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[no-any-return]

    def synchronise_buffers(self, net: nn.Module) -> None:
        """Rank 0's buffers on every rank: without synchronised batch norm each rank has statistics of its own."""
        if self.world_size > 1:
            for buffer in net.buffers():
                dist.broadcast(buffer, src=0)

    def gather(self, value: T) -> list[T]:
        """The ``value`` of every rank, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value)
        return box


def cpu_context() -> ProcessContext:
    """One process on the CPU, whatever devices there are: for what runs in integers or counts values there."""
    return ProcessContext(rank=0, world_size=1, device=torch.device("cpu"))


def training_device(local_rank: int = 0) -> torch.device:
    """Where a process trains: its own CUDA device, or the CPU where there is none."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def process_context() -> Iterator[ProcessContext]:
    """Join the process group that torchrun announced, or stand alone; leave the group at the end."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = training_device(local_rank)
    has_cuda = device.type == "cuda"
    if has_cuda:
        torch.cuda.set_device(device)
    if world_size == 1:
        yield ProcessContext(rank=0, world_size=1, device=device)
        return
    dist.init_process_group("nccl" if has_cuda else "gloo", timeout=_TIMEOUT)
    try:
        yield ProcessContext(rank=rank, world_size=world_size, device=device)
    finally:
        dist.destroy_process_group()


def is_under_torchrun() -> bool:
    return "WORLD_SIZE" in os.environ
