"""Asking the service: where it is, what it's sent, and what its answer is to the client."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from gatewright.dev.kong.answering import HOP_BY_HOP, NAME, failure
from gatewright.dev.kong.exchange import BufferedAnswer, Exchange, HeaderList
from gatewright.dev.kong.pdk import Pdk
from gatewright.dev.messages import Headers
from gatewright.dev.upstream import Sender, UpstreamAnswer, UpstreamError

__all__ = ["Proxy"]

log = logging.getLogger("gatewright.dev")

_NOT_FORWARDED: Final = HOP_BY_HOP | {
    "host", "content-length", "expect", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-proto",
    "x-forwarded-host", "x-forwarded-port", "x-forwarded-path", "x-forwarded-prefix", "x-kong-request-id", "proxy",
}  # fmt: skip


class Proxy:
    """The side towards services."""

    def __init__(self, send: Sender, default: tuple[str, int] | None) -> None:
        """Make one.

        Args:
            send: sends requests.
            default: host and port that stand in for every service's.
        """
        self._send = send
        self._default = default

    async def ask(self, pdk: Pdk, number: int) -> None:
        """Ask the request's service, and put its answer where the response phase finds it.

        Args:
            pdk: the request's.
            number: which request it is, to take an upstream's targets in turn.

        Raises:
            Exit: the service can't be reached.
        """
        exchange = pdk.exchange
        service = (exchange.match.service if exchange.match else None) or {}
        host, port = self._address(pdk, service, number)
        headers = _forwarded(pdk, service)
        query = f"?{exchange.query}" if exchange.query or exchange.request.target.endswith("?") else ""
        limits = {**service, **exchange.balancer}
        tries = 1 + (limits.get("retries", 5) if exchange.method not in ("POST", "LOCK", "PATCH") else 0)
        began = time.monotonic()
        for attempt in range(1, tries + 1):
            try:
                got = await self._send(
                    host, port, tls=exchange.upstream_scheme == "https", method=exchange.method,
                    target=exchange.upstream_path + query, headers=headers, body=exchange.body,
                    timeout=limits.get("read_timeout", 60000) / 1000,
                    verify=bool(limits.get("tls_verify") if exchange.tls_verify is None else exchange.tls_verify),
                )  # fmt: skip
                break
            except UpstreamError as error:
                log.error("%s:%d: %s (try %d of %d)", host, port, error, attempt, tries)
                if attempt == tries:
                    exchange.source = "error"
                    raise failure(exchange, 502) from None
        exchange.waited_ms = int((time.monotonic() - began) * 1000)
        _take(exchange, got)

    def _address(self, pdk: Pdk, service: dict[str, Any], number: int) -> tuple[str, int]:
        exchange = pdk.exchange
        if exchange.target is not None:
            return exchange.target
        name = exchange.upstream_name or service.get("host", "")
        targets = pdk.declared.upstreams.get(name)
        if targets is not None:
            if not targets:
                pdk("kong.response.error", (503, "failure to get a peer from the ring-balancer", None))
            return targets[number % len(targets)]
        if self._default is not None:
            return self._default
        return name, int(service.get("port", 80))


def _forwarded(pdk: Pdk, service: dict[str, Any]) -> Headers:
    exchange, request = pdk.exchange, pdk.exchange.request
    default = {"http": 80, "https": 443}[exchange.upstream_scheme]
    port = exchange.target[1] if exchange.target else service.get("port", default)
    own = str(service.get("host", "")) + ("" if port == default else f":{port}")
    chain = exchange.headers.get("x-forwarded-for")
    via = exchange.headers.get("via")
    prefix = pdk.forwarded("x-forwarded-prefix") or (exchange.match.stripped if exchange.match else "")
    exchange.sent_host = exchange.upstream_host or own
    added = [
        ("Host", exchange.sent_host),
        ("Connection", "keep-alive"),
        ("Via", f"{via}, " * bool(via) + f"{request.version} {NAME}"),
        ("X-Forwarded-For", f"{chain}, {request.client_ip}" if chain else request.client_ip),
        ("X-Forwarded-Proto", pdk.forwarded("x-forwarded-proto") or "http"),
        ("X-Forwarded-Host", pdk.forwarded("x-forwarded-host") or exchange.forwarded_host),
        ("X-Forwarded-Port", pdk.forwarded("x-forwarded-port") or str(request.server_port)),
        ("X-Forwarded-Path", pdk.forwarded("x-forwarded-path") or exchange.raw_path),
        *([("X-Forwarded-Prefix", prefix)] if prefix else []),
        ("X-Real-IP", request.client_ip),
        ("X-Kong-Request-Id", exchange.id),
    ]
    if exchange.body or exchange.body_changed or exchange.request.framing != "none":
        added.append(("Content-Length", str(len(exchange.body))))
    named = {part.strip().lower() for part in (exchange.headers.get("connection") or "").split(",")}
    return [*added, *((name, value) for name, value in exchange.headers.entries
                      if name.lower() not in _NOT_FORWARDED and name.lower() not in named)]  # fmt: skip


def _take(exchange: Exchange, got: UpstreamAnswer) -> None:
    own = exchange.response_headers.entries
    gone = HOP_BY_HOP | {"content-length", "date"}
    headers = [(name, value) for name, value in got.headers if name.lower() not in gone]
    if exchange.buffered:  # Lua puts it together anew: its names have no `_`, its values are not empty
        headers = [(name.replace("_", "-"), value or " ") for name, value in headers]
        headers.append(("Connection", "keep-alive"))
    exchange.service_answer = BufferedAnswer(got.status, HeaderList(got.headers), got.body)
    length = exchange.service_answer.headers.get("content-length")
    if exchange.buffered and exchange.method != "HEAD":
        length = str(len(got.body))
    if length is not None and (exchange.buffered or exchange.method == "HEAD"):
        headers.append(("Content-Length", length))
    # What plugins set before stays; what the service sends under the same name is sent instead.
    merged = HeaderList(own)
    for name in dict.fromkeys(name for name, _ in headers):
        merged.set(name, [value for present, value in headers if present == name])
    exchange.response_headers, exchange.status = merged, got.status
