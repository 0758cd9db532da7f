"""A request's path and query as the client sent them: what plugins see is decoded, and `/a%2Fb` may not be `/a/b`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from gatewright import Request

__all__ = ["raw_path", "raw_query", "sent_target", "target_to_pass_on"]

_UNRESERVED_PATH: Final = "/!$&'()*+,;=:@-._~"
_MOST_ARGUMENTS: Final = 100
"""APISIX tells no more."""
_ORIGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_UNSENDABLE: Final = re.compile(r"[^\x21-\x7e]")


async def sent_target(request: Request) -> str:
    """Path and query as they were sent, before anything was decoded or rewritten; empty where nobody knows."""
    # APISIX puts a decoded path into $request_uri, and what was sent into a variable of its own (init.lua).
    return await request.var("real_request_uri") or await request.var("request_uri") or ""


async def target_to_pass_on(request: Request) -> tuple[str, str]:
    """Path and query, escaped, for whom the request is passed on to.

    Byte for byte as the client sent them, as far as no plugin and no gateway has changed what they stand for.
    """
    sent = _ORIGIN.sub("", await sent_target(request), count=1)
    path, _, query = sent.partition("?")
    if not path.startswith("/") or _plain(unquote(path, errors="surrogateescape")) != _plain(request.path):
        path = raw_path(request.path)
    if not _is_same(query, request.query.multi_items()):
        query = raw_query(request.query.multi_items())
    return _sendable(path), _sendable(query)


def raw_path(path: str) -> str:
    """A path, escaped."""
    return quote(path, safe=_UNRESERVED_PATH, errors="surrogateescape")


def raw_query(items: Iterable[tuple[str, str]]) -> str:
    """The query, escaped."""
    return "&".join(
        f"{quote_plus(name, errors='surrogateescape')}={quote_plus(value, errors='surrogateescape')}"
        for name, value in items
    )


def _plain(path: str) -> list[str]:
    """A decoded path's parts as nginx tells them: without those that are empty, `.` or `..`."""
    parts: list[str] = []
    for part in path.split("/")[1:]:
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return [*parts, "/" if path.endswith(("/", "/.", "/..")) else ""]


def _is_same(query: str, items: Sequence[tuple[str, str]]) -> bool:
    """Whether a query has these arguments. Of different names APISIX tells them in any order, and a hundred in all."""
    sent = [pair for pair in parse_qsl(query, keep_blank_values=True, errors="surrogateescape") if pair[0]]
    if len(sent) > _MOST_ARGUMENTS == len(items):
        return not set(items) - set(sent)
    return sorted(sent) == sorted(pair for pair in items if pair[0])


def _sendable(text: str) -> str:
    """A text with whatever no request line can hold escaped: clients do send it, and nginx lets some of it pass."""
    return _UNSENDABLE.sub(lambda found: quote(found[0], errors="surrogateescape"), text)
