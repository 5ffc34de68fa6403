"""The one place that meets numba: a typed decorator for compiled kernels."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile ``function`` with numba and keep the machine code on disk for the next process."""
    decorate = numba.njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
    return cast(Function, decorate(function))
