"""How the runner's answers over the lean path are carried out (lua/gatewright/apply.lua and apisix.lua)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gatewright.dev.apisix.exchange import Exchange, LuaError
from gatewright.dev.apisix.lean_host import LeanHost, path_and_query
from gatewright.dev.lean.client import LeanError
from gatewright.dev.lean.operations import OwnAnswer, grouped, status_of
from gatewright.dev.messages import Answer, raw
from gatewright.dev.nginx import escape, header_name, header_value, set_header, valid_host
from gatewright.gateways.lean.gateway_side import Answered
from gatewright.gateways.lean.replies import Op

__all__ = ["carry_out", "finish"]


async def carry_out(
    host: LeanHost, answer: Answered, consumers: Mapping[str, Mapping[str, Any]], own: OwnAnswer
) -> None:
    """Do what plugins want.

    Args:
        host: of the request, and of the response if there is one.
        answer: what they want.
        consumers: those that there are, by name.
        own: takes up what is for the client, in the request phase.

    Raises:
        LeanError: that can't be done; the request has to be refused.
        LuaError: APISIX's own code would abort.
    """
    exchange, response = host.exchange, host.response
    for op, first, values in grouped(answer.operations):
        match op:
            case Op.SET_HEADER:
                _set_header(exchange, first, values)
            case Op.DROP_HEADER:
                exchange.set_header(first, None)
            case Op.PATH:
                query = path_and_query(exchange)[1]
                exchange.upstream_uri = escape(first) + (f"?{query}" if query else "")
            case Op.QUERY:
                if exchange.upstream_uri:
                    exchange.upstream_uri = exchange.upstream_uri.partition("?")[0] + (f"?{first}" if first else "")
                exchange.set_args_text(first)
            case Op.BODY:
                await _replace_body(exchange, raw(first))
            case Op.SET_RESPONSE_HEADER | Op.DROP_RESPONSE_HEADER if response is not None:
                if values:
                    response.headers[first] = values
                else:
                    response.headers.pop(first, None)
            case Op.SET_RESPONSE_HEADER:
                exchange.add_response_headers([(first, value) for value in values], frozenset())
            case Op.DROP_RESPONSE_HEADER:
                exchange.add_response_headers([(first, None)], frozenset())
            case Op.STATUS:
                status = status_of(first)
                if response is not None:
                    response.status = status
                own.status = status
            case Op.RESPONSE_BODY:
                if response is not None:
                    response.body, response.changed = raw(first), True
                own.body = raw(first)
            case Op.CTX:
                exchange.lean.kept = raw(first)
            case Op.CONSUMER:
                if first not in consumers:
                    raise LeanError(f"there is no consumer {first}")
                exchange.consumer_name = first
    if answer.stop and own.status is None:
        raise LeanError("an answer for the client without a status")


def _set_header(exchange: Exchange, name: str, values: list[str]) -> None:
    if name == "host" and not valid_host(re.sub(r"[\x01-\x20\x7f]", "_", values[0])):
        raise LuaError(f"a host of {values[0]!r}")
    exchange.set_header(name, values[0])
    for value in values[1:]:
        exchange.add_header(name, value)
    if name == "host":
        exchange.upstream_host = values[0]


async def _replace_body(exchange: Exchange, body: bytes) -> None:
    if exchange.request.framing == "h2" and not exchange.behaviour.reads_unsized_bodies:
        raise LeanError("under HTTP/2 a body without a content-length can't be replaced")
    await exchange.read_body()
    exchange.body, exchange.body_read, exchange.body_changed = body, True, True
    exchange.set_header("content-length", str(len(body)))
    exchange.sent_length = None


def finish(answer: Answer, decided: Iterable[Answered]) -> Answer:
    """Do with an answer what was decided before there was one; for the header filter.

    Raises:
        LeanError: that can't be done.
    """
    for each in decided:
        for op, first, values in grouped(each.operations):
            match op:
                case Op.STATUS:
                    answer.status, answer.status_line = status_of(first), None
                case Op.SET_RESPONSE_HEADER | Op.DROP_RESPONSE_HEADER:
                    answer.headers = set_header(
                        answer.headers, header_name(first), [header_value(value) for value in values]
                    )
                case Op.APPEND_RESPONSE_HEADER:
                    answer.headers = [*answer.headers, (header_name(first), header_value(values[0]))]
    return answer
