"""Protection: only pages of this server may send requests.

A stranger's page can map its own name to 127.0.0.1 (DNS rebinding) and read from this server; but the Host header then
has the stranger's name. It can also send a form to this server; the Origin header shows that.
"""

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_NAMES = ("127.0.0.1", "localhost")
_HOST = re.compile(rf"({'|'.join(map(re.escape, LOCAL_NAMES))})(:\d{{1,5}})?", re.IGNORECASE)
_POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; form-action 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_local(headers: Headers) -> bool:
    """Return whether the request was sent to a local name, and not by a page of another server."""
    host = headers.get("host", "")
    if not _HOST.fullmatch(host):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


class LocalOnly:
    """Answers requests that are not :func:`is_local` with 403, and lets no page embed the answers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                fixed = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *fixed]
            await send(message)

        if not is_local(Headers(scope=scope)):
            sentence = f"This server only answers requests from its own page to {' or '.join(LOCAL_NAMES)}."
            await JSONResponse({"error": sentence}, status_code=403)(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)
