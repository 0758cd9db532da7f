"""How the runner's answers over the lean path are carried out on Kong, by its PDK (lua/gatewright/kong.lua)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from gatewright.dev.kong.exchange import Exchange
from gatewright.dev.kong.lean_host import LeanHost, ResponseState
from gatewright.dev.kong.pdk import Pdk
from gatewright.dev.lean.client import LeanError
from gatewright.dev.lean.operations import OwnAnswer, grouped, status_of
from gatewright.dev.messages import raw
from gatewright.gateways.lean.gateway_side import Answered
from gatewright.gateways.lean.replies import Op

__all__ = ["carry_out", "clear_headers", "finish", "write_back"]


def carry_out(host: LeanHost, answer: Answered, own: OwnAnswer) -> None:
    """Do what plugins want.

    Args:
        host: of the request, and of the response if there is one.
        answer: what they want.
        own: takes up what is for the client, in the request phase.

    Raises:
        LeanError: that can't be done; the request has to be refused.
        LuaError: Kong's own code would abort.
    """
    pdk, response = host.pdk, host.response
    for op, first, values in grouped(answer.operations):
        match op:
            case Op.SET_HEADER:
                pdk("kong.service.request.set_headers", ({first: values},))
            case Op.DROP_HEADER:
                pdk("kong.service.request.clear_header", (first,))
            case Op.PATH:
                path = quote(first, safe="/-._~!$&'()*+,;=:@", errors="surrogateescape")
                pdk("kong.service.request.set_path", (path,))
            case Op.QUERY:
                pdk("kong.service.request.set_raw_query", (first,))
            case Op.BODY:
                pdk("kong.service.request.set_raw_body", (raw(first),))
            case Op.SET_RESPONSE_HEADER if response is not None:
                response.headers[first] = values
            case Op.DROP_RESPONSE_HEADER if response is not None:
                response.headers.pop(first, None)
            case Op.APPEND_RESPONSE_HEADER if response is not None:
                response.headers.setdefault(first, []).extend(values)
            case Op.SET_RESPONSE_HEADER:
                pdk("kong.response.set_headers", ({first: values},))
            case Op.DROP_RESPONSE_HEADER:
                pdk("kong.response.clear_header", (first,))
            case Op.STATUS:
                own.status = status_of(first)
                if response is not None:
                    response.status = own.status
            case Op.RESPONSE_BODY:
                own.body = raw(first)
                if response is not None:
                    response.body, response.changed = own.body, True
            case Op.CTX:
                host.exchange.lean.kept = raw(first)
            case Op.CONSUMER:
                _authenticate(pdk, first)
    if answer.stop and own.status is None:
        raise LeanError("an answer for the client without a status")


def _authenticate(pdk: Pdk, name: str) -> None:
    consumer: Any = pdk("kong.client.load_consumer", (name, True))
    if not consumer:
        raise LeanError(f"there is no consumer {name}")
    pdk("kong.client.authenticate", (consumer, None))


def clear_headers(pdk: Pdk, names: Iterable[str]) -> None:
    """Take headers of the answer away."""
    for name in names:
        pdk("kong.response.clear_header", (name,))


def write_back(pdk: Pdk, given: ResponseState, response: ResponseState) -> None:
    """Let the client have the answer as it is by now.

    Args:
        pdk: the request's.
        given: as it was.
        response: as it is.

    Raises:
        Exit: the body is another one, so that Kong sends an answer of its own.
    """
    if response.changed:
        response.headers.pop("content-length", None)
        clear_headers(pdk, given.headers)
        pdk("kong.response.exit", (response.status, response.body, response.headers))
    if response.status != given.status:
        pdk("kong.response.set_status", (response.status,))
    changed = {name: values for name, values in response.headers.items() if given.headers.get(name) != values}
    if changed:
        pdk("kong.response.set_headers", (changed,))
    clear_headers(pdk, given.headers.keys() - response.headers.keys())


def finish(exchange: Exchange, decided: Iterable[Answered]) -> None:
    """Do with an answer what was decided before there was one; for the header filter.

    Raises:
        LeanError: that can't be done.
    """
    headers = exchange.response_headers
    for each in decided:
        for op, first, values in grouped(each.operations):
            match op:
                case Op.STATUS:
                    exchange.status = status_of(first)
                case Op.SET_RESPONSE_HEADER:
                    headers.set(first, values)
                case Op.DROP_RESPONSE_HEADER:
                    headers.clear(first)
                case Op.APPEND_RESPONSE_HEADER:
                    headers.set(first, [*headers.values_of(first), *values])
