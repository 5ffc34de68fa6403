"""Training in one or several processes, with torch's process group."""

import datetime
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn

_TIMEOUT = datetime.timedelta(hours=12)
"""It is long because the other ranks wait while rank 0 prepares a data set. ``limit_waiting`` shortens it for
training."""

_OF_CONNECTION = re.compile(
    r"gloo/|NCCL|Connection (closed|reset)|pair closure|Timed out waiting|recvValue failed|Broken pipe"
)
_MAX_REASON = 200

_PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Environment variables by which torchrun tells a process its rank, its local rank and the number of processes."""

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessContext:
    """The rank of this process, the number of processes, and the device that this process computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def limit_waiting(self, seconds: float) -> None:
        """Set a timeout: from now on a rank that waits longer for another one fails with an error."""
        if self.world_size > 1:
            dist.set_timeout(datetime.timedelta(seconds=seconds))

    @contextmanager
    def naming_lost_peers(self) -> Iterator[None]:
        """Turn connection errors inside the ``with`` block into a clear ``ProcessError``.

        Raises:
            ProcessError: another process has died, or the network between the processes has failed.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _is_of_connection(error):
                raise
            reason = " ".join(str(error).split())[:_MAX_REASON]
            raise ProcessError(
                f"process {self.rank} of {self.world_size} has lost the connection to the others: one of them died, "
                f"or the network failed ({reason}). Continue from the checkpoint of the last complete epoch: "
                "resume=latest, with the same number of processes; train.max_restarts does this automatically"
            ) from error

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def broadcast(self, value: T) -> T:
        """Return rank 0's ``value`` on every rank."""
        if self.world_size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[no-any-return]

    def synchronise_buffers(self, net: nn.Module) -> None:
        """Copy rank 0's buffers to every rank: without synchronised batch norm each rank has its own statistics."""
        if self.world_size > 1:
            for buffer in net.buffers():
                dist.broadcast(buffer, src=0)

    def gather(self, value: T) -> list[T]:
        """Return the ``value`` of every rank, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value)
        return box


def cpu_context() -> ProcessContext:
    """Return the context of a single process on the CPU, even if there are other devices.

    It serves computations that run on the CPU only, for example in integers.
    """
    return ProcessContext(rank=0, world_size=1, device=torch.device("cpu"))


def training_device(local_rank: int = 0) -> torch.device:
    """Return the device that a process trains on: its own CUDA device, or the CPU if there is none."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


class ProcessError(Exception):
    """A process group cannot be formed or has failed; the message says what to do."""


@contextmanager
def process_context() -> Iterator[ProcessContext]:
    """Join the process group of torchrun, or run as a single process; leave the group at the end.

    Raises:
        ProcessError: the environment describes a group of another launcher, or a process of the group or the network
            has failed.
    """
    rank, local_rank, world_size = _place()
    device = training_device(local_rank)
    has_cuda = device.type == "cuda"
    if has_cuda:
        torch.cuda.set_device(device)
    if world_size == 1:
        yield ProcessContext(rank=0, world_size=1, device=device)
        return
    context = ProcessContext(rank=rank, world_size=world_size, device=device)
    try:
        with context.naming_lost_peers():
            dist.init_process_group("nccl" if has_cuda else "gloo", timeout=_TIMEOUT)
        yield context
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_of_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or bool(_OF_CONNECTION.search(str(error)))


def is_under_torchrun() -> bool:
    """Return whether torchrun started this process; WORLD_SIZE alone may come from a scheduler or a container."""
    return dist.is_torchelastic_launched() and all(name in os.environ for name in _PLACE)


def require_no_other_launcher() -> None:
    """Refuse to train as a single process if the environment describes a process group of another launcher.

    Raises:
        ProcessError: the environment has the variables of such a group, maybe left over from an earlier one.
    """
    world_size = os.environ.get("WORLD_SIZE", "1")
    is_group = world_size.isdecimal() and int(world_size) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ
    if is_group and not is_under_torchrun():
        raise ProcessError(
            f"WORLD_SIZE={world_size}, RANK={os.environ['RANK']} and MASTER_ADDR={os.environ['MASTER_ADDR']} "
            "announce a group of processes, but torchrun did not start this process. Start the group with torchrun "
            "(torchrun "
            "--nnodes=… --nproc-per-node=… -m carkp.stages.float …), or unset WORLD_SIZE to train alone"
        )


def _place() -> tuple[int, int, int]:
    """Return the rank, the rank on this machine, and the number of processes."""
    if is_under_torchrun():
        rank, local_rank, world_size = (int(os.environ[name]) for name in _PLACE)
        return rank, local_rank, world_size
    require_no_other_launcher()
    return 0, 0, 1
