"""Telling the upstream, and later plugins, who asks: in headers that no client can forge."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from gatewright import Request, SyncRequest
from gatewright.plugins._shared.keys import CONSUMER

__all__ = ["IdentityHeaders", "header_text", "leave_consumer"]


class IdentityHeaders:
    """Headers that only this plugin sets: a client's own, in any spelling, never reach the upstream."""

    __slots__ = ("_names",)

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(dict.fromkeys(name.lower() for name in names))

    def replace(self, request: Request | SyncRequest, values: Iterable[tuple[str, str]] = ()) -> None:
        """Remove what the client sent, and set these."""
        headers = request.headers
        names = self._names
        if names:
            headers.discard_alike(*names)
        for name, value in values:
            headers[name] = value


def header_text(value: Any) -> str | None:
    """A value as a header's: text as it is, the rest as JSON; `None` where it can't be one, or is nothing."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text if text.isprintable() and text == text.strip() else None


def leave_consumer(request: Request | SyncRequest, name: str) -> None:
    """Let the plugins behind this one know the consumer (the key `{consumer}`)."""
    request.ctx[CONSUMER] = name
