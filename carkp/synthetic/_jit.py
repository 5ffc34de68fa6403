"""Typed decorators for kernels compiled with numba; the only place that uses numba."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def _sources_stamp() -> tuple[float, int]:
    """Return the modification time of the newest file in the packages with kernels, and the size of all files."""
    packages = (Path(__file__).parent, Path(__file__).parents[1] / "rendered")
    stats = [path.stat() for package in packages for path in sorted(package.glob("*.py"))]
    return max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats)


_STAMP = _sources_stamp()


def _compile(function: Function, is_inlined: bool) -> Function:
    decorate = numba.njit(cache=True, fastmath=True, error_model="numpy", nogil=True, forceinline=is_inlined)
    dispatcher: Any = decorate(function)
    # numba compares a cached kernel only with its own source file, but kernels here call kernels of other files.
    dispatcher._cache._cache_file._source_stamp = _STAMP
    return cast(Function, dispatcher)


def compiled(function: Function) -> Function:
    """Compile ``function`` with numba and keep the machine code on disk for the next process."""
    return _compile(function, is_inlined=False)


def inlined(function: Function) -> Function:
    """Compile ``function`` inline into its callers: passing a tuple of fifty numbers would cost more than its work."""
    return _compile(function, is_inlined=True)
