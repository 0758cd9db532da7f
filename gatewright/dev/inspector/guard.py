"""Who may ask the inspector: this machine's browser, on a page of the inspector's own.

The page shows what a developer's requests hold, and can send requests. A page of somebody else's must not reach it:
neither by a name of its own that it lets lead to 127.0.0.1 (so the Host has to be one that only ever means this
machine), nor by sending a form or a script's request here (so Origin and Sec-Fetch-Site have to be ours, and what does
anything needs a header that no form can send).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

__all__ = ["HEADER", "guarded"]

HEADER: Final = "X-Gatewright-Inspector"
"""What requests that do something must have."""
_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Handling = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded(port: Callable[[], int]) -> Middleware:
    """A middleware that refuses what comes from elsewhere.

    Args:
        port: the port that is listened on.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handling) -> web.StreamResponse:
        hosts = {f"{name}:{port()}" for name in _NAMES}
        if request.headers.get("Host", "").lower() not in hosts:
            return _refusal(
                "this Host is not the inspector's: open it at the address that `gatewright dev` has printed"
            )
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower().removeprefix("http://") not in hosts:
            return _refusal("a page of another origin has no business here")
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return _refusal("a page of another site has no business here")
        if request.method not in ("GET", "HEAD") and request.headers.get(HEADER) is None:
            return _refusal(f"requests that do something need the header {HEADER}")
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    return guard


def _refusal(why: str) -> web.Response:
    return web.Response(status=403, text=why + "\n", headers=_HEADERS)
