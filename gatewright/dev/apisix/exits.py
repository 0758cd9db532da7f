"""Ending a request from Lua: `core.response.exit`, which prints what there is, or leaves the page to nginx."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.messages import Answer, raw

__all__ = ["CLOSES", "closing", "exited", "in_own_words", "printed", "settle"]

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
    answer = Answer(
        status, exchange.response_headers, data, page=data is None and (status >= 300 or status == 204), framing="stop"
    )
    printed(exchange, answer)
    if not answer.page and _makes_way(exchange, status):
        exchange.make_way()
    return closing(exchange, answer) if status in CLOSES else answer


def printed(exchange: Exchange, answer: Answer) -> None:
    """Exiting with a status below 200, or with 204, ends nothing: what is printed isn't the whole, but for HEAD."""
    answer.mute = answer.status < 200 and not answer.body
    ends = answer.status >= 200 and answer.status != 204
    answer.unended = not ends and bool(answer.body) and exchange.method != "HEAD"


def closing(exchange: Exchange, answer: Answer) -> Answer:
    """An answer after which nginx closes the connection; what fills a buffer, or is for HEAD, has gone out by then."""
    answer.cut = True
    if not answer.body:
        return Answer(0, began=answer.status)
    answer.unended = exchange.method != "HEAD"
    return answer


def in_own_words(answer: Answer, plugin: PluginConf) -> Answer:
    """A refusal says what the plugin's configuration wants it to say."""
    words = plugin.meta.get("error_response")
    if words is None or answer.status < 400:
        return answer
    text = words if isinstance(words, str) else json.dumps(words, separators=(",", ":"), ensure_ascii=False) + "\n"
    answer.body, answer.page = raw(text), False
    return answer


def settle(exchange: Exchange, answer: Answer) -> None:
    """What nginx does with a body that nobody has read once an answer is printed that can't have one.

    It forgets to do away with it, and takes it for the next request. Later ones remember when the answer is out.
    """
    request, behaviour = exchange.request, exchange.behaviour
    lua_s_own = behaviour.since(17) and answer.status and not answer.page
    if lua_s_own and not 100 <= answer.status <= 999 and not answer.mute:
        answer.status = 200  # it is never set
    left = exchange.body_is_left
    is_printed = answer.framing == "stop" and answer.body
    forgets = is_printed and answer.status in (204, 304)
    if behaviour.since(17):
        late = left and is_printed and (forgets or exchange.method == "HEAD")
        answer.goes_on = bool(late and exchange.waits_to_go_on)
        left, forgets = left and not late, False
    if left and (forgets or (answer.framing == "stop" and (answer.mute or answer.unended or answer.status < 200))):
        request.give_back(request.wire or request.body)


def _makes_way(exchange: Exchange, status: int) -> bool:
    """Whether nginx gets to printing, and with it to what is in the way."""
    if status in CLOSES and exchange.method != "HEAD":
        return False
    return status >= 200 and status not in (204, 304)
