"""Names of processes: a run or a trial keeps that of its process, so that others can tell whether it is alive."""

import socket

import psutil

PROCESS_TAG = "carkp.process"

_START_TOLERANCE_S = 1.0


def process_name(pid: int) -> str:
    """Host, process id and start: unlike the id alone it never names another process later."""
    return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time():.0f}"


def is_alive(name: str) -> bool:
    """Whether the process is there; of one on another machine this cannot be known, and it counts as alive."""
    host, pid, start = name.split()
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(start)) <= _START_TOLERANCE_S
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
