"""What the client gets in the end: the service's answer, a plugin's, or Kong's own."""

from __future__ import annotations

import time
from typing import Final

from gatewright.dev.kong.exchange import Exchange
from gatewright.dev.kong.pdk import error_body
from gatewright.dev.kong.rpc import Exit
from gatewright.dev.messages import Answer

__all__ = ["HOP_BY_HOP", "NAME", "failure", "own_answer", "proxied_answer", "refusal", "take_exit"]

NAME: Final = "gatewright-dev"
"""What the gateway calls itself."""
HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
_JSON: Final = ("Content-Type", "application/json; charset=utf-8")


def refusal(status: int) -> Answer:
    """What Kong answers to what is no request; 494 is nginx's own code for too large headers."""
    status = 400 if status == 494 else status
    return Answer(status, [_JSON], error_body(status, None, ""), close=True, server=NAME)


def failure(exchange: Exchange, status: int) -> Exit:
    """Kong's own answer where something failed."""
    return Exit(status, error_body(status, None, exchange.id), {_JSON[0]: [_JSON[1]]})


def take_exit(exchange: Exchange, exit: Exit) -> bytes:
    """An answer that is not the service's is to be sent; gives its body."""
    exchange.status = exit.status
    headers = exchange.response_headers
    headers.clear("content-length")
    for name, values in exit.headers.items():
        headers.set(name.replace("_", "-"), values)
    return exit.body or b""


def own_answer(exchange: Exchange, body: bytes) -> Answer:
    """The answer that was taken from an exit."""
    headers = exchange.response_headers
    headers.set("X-Kong-Response-Latency", [str(int((time.time() - exchange.began) * 1000))])
    headers.clear("server")
    return _answer(exchange, body)


def proxied_answer(exchange: Exchange) -> Answer:
    """The service's answer."""
    got = exchange.service_answer
    assert got is not None  # noqa: S101 - the phases ended without an answer of a plugin's
    headers = exchange.response_headers
    elapsed = int((time.time() - exchange.began) * 1000)
    headers.set("X-Kong-Upstream-Latency", [str(exchange.waited_ms)])
    headers.set("X-Kong-Proxy-Latency", [str(max(elapsed - exchange.waited_ms, 0))])
    via = got.headers.get("via")
    headers.set("Via", [f"{via}, 1.1 {NAME}" if via else f"1.1 {NAME}"])
    return _answer(exchange, got.body)


def _answer(exchange: Exchange, body: bytes) -> Answer:
    headers, exchange.body_sent = exchange.response_headers, len(body)
    headers.set("X-Kong-Request-Id", [exchange.id])
    if exchange.status in (204, 304):
        headers.clear("content-type")
    elif headers.get("content-type") == "text/html":
        headers.set("Content-Type", ["text/html; charset=UTF-8"])
    server = headers.get("server") or NAME
    entries = [(name, value) for name, value in headers.entries if name.lower() not in HOP_BY_HOP]
    if headers.get("content-length") is None:
        entries.append(("Content-Length", str(len(body))))
    return Answer(exchange.status, entries, body, framing="proxied", server=server)
