"""Ending a request from Lua: `core.response.exit`, which prints what there is, or leaves the page to nginx."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.messages import Answer, raw

__all__ = ["CLOSES", "exited"]

CLOSES: Final = frozenset((408, 444, 499))
"""Statuses with which nginx closes a connection without a word, if Lua exits with one and has printed nothing."""


def exited(exchange: Exchange, status: int, body: str | bytes | Mapping[str, Any] | None = None) -> Answer:
    """An answer of a plugin's, beside the headers that are set.

    Args:
        exchange: the request.
        status: its status.
        body: text, or what is printed as JSON; nothing is printed for `None`.
    """
    if isinstance(body, Mapping):
        body = json.dumps(body, separators=(",", ":"), ensure_ascii=False) + "\n"
    data = raw(body) if isinstance(body, str) else body
    answer = Answer(status, exchange.response_headers, data, page=status >= 300 and data is None, framing="stop")
    if not answer.page:
        exchange.make_way()
    request = exchange.request
    left = request.upload is None and not exchange.body_read and exchange.method != "HEAD"
    if data and status in (204, 304) and left and not exchange.behaviour.since(17):
        request.give_back(request.body)  # nginx forgets to do away with it
    return Answer(0) if status in CLOSES else answer
