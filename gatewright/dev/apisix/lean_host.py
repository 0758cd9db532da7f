"""What the lean path's calls are told of a request (lua/gatewright/facts.lua and apisix.lua)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.variables import variable
from gatewright.dev.messages import Answer, Headers, raw
from gatewright.dev.nginx import unescape
from gatewright.dev.upstream import UpstreamAnswer
from gatewright.gateways.lean.frames import CHUNK

__all__ = ["HOP_BY_HOP", "BrokenBodyError", "LeanHost", "ResponseState", "ended_facts", "headers_of"]

log = logging.getLogger("gatewright.dev")

HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)


class BrokenBodyError(Exception):
    """The client's body is read, and is none: nginx ends the request with its 400."""


@dataclass(slots=True)
class ResponseState:
    """An upstream's answer that is still to be sent, with names of headers in lower case.

    Attributes:
        got: where its body is, until that is read.
        changed: the body is not the upstream's.
    """

    status: int
    headers: dict[str, list[str]] = field(default_factory=dict)
    got: UpstreamAnswer | None = None
    body: bytes | None = None
    changed: bool = False

    async def read(self) -> bytes | None:
        """The whole body; `None` if it broke off."""
        if self.body is None and self.got is not None:
            rest, self.got.rest = self.got.rest, None
            if rest is not None:
                await rest.read()
                self.got.parts = rest.parts
                if rest.failed:
                    return None
            self.body = b"".join(self.got.parts)
        return self.body


class LeanHost:
    """A request, and perhaps its answer, as calls are told of it."""

    def __init__(self, exchange: Exchange, response: ResponseState | None = None) -> None:
        self.exchange = exchange
        self.response = response

    # --- what is told

    async def bring(self, name: str) -> bytes | None:
        """What a call brings."""
        if name == "body":
            length = next(iter(self.exchange.table.get("content-length", ())), "")
            return await self._body() if length.isdigit() and int(length) <= CHUNK else None
        return None if name == "rbody" else await self.tell(name)

    async def tell(self, name: str) -> bytes | None:
        """What was asked for."""
        exchange = self.exchange
        kind, _, rest = name.partition(":")
        match kind:
            case "method":
                return raw(exchange.method)
            case "path":
                return raw(path_and_query(exchange)[0])
            case "query":
                return raw(path_and_query(exchange)[1])
            case "ip":
                return raw(exchange.client_ip)
            case "ctx":
                return exchange.lean.kept
            case "consumer":
                return None if exchange.consumer_name is None else raw(exchange.consumer_name)
            case "route":
                return raw(exchange.route_facts.get("route_id", ""))
            case "headers":
                return _text_of(self._request_headers())
            case "h":
                return _joined(self._request_headers().get(rest))
            case "v":
                return await self._variable(rest)
            case "body":
                return await self._body()
            case "early":
                return b""
        return await self._of_response(kind, rest)

    async def _of_response(self, kind: str, name: str) -> bytes | None:
        response = self.response
        if response is None:
            return None
        match kind:
            case "status":
                return str(response.status).encode()
            case "rheaders":
                return _text_of(response.headers)
            case "r":
                return _joined(response.headers.get(name))
            case "rbody":
                return await response.read()
        return None

    def _request_headers(self) -> dict[str, list[str]]:
        headers: dict[str, list[str]] = {}
        for name, value in self.exchange.headers:
            headers.setdefault(name.lower(), []).append(value)
        return headers

    async def _variable(self, name: str) -> bytes | None:
        state = self.exchange.lean
        told = state.ended.get(name)
        if told is not None:
            return told.encode()
        if name.startswith("post_arg_"):
            await self._body()
        return variable(self.exchange, name)

    async def _body(self) -> bytes | None:
        exchange = self.exchange
        if exchange.request.framing == "h2" and not exchange.behaviour.reads_unsized_bodies:
            if exchange.method not in ("GET", "HEAD"):
                log.error("a body under HTTP/2 without a content-length can't be read")
                return None
            exchange.body, exchange.body_read = b"", True
            return b""
        await exchange.read_body()
        exchange.body_read = True
        if exchange.request.body_is_broken:
            raise BrokenBodyError
        return exchange.body


def path_and_query(exchange: Exchange) -> tuple[str, str]:
    """What the upstream will see, as other plugins have left it; the path decoded."""
    if not exchange.upstream_uri:
        return exchange.uri, exchange.args_text
    path, question, query = exchange.upstream_uri.partition("?")
    return unescape(path), query if question else exchange.args_text


def _text_of(headers: Mapping[str, list[str]]) -> bytes:
    return raw("\n".join(f"{name}:{value}" for name, values in headers.items() for value in values))


def _joined(values: list[str] | None) -> bytes | None:
    return None if values is None else raw("\n".join(values))


def ended_facts(began: float, answer: Answer, exchange: Exchange) -> dict[str, str]:
    """Variables that are known when a request has ended."""
    facts = {"request_time": f"{perf_counter() - began:.3f}", "bytes_sent": str(len(answer.body or b""))}
    return {**facts, **exchange.upstream_facts}


def headers_of(headers: Headers) -> dict[str, list[str]]:
    """Headers by their names in lower case, without those that belong to one connection."""
    table: dict[str, list[str]] = {}
    for name, value in headers:
        if name.lower() not in HOP_BY_HOP:
            table.setdefault(name.lower(), []).append(value)
    return table
