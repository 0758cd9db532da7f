"""Questions to APISIX in the middle of a call, and what its answers, or their absence, mean.

Each is a generator that yields questions and is sent their answers, so that drivers may wait as they like. The facts:

- A body that isn't there has no answer, but neither has one that APISIX can't hand over. Up to 3.16 it does not read
  the body of an HTTP/2 or HTTP/3 request without Content-Length (core/request.lua, `get_body`). For a GET and the like
  none is expected; `content-length: 0` in the reply makes nginx refuse the request if there is one all the same.
- A body beyond the longest frame makes APISIX break the call off: with a 503, and in the response phase with the
  upstream's whole body under it. So such a body is not asked for where its length is known.
- An upstream's body can be read once; no answer means that it broke off or is gone.
- Nothing is printed for an answer without a body, and then nginx asks the upstream *again*, POST included, and the
  client gets the headers of both. That's so for HEAD, 204, 304 and chunked answers without a chunk, unless the reply
  has a body. Neither the method nor such a chunked body shows in the call.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from gatewright.errors import NotAvailableError
from gatewright.gateways.apisix.calls import HttpReqCall
from gatewright.gateways.apisix.frames import MAX_PAYLOAD
from gatewright.gateways.apisix.versions import Version
from gatewright.http import REQUEST_BODY, RESPONSE_BODY, Call, Question, Recipe

__all__ = ["BODILESS", "before_request_reply", "before_response_reply", "reading", "upstream_header"]

BODILESS: Final = (204, 304)
_OVERHEAD: Final = 64  # bytes around a body in a frame
_STREAMS: Final = ("text/event-stream", "application/grpc", "application/x-ndjson", "multipart/x-mixed-replace")
_NO_BODY: Final = ("GET", "HEAD", "OPTIONS", "TRACE")


def reading(call: Call, version: Version, question: Question) -> Recipe[bytes]:
    """Read a body.

    Args:
        call: the call.
        version: what is known of the gateway.
        question: which one.

    Raises:
        NotAvailableError: there is, or may be, a body that APISIX doesn't hand over.
    """
    return _response_body(call) if question is RESPONSE_BODY else _request_body(call, version)


def _request_body(call: Call, version: Version) -> Recipe[bytes]:
    source = call.source
    asked_early = isinstance(source, HttpReqCall)
    if asked_early:
        _check_length((yield from _header(call, "content-length")), "request")
    body = yield REQUEST_BODY
    if body is not None:
        return body
    length = yield from _header(call, "content-length")
    if length:
        if length.strip("0"):
            raise NotAvailableError(f"APISIX doesn't hand over the client's body of {length} bytes")
        return b""
    if (yield from _header(call, "transfer-encoding")):
        return b""  # it was read, up to its end
    method = source.method if asked_early else _text((yield Question("var", "request_method")))
    protocol = _text((yield Question("var", "server_protocol")))
    if protocol.startswith(("HTTP/1", "HTTP/0")) or (yield from version.reads_unsized_bodies()):
        return b""
    if method in _NO_BODY:
        call.forbids_body = call.asks = True
        return b""
    raise NotAvailableError(
        f"whether this {protocol or 'request'} {method} has a body can't be known: it came without content-length, and "
        "APISIX before 3.17 doesn't read such a body"
    )


def _response_body(call: Call) -> Recipe[bytes]:
    _check_length(upstream_header(call, "content-length"), "upstream's")
    body = yield RESPONSE_BODY
    if body is None:
        call.response_lost = True
        raise NotAvailableError("APISIX can't hand the upstream's body over: it broke off")
    return body


def _check_length(length: str, whose: str) -> None:
    if length.isdecimal() and int(length) > MAX_PAYLOAD - _OVERHEAD:
        raise NotAvailableError(f"the {whose} body has {length} bytes: APISIX hands over less than 16 MiB")


def _header(call: Call, name: str) -> Recipe[str]:
    """A header as the client sent it; empty where there is none."""
    source = call.source
    if isinstance(source, HttpReqCall):
        values = [value for key, value in source.read_headers() if key.lower() == name]
        if values or not source.headers_cut:
            return values[0] or "" if values else ""
    return _text((yield Question("var", f"http_{name.replace('-', '_')}")))


def upstream_header(call: Call, name: str) -> str:
    """A header as the upstream sent it; empty where there is none."""
    entries = call.response_source() if call.response_source is not None else []
    return next((value or "" for key, value in entries if key.lower() == name), "")


def _text(answer: bytes | None) -> str:
    return "" if answer is None else answer.decode("utf-8", "surrogateescape")


def before_request_reply(call: Call, version: Version) -> Recipe[None]:
    """Find out what the reply to a request phase depends on."""
    if call.body is not None and not call.body_was_read:
        call.read_body = yield from reading(call, version, REQUEST_BODY)
        call.body_was_read = True
    elif call.forbids_body and call.body is None:
        call.headers["content-length"] = "0"
    query = call.seen_query
    changed = query is not None and bool(query.changes)
    if call.path is not None:
        if not changed and call.source.read_args():
            call.keeps_query = yield from version.keeps_query()
    elif changed and call.late:
        # A path that an earlier plugin has set brings the query that it had: only another path lets it go.
        path = call.source.path
        if "%" in path and (yield Question("var", "upstream_uri")):
            path = unquote(path, errors="surrogateescape")
        call.path = path


def before_response_reply(call: Call, unsized_answers: str) -> Recipe[None]:
    """Find out whether the client's answer has a body.

    Args:
        call: the call.
        unsized_answers: `read` looks into answers without content-length, `pass` doesn't; `auto` does unless that's
            harmless (a GET's, of some type, is asked for again) or would hold up a stream.
    """
    if call.response_body or call.read_response_body or call.response_status in BODILESS:
        return
    if call.response_lost:
        raise NotAvailableError("the upstream's body broke off")
    method = yield Question("var", "request_method")
    call.is_head = method == b"HEAD"
    if call.is_head or call.response_body is not None or call.read_response_body is not None:
        return
    if upstream_header(call, "content-length") or unsized_answers == "pass":
        return
    kind = upstream_header(call, "content-type")
    if unsized_answers == "read" or not kind or not (method == b"GET" or kind.startswith(_STREAMS)):
        call.read_response_body = yield from _response_body(call)
