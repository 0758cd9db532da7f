"""Requests to the upstream: nginx's `proxy_pass`, and the one that ext-plugin-post-resp makes itself."""

from __future__ import annotations

import logging

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.variables import variable
from gatewright.dev.messages import Answer, Headers, text_of
from gatewright.dev.target import Upstream
from gatewright.dev.upstream import UpstreamAnswer, UpstreamError, send_request

__all__ = ["proxy", "subrequest"]

log = logging.getLogger("gatewright.dev")

_NOT_FORWARDED = frozenset(
    (
        "host", "connection", "content-length", "transfer-encoding", "te", "keep-alive", "expect", "upgrade",
        "x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port",
    )
)  # fmt: skip
_NOT_PASSED_BACK = frozenset(
    (
        "connection",
        "keep-alive",
        "transfer-encoding",
        "server",
        "x-pad",
        "upgrade",
        "proxy-connection",
        "trailer",
    )
)
_HAVE_BODIES = ("POST", "PUT", "PATCH")
"""Methods for which lua-resty-http announces a body, be it empty."""
_UPSTREAM_TRIES = 2
_NOT_REPEATED = ("POST", "LOCK", "PATCH")
_RESTY_USER_AGENT = "lua-resty-http/0.16.1 (Lua) ngx_lua/10026"


async def subrequest(exchange: Exchange, upstream: Upstream, timeout: float) -> UpstreamAnswer:
    """Make the request of post-resp, as lua-resty-http does.

    Raises:
        UpstreamError: no answer.
    """
    headers = exchange.subrequest_headers()
    names = {name.lower() for name, _ in headers}
    if "host" not in names:
        headers.append(("Host", upstream.authority))
    if "user-agent" not in names:
        headers.append(("User-Agent", _RESTY_USER_AGENT))
    if (
        (exchange.body or exchange.method in _HAVE_BODIES)
        and "content-length" not in names
        and "transfer-encoding" not in names
    ):
        headers.append(("Content-Length", str(len(exchange.body))))
    declared = next((value for name, value in headers if name.lower() == "content-length"), None)
    if exchange.body_changed and declared is not None and declared != str(len(exchange.body)):
        log.warning(
            "fault: with post-resp the upstream gets the client's content-length %s with a body of %d bytes; "
            "read the body first and set content-length", declared, len(exchange.body),
        )  # fmt: skip
    if "transfer-encoding" in names:
        log.warning("fault: a chunked body goes upstream unchunked under `transfer-encoding: chunked`")
    return await send_request(
        upstream.host,
        upstream.port,
        tls=upstream.scheme == "https",
        method=exchange.method,
        target=exchange.subrequest_target(),
        headers=headers,
        body=exchange.body,
        timeout=timeout,
    )


async def proxy(exchange: Exchange, upstream: Upstream, timeout: float) -> Answer:
    """Nginx's `proxy_pass`."""
    request = exchange.request
    if request.body_is_broken and not exchange.body_changed:
        return Answer(400, exchange.response_headers, page=True)
    if request.is_gone():
        log.warning("the client has gone; the upstream is not asked")
        return Answer(0)
    forwarded = [
        ("Host", exchange.upstream_host or ""),
        ("X-Real-IP", exchange.client_ip),
        ("X-Forwarded-For", _text(exchange, "proxy_add_x_forwarded_for", "")),
        ("X-Forwarded-Proto", _text(exchange, "http_x_forwarded_proto", "http")),
        ("X-Forwarded-Host", _text(exchange, "http_x_forwarded_host", exchange.host)),
        ("X-Forwarded-Port", _text(exchange, "http_x_forwarded_port", str(request.server_port))),
    ]
    headers: Headers = [(name, value) for name, value in forwarded if value]  # nginx sends none that is empty
    if exchange.body or request.framing in ("content-length", "chunked"):
        headers.append(("Content-Length", str(len(exchange.body))))
    headers += [(n, v) for n, v in exchange.headers if n.lower() not in _NOT_FORWARDED]
    target = exchange.proxy_target()
    if not target.startswith("/"):
        log.warning("fault: the runner set a path without a leading slash: 502")
        return _bad_gateway(exchange, ["502"])
    tries: list[str] = []
    while len(tries) < _UPSTREAM_TRIES:
        try:
            got = await send_request(
                upstream.host,
                upstream.port,
                tls=upstream.scheme == "https",
                method=exchange.method,
                target=target,
                headers=headers,
                body=exchange.body,
                timeout=timeout,
            )
        except UpstreamError as error:
            log.error("%s while reading response header from upstream", error)
            tries.append("502")
            if exchange.method in _NOT_REPEATED:
                break
            continue
        passed = [(n, v) for n, v in got.headers if n.lower() not in _NOT_PASSED_BACK]
        answer = Answer(got.status, [*exchange.response_headers, *passed], got.body, framing="proxied")
        answer.reason = got.reason
        if not got.complete:
            log.warning("fault: the upstream broke its answer off; the client gets what came, and a closed connection")
            answer.close = True
        if 500 <= got.status <= 599:
            answer.headers.append(("X-APISIX-Upstream-Status", str(got.status)))
        return answer
    return _bad_gateway(exchange, tries)


def _text(exchange: Exchange, name: str, default: str) -> str:
    value = variable(exchange, name)
    return default if value is None else text_of(value)


def _bad_gateway(exchange: Exchange, tries: list[str]) -> Answer:
    headers = [*exchange.response_headers]
    if len(tries) > 1:
        headers.append(("X-APISIX-Upstream-Status", ", ".join(tries)))
    return Answer(502, headers, page=True)
