"""Kills torchrun's agent if it hangs, as it does on a machine that has lost its network.

The agent's client of the rendezvous store waits for an answer without a limit (torch 2.15), until the kernel drops the
connection after 15 minutes. Meanwhile the agent does not notice that its processes have ended: they stay zombies.
"""

import sys
import threading
import time
from contextlib import suppress

import psutil

_PATIENCE_S = 60.0
_POLL_S = 2.0


def watch_agent(pid: int, patience_s: float = _PATIENCE_S, poll_s: float = _POLL_S) -> None:
    """Start a thread that kills the agent once one of its processes has been a zombie for ``patience_s``."""
    threading.Thread(target=_watch, args=(psutil.Process(pid), patience_s, poll_s), daemon=True).start()


def _watch(agent: psutil.Process, patience_s: float, poll_s: float) -> None:
    first_seen: dict[int, float] = {}
    with suppress(psutil.NoSuchProcess):
        while agent.is_running() and agent.status() != psutil.STATUS_ZOMBIE:
            now = time.monotonic()
            first_seen = {child: first_seen.get(child, now) for child in _zombies(agent)}
            if first_seen and now - min(first_seen.values()) > patience_s:
                print(  # noqa: T201
                    f"torchrun has not noticed for {patience_s:.0f} s that a process has ended, as can happen on a "
                    "machine without network: carkp ends torchrun too",
                    file=sys.stderr,
                    flush=True,
                )
                _kill_all(agent)
            time.sleep(poll_s)


def _zombies(agent: psutil.Process) -> list[int]:
    found = []
    for child in agent.children():
        with suppress(psutil.NoSuchProcess):
            if child.status() == psutil.STATUS_ZOMBIE:
                found.append(child.pid)
    return found


def _kill_all(agent: psutil.Process) -> None:
    for process in [*agent.children(recursive=True), agent]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
