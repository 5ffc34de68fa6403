"""The server on a port of this machine, and the browser that looks at it."""

import socket
import sys
import webbrowser

import uvicorn
from starlette.applications import Starlette

HOST = "127.0.0.1"
NUM_WAITING = 64
_SECONDS_TO_END = 2


class PortError(OSError):
    """A port that cannot be taken; the message says what to do."""


def listen(port: int) -> socket.socket:
    """A socket that this machine alone can reach; 0 takes a free port.

    Raises:
        PortError: another program has it, or it may not be taken.
    """
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":  # there it would let two programs have the port
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((HOST, port))
        server.listen(NUM_WAITING)
    except (OSError, OverflowError) as error:
        server.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PortError(f"port {port} of {HOST} cannot be taken ({reason}): give another with --port") from error
    return server


def address(server: socket.socket) -> str:
    """For a browser."""
    return f"http://{HOST}:{server.getsockname()[1]}/"


def serve(app: Starlette, server: socket.socket, is_browser_opened: bool) -> None:
    """Answer until Ctrl-C or SIGTERM. The browser may come first: the socket waits for the server."""
    if is_browser_opened:
        webbrowser.open(address(server))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_SECONDS_TO_END, lifespan="on")
    uvicorn.Server(config).run(sockets=[server])
