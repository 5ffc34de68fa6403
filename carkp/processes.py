"""Names of processes. Runs and trials store the name of their process, so that others can see whether it is alive."""

import socket

import psutil

PROCESS_TAG = "carkp.process"

_START_TOLERANCE_S = 1.0


def process_name(pid: int) -> str:
    """Return host, process id and start time. Unlike the id alone, the name never means another process later."""
    return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time():.0f}"


def is_alive(name: str) -> bool:
    """Return whether the process exists. A process on another machine cannot be checked and counts as alive."""
    host, pid, start = name.split()
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(pid))
        is_same = abs(process.create_time() - float(start)) <= _START_TOLERANCE_S
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
