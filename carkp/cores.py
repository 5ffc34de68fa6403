"""How many cores this process may use."""

import os


def num_usable_cores() -> int:
    """Return the number of cores that the system gives to this process, or all of the machine if it does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
