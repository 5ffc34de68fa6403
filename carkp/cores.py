"""How many cores this process may use."""

import os


def num_usable_cores() -> int:
    """Those that the system gives to this process; where it does not tell, all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
