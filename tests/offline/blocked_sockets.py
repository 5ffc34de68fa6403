"""Functions of sockets that reach this machine alone.

Who tries is written to the file that ``CARKP_TEST_ATTEMPTS`` names, so that an attempt that is swallowed shows too.
"""

import os
import socket
import traceback
from pathlib import Path
from typing import Any, NoReturn

LOOPBACK = ("127.0.0.1", "::1", "localhost", "")

_connect, _connect_ex, _find = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _host_of(address: Any) -> str:
    """Empty for sockets of this machine that have no host."""
    return str(address[0]) if isinstance(address, tuple) else ""


def _refuse(host: str) -> NoReturn:
    if name := os.environ.get("CARKP_TEST_ATTEMPTS"):
        with Path(name).open("a") as file:
            file.write(f"{host}\n{''.join(traceback.format_stack(limit=12))}\n")
    raise OSError(101, f"Network is unreachable: {host}")


def connect(self: socket.socket, address: Any) -> None:
    if _host_of(address) not in LOOPBACK:
        _refuse(_host_of(address))
    _connect(self, address)


def connect_ex(self: socket.socket, address: Any) -> int:
    if _host_of(address) not in LOOPBACK:
        _refuse(_host_of(address))
    return _connect_ex(self, address)


def getaddrinfo(host: Any, *words: Any, **names: Any) -> Any:
    text = host.decode() if isinstance(host, bytes) else str(host or "")
    if text not in (*LOOPBACK, socket.gethostname()):
        _refuse(text)
    return _find(host, *words, **names)


def block() -> None:
    """From here on this process reaches nobody but this machine."""
    socket.socket.connect = connect  # type: ignore[method-assign,assignment]
    socket.socket.connect_ex = connect_ex  # type: ignore[method-assign]
    socket.getaddrinfo = getaddrinfo
