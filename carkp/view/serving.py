"""The server on a local port, and the browser that opens its page."""

import socket
import sys
import webbrowser

import uvicorn
from starlette.applications import Starlette

HOST = "127.0.0.1"
NUM_WAITING = 64
_SECONDS_TO_END = 2


class PortError(OSError):
    """A port that cannot be used; the message says what to do."""


def listen(port: int) -> socket.socket:
    """Open a socket that only this machine can reach; port 0 takes a free one.

    Raises:
        PortError: another program uses the port, or this process may not use it.
    """
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":  # on Windows it would let two programs use the port
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((HOST, port))
        server.listen(NUM_WAITING)
    except (OSError, OverflowError) as error:
        server.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PortError(f"port {port} of {HOST} cannot be used ({reason}): give another one with --port") from error
    return server


def address(server: socket.socket) -> str:
    """Return the address for a browser."""
    return f"http://{HOST}:{server.getsockname()[1]}/"


def serve(app: Starlette, server: socket.socket, is_browser_opened: bool) -> None:
    """Answer until Ctrl-C or SIGTERM. The browser may connect first: the socket already accepts connections."""
    if is_browser_opened:
        webbrowser.open(address(server))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_SECONDS_TO_END, lifespan="on")
    uvicorn.Server(config).run(sockets=[server])
