"""Keeps freed memory in the process, so that large activations cause no page faults in every training step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""


def keep_freed_memory() -> bool:
    """Tell glibc to serve every allocation from the heap and never to return memory to the system.

    By default glibc maps each block over 32 MiB when it is allocated and unmaps it when it is freed. So every training
    step on a CPU causes page faults. The call affects the whole process: call it once, before training, in the process
    that trains. Results do not change.

    Returns:
        Whether it took effect; False if the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
