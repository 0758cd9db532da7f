"""Requests to the upstream: nginx's `proxy_pass`, and the one that ext-plugin-post-resp makes itself."""

from __future__ import annotations

import logging
import re

from gatewright.dev.apisix.balancing import Turn
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.tries import NoAnswerError, tried
from gatewright.dev.apisix.variables import variable
from gatewright.dev.messages import Answer, Headers, text_of
from gatewright.dev.nginx import set_header
from gatewright.dev.target import Upstream
from gatewright.dev.upstream import Sender, UpstreamAnswer, UpstreamError, send_request

__all__ = ["InternalRedirect", "forwarded_headers", "proxy", "subrequest"]

log = logging.getLogger("gatewright.dev")

_NOT_FORWARDED = frozenset(
    (
        "host", "connection", "content-length", "transfer-encoding", "te", "keep-alive", "expect", "upgrade",
        "x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port",
    )
)  # fmt: skip
_FORWARDED = frozenset(("x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"))
_NOT_PASSED_BACK = frozenset(
    (
        "connection",
        "keep-alive",
        "transfer-encoding",
        "server",
        "x-pad",
        "x-accel-buffering",
        "x-accel-charset",
        "x-accel-expires",
        "x-accel-limit-rate",
        "x-accel-redirect",
    )
)
_KEPT_ELSEWHERE = frozenset(
    ("content-type", "set-cookie", "content-disposition", "cache-control", "expires", "accept-ranges")
)
"""What an answer with X-Accel-Redirect leaves behind."""
_BAD_PORT = re.compile(r"[^/?:]*:(?![0-9]+(?:[/?]|$))")
"""A path without a leading slash becomes part of the upstream's name, and what follows a colon its port."""
_NOT_IN_PATHS = re.compile("[\0-\x20#<>?`]")
_NOT_IN_VALUES = re.compile("[\0-\x08\x0a-\x1f\x7f]")
_TOKEN = re.compile("[!#$%&'*+.0-9A-Z^_`a-z|~-]+")
_HAVE_BODIES = ("POST", "PUT", "PATCH")
"""Methods for which lua-resty-http announces a body, be it empty."""


class InternalRedirect(Exception):  # noqa: N818 - nothing has failed
    """The upstream's X-Accel-Redirect: the request begins anew with another URI."""

    def __init__(self, target: str, headers: Headers) -> None:
        super().__init__(target)
        self.target = target
        self.headers = headers


async def subrequest(
    exchange: Exchange, upstream: Upstream, timeout: float, send: Sender = send_request
) -> UpstreamAnswer:
    """Make the request of post-resp, as lua-resty-http does.

    Raises:
        UpstreamError: no answer.
    """
    headers = exchange.subrequest_headers()
    if any(name.lower() == "transfer-encoding" and "chunked" in value.lower() for name, value in headers):
        headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
    names = {name.lower() for name, _ in headers}
    if "host" not in names:
        headers.append(("Host", upstream.authority))
    if "user-agent" not in names:
        headers.append(("User-Agent", f"lua-resty-http/0.16.1 (Lua) ngx_lua/{exchange.behaviour.lua}"))
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
    path, query = exchange.subrequest_target()
    _check_characters(path, query, headers)
    return await send(
        upstream.host,
        upstream.port,
        tls=upstream.scheme == "https",
        method=exchange.method,
        target=path + ("?" + query if query else ""),
        headers=headers,
        body=exchange.body,
        timeout=timeout,
        lua=True,
    )


def _check_characters(path: str, query: str, headers: Headers) -> None:
    """Refuse what lua-resty-http refuses to send."""
    if _NOT_IN_PATHS.search(path) or _NOT_IN_PATHS.search(query.replace("?", "")):
        raise UpstreamError("invalid characters found in path")
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise UpstreamError("invalid characters found in header key")
        if _NOT_IN_VALUES.search(value):
            raise UpstreamError("invalid characters found in header value")


def forwarded_headers(exchange: Exchange) -> Headers:
    """What nginx's `proxy_pass` sends of headers."""
    request = exchange.request
    forwarded = [
        ("Host", exchange.upstream_host or ""),
        ("X-Real-IP", exchange.client_ip),
        ("X-Forwarded-For", _text(exchange, "proxy_add_x_forwarded_for", "")),
    ]
    forwarded += [("Upgrade", exchange.upgrade[0]), ("Connection", exchange.upgrade[1])]
    left = _NOT_FORWARDED
    if exchange.behaviour.forwarded == "injected":  # they are headers like others
        left = left - _FORWARDED
    else:
        forwarded += [
            ("X-Forwarded-Proto", _text(exchange, "http_x_forwarded_proto", "http")),
            ("X-Forwarded-Host", _text(exchange, "http_x_forwarded_host", exchange.host)),
            ("X-Forwarded-Port", _text(exchange, "http_x_forwarded_port", str(request.server_port))),
        ]
    headers: Headers = [(name, value) for name, value in forwarded if value]  # nginx sends none that is empty
    announced = any(name.lower() == "content-length" for name, _ in exchange.headers)
    if exchange.sent_length is not None:
        headers += [("Content-Length", exchange.sent_length)] if exchange.sent_length else []
    elif exchange.body or announced or request.framing in ("content-length", "chunked", "h2"):
        headers.append(("Content-Length", str(len(exchange.body))))
    return headers + [(n, v) for n, v in exchange.headers if n.lower() not in left]


async def proxy(exchange: Exchange, turn: Turn, timeout: float, send: Sender, ended: set[Upstream]) -> Answer:
    """Nginx's `proxy_pass`.

    Args:
        exchange: the request.
        turn: where it goes.
        timeout: seconds for which an upstream may be silent, unless it says so itself.
        send: sends it.
        ended: the nodes whose last connection has ended; to others nginx has one from earlier requests; updated.
    """
    await exchange.read_body()
    request = exchange.request
    if exchange.body_fault and not exchange.body_changed:
        return Answer(exchange.body_fault, exchange.response_headers, page=True)
    if request.is_gone():
        log.warning("the client has gone; the upstream is not asked")
        return Answer(0)
    headers, target = forwarded_headers(exchange), exchange.proxy_target()
    if _BAD_PORT.match(target):
        log.warning("fault: the runner set a path that nginx takes for a port: 500")
        return Answer(500, exchange.response_headers, page=True)
    if target.startswith("?"):  # an empty path
        target = "/" + target
    if not target.startswith("/"):
        log.warning("fault: the runner set a path without a leading slash: 502")
        return _gateway_error(exchange, 502, "")
    try:
        got = await tried(exchange, turn, timeout, send, ended, target, headers)
    except NoAnswerError as error:
        return _gateway_error(exchange, error.status, error.tries)
    if got.garbled:
        log.error("upstream sent invalid chunked response while reading upstream")
        return Answer(0)
    elsewhere = got.first("x-accel-redirect")
    if elsewhere is not None:
        kept = [(n, v) for n, v in got.headers if n.lower() in _KEPT_ELSEWHERE]
        raise InternalRedirect(elsewhere, [*exchange.response_headers, *kept])
    if got.hinted:
        exchange.response_headers, exchange.length_is_set = [], False
    passed = [(n, v) for n, v in got.headers if n.lower() not in _NOT_PASSED_BACK]
    if exchange.length_is_set:  # nginx sends the one that Lua has set, or taken away
        passed = [(n, v) for n, v in passed if n.lower() != "content-length"]
    answer = Answer(got.status, [*exchange.response_headers, *passed], got.body, framing="proxied")
    answer.status_line = got.status_line or f"{got.status} {got.reason}"
    answer.names_charset = got.first("x-accel-charset") is None
    if exchange.length_is_set:
        answer.unframed = "chunked" if got.first("content-length") is None else "sized"
    answer.headless = got.framing == "raw"
    answer.tunnel = got.tunnel
    if not got.complete:
        log.warning("fault: the upstream broke its answer off; the client gets what came, and a closed connection")
        answer.cut = True
    if 500 <= got.status <= 599:
        answer.headers = _told(answer.headers, exchange.upstream_facts["upstream_status"])
    return answer


def _text(exchange: Exchange, name: str, default: str) -> str:
    value = variable(exchange, name)
    return default if value is None else text_of(value)


def _gateway_error(exchange: Exchange, status: int, tries: str) -> Answer:
    headers = exchange.response_headers
    return Answer(status, _told(headers, tries) if tries else headers, page=True)


def _told(headers: Headers, tries: str) -> Headers:
    return set_header(headers, "X-APISIX-Upstream-Status", [tries])
