"""Templates of keys: whom something is counted for, or kept for: `{client_ip}`, `{consumer}:{route}`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import quote

from gatewright import Request
from gatewright.plugins._shared.addresses import ClientAddress

__all__ = ["CONSUMER", "KEY_HELP", "KeyTemplate"]

CONSUMER: Final = "consumer"
"""Under this name plugins that find out who asks leave that in `request.ctx`, for those behind them."""

KEY_HELP: Final = (
    "`{client_ip}`, `{consumer}`, `{route}`, `{method}`, `{path}`, `{header:NAME}`, `{query:NAME}`, `{cookie:NAME}`, "
    "`{var:NAME}` (one of the gateway's variables)"
)
_PART: Final = re.compile(r"\{(\w+)(?::([^{}]+))?\}")
_BARE: Final = frozenset(("client_ip", "consumer", "route", "method", "path"))
_NAMED: Final = frozenset(("header", "query", "cookie", "var"))
_LONGEST: Final = 100

Piece = Callable[[Request], "str | Awaitable[str]"]


class KeyTemplate:
    """A template, parsed once."""

    def __init__(self, text: str, *, client: ClientAddress | None = None, ipv6_prefix: int = 64) -> None:
        """Parse a template.

        Args:
            text: text with parts in braces (`KEY_HELP`).
            client: tells the client's address.
            ipv6_prefix: bits of an IPv6 client's address that count.

        Raises:
            ValueError: a part is unknown, or the braces don't match.
        """
        self.text = text
        self._client = client or ClientAddress()
        self._ipv6_prefix = ipv6_prefix
        self._pieces: list[str | Piece] = []
        at = 0
        for found in _PART.finditer(text):
            self._add_text(text[at : found.start()])
            self._pieces.append(self._piece(found[1], found[2]))
            at = found.end()
        self._add_text(text[at:])
        self._only = self._pieces[0] if len(self._pieces) == 1 else None

    def _add_text(self, text: str) -> None:
        if "{" in text or "}" in text:
            raise ValueError(f"a key's parts are {KEY_HELP}; this is none: {text!r}")
        if text:
            self._pieces.append(text)

    def _piece(self, kind: str, name: str | None) -> Piece:
        if kind not in (_NAMED if name else _BARE):
            raise ValueError(f"a key's parts are {KEY_HELP}; not {kind + (f':{name}' if name else '')!r}")
        if kind == "client_ip":
            client, prefix = self._client, self._ipv6_prefix
            return lambda request: client.key_of(request, prefix)
        if kind == "consumer":
            return _consumer
        if name is None:
            return {"route": _route, "method": _method, "path": _path}[kind]
        given: dict[str, Callable[[str], Piece]] = {"header": _header, "query": _query, "cookie": _cookie, "var": _var}
        return given[kind](name)

    async def render(self, request: Request) -> str:
        """The key of a request. What the client alone decides is in it as a digest: it may be long, or a secret.

        What a request doesn't have is empty: all requests without it have one key in common.
        """
        only = self._only
        if only is not None and not isinstance(only, str):
            value = only(request)
            return value if isinstance(value, str) else await value
        out = []
        for piece in self._pieces:
            value = piece if isinstance(piece, str) else piece(request)
            out.append(value if isinstance(value, str) else await value)
        return "".join(out)


def _digest(value: str | None) -> str:
    if value is None:
        return ""
    return blake2b(value.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


def _plain(value: str) -> str:
    quoted = quote(value, safe="/#&", errors="surrogateescape")
    return quoted if len(quoted) <= _LONGEST else _digest(value)


def _route(request: Request) -> str:
    return _plain(request.route)


def _method(request: Request) -> str:
    return request.method


def _path(request: Request) -> str:
    return _plain(request.path)


async def _consumer(request: Request) -> str:
    known: Any = request.ctx.get(CONSUMER)
    if not isinstance(known, str):
        known = await request.var("consumer_name")
    return _plain(known) if known else ""


def _header(name: str) -> Piece:
    return lambda request: _digest(request.headers.get(name))


def _query(name: str) -> Piece:
    return lambda request: _digest(request.query.get(name))


def _cookie(name: str) -> Piece:
    def find(request: Request) -> str:
        for line in request.headers.get_all("cookie"):
            for part in line.split(";"):
                key, equals, value = part.partition("=")
                if equals and key.strip() == name:
                    return _digest(value.strip())
        return ""

    return find


def _var(name: str) -> Piece:
    async def ask(request: Request) -> str:
        return _digest(await request.var(name))

    return ask
