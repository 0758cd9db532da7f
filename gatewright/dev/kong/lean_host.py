"""What the lean path's calls are told of a request on Kong (lua/gatewright/facts.lua and kong.lua)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from gatewright.dev.kong.answering import HOP_BY_HOP
from gatewright.dev.kong.exchange import Exchange
from gatewright.dev.kong.pdk import Pdk
from gatewright.dev.messages import raw
from gatewright.gateways.lean.frames import CHUNK

__all__ = ["LeanHost", "ResponseState", "response_of"]


@dataclass(slots=True)
class ResponseState:
    """The service's answer, which Kong keeps; names of headers in lower case.

    Attributes:
        changed: the body is not the service's.
    """

    status: int
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    changed: bool = False


def response_of(exchange: Exchange) -> ResponseState:
    """The answer as it is now."""
    headers: dict[str, list[str]] = {}
    for name, value in exchange.response_headers.entries:
        if name.lower() not in HOP_BY_HOP:
            headers.setdefault(name.lower(), []).append(value)
    got = exchange.service_answer
    return ResponseState(exchange.status, headers, got.body if got is not None else b"")


class LeanHost:
    """A request, and perhaps its answer, as calls are told of it."""

    def __init__(self, pdk: Pdk, response: ResponseState | None = None) -> None:
        self.pdk = pdk
        self.exchange = pdk.exchange
        self.response = response

    async def bring(self, name: str) -> bytes | None:
        """What a call brings."""
        if name == "body":
            length = self.exchange.headers.get("content-length") or ""
            return self.exchange.body if length.isdigit() and int(length) <= CHUNK else None
        return None if name == "rbody" else await self.tell(name)

    async def tell(self, name: str) -> bytes | None:
        """What was asked for."""
        exchange = self.exchange
        kind, _, rest = name.partition(":")
        match kind:
            case "method":
                return raw(exchange.method)
            case "path":
                return raw(exchange.uri)
            case "query":
                return raw(exchange.query)
            case "ip":
                return raw(self.pdk.forwarded("x-real-ip") or exchange.request.client_ip)
            case "ctx":
                return exchange.lean.kept
            case "consumer":
                consumer = exchange.consumer or {}
                called = consumer.get("username") or consumer.get("custom_id") or consumer.get("id")
                return raw(called) if called else None
            case "route":
                route = exchange.match.route if exchange.match else {}
                return raw(route.get("name") or route["id"]) if route else None
            case "headers":
                return _text_of([(name.lower(), value) for name, value in exchange.headers.entries])
            case "h":
                return _joined(exchange.headers.values_of(rest))
            case "v":
                return self._variable(rest)
            case "body":
                return exchange.body
            case "early":
                return b""
        return self._of_response(kind, rest)

    def _of_response(self, kind: str, name: str) -> bytes | None:
        response = self.response
        if response is None:
            return None
        match kind:
            case "status":
                return str(response.status).encode()
            case "rheaders":
                return _text_of([(name, value) for name, values in response.headers.items() for value in values])
            case "r":
                return _joined(response.headers.get(name, []))
            case "rbody":
                return response.body
        return None

    def _variable(self, name: str) -> bytes | None:
        exchange = self.exchange
        if exchange.later:
            ended = {"request_time": f"{time.time() - exchange.began:.3f}", "bytes_sent": str(exchange.body_sent)}
            got = exchange.service_answer
            if got is not None:
                ended["upstream_status"] = str(got.status)
                ended["upstream_response_time"] = f"{exchange.waited_ms / 1000:.3f}"
            if name in ended:
                return ended[name].encode()
        value = exchange.variable(name)
        return None if value is None else raw(value)


def _text_of(entries: list[tuple[str, str]]) -> bytes:
    return raw("\n".join(f"{name}:{value}" for name, value in entries))


def _joined(values: list[str]) -> bytes | None:
    return raw("\n".join(values)) if values else None
