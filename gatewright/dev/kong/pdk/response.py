"""`kong.response`: what the client gets."""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from gatewright.dev.kong.pdk.core import (
    ANSWERED,
    BEFORE_CONTENT,
    Pdk,
    function,
    header_values,
    headers_of,
    is_header,
    limit,
    string,
    whole,
)
from gatewright.dev.kong.rpc import Exit
from gatewright.dev.kong.values import LuaError
from gatewright.dev.nginx import header_name

log = logging.getLogger("gatewright.dev.kong")
_JSON: Final = "application/json; charset=utf-8"
_MESSAGES: Final = {
    400: "Bad request", 401: "Unauthorized", 402: "Payment required", 403: "Forbidden", 404: "Not found",
    405: "Method not allowed", 408: "Request timeout", 409: "Conflict", 413: "Payload too large",
    415: "Unsupported media type", 418: "I'm a teapot", 426: "Upgrade required", 429: "Too many requests",
    500: "An unexpected error occurred", 501: "Not implemented",
    502: "An invalid response was received from the upstream server",
    503: "The upstream server is currently unavailable", 504: "The upstream server is timing out",
}  # fmt: skip


@function("response.get_status", ANSWERED, later=True)
def _get_status(pdk: Pdk) -> int:
    return pdk.exchange.status


@function("response.get_header", ANSWERED, later=True)
def _get_response_header(pdk: Pdk, name: Any) -> str | None:
    return pdk.exchange.response_headers.get(string(name, "header name"))


@function("response.get_headers", ANSWERED, later=True)
def _get_response_headers(pdk: Pdk, most: Any) -> dict[str, Any]:
    return pdk.exchange.response_headers.table(limit(most, "max_headers"))


@function("response.get_source", ANSWERED, later=True)
def _get_source(pdk: Pdk) -> str:
    return pdk.exchange.source


@function("response.set_status", BEFORE_CONTENT)
def _set_status(pdk: Pdk, status: Any) -> None:
    pdk.exchange.status = whole(status, "code", 100, 599)


def _settable(name: str) -> bool:
    if is_header(name, "transfer-encoding"):
        log.warning("manually setting Transfer-Encoding. Ignored.")
        return False
    return True


@function("response.set_header", BEFORE_CONTENT)
def _set_response_header(pdk: Pdk, name: Any, value: Any) -> None:
    values = header_values(name, value)
    if _settable(name):
        _put(pdk, name, values)


@function("response.add_header", BEFORE_CONTENT)
def _add_response_header(pdk: Pdk, name: Any, value: Any) -> None:
    values = header_values(name, value)
    _put(pdk, name, [*pdk.exchange.response_headers.get_all(name), *values])


@function("response.clear_header", BEFORE_CONTENT)
def _clear_response_header(pdk: Pdk, name: Any) -> None:
    pdk.exchange.response_headers.clear(string(name, "header name").replace("_", "-"))


@function("response.set_headers", BEFORE_CONTENT)
def _set_response_headers(pdk: Pdk, headers: Any) -> None:
    for name, values in headers_of(headers).items():
        if _settable(name):
            _put(pdk, name, values)


def _put(pdk: Pdk, name: str, values: list[str]) -> None:
    if name:  # as Lua lets it out: what can't be in a name is escaped, and `_` is `-`
        pdk.exchange.response_headers.set(header_name(name).replace("_", "-"), values)


@function("response.exit", BEFORE_CONTENT)
def _exit(pdk: Pdk, status: Any, body: Any, headers: Any) -> None:
    code = whole(status, "code", 100, 599)
    fields = {name: values for name, values in headers_of(headers).items() if values != [" "]}  # nor does nginx send it
    if isinstance(body, dict | list):
        if not any(is_header(name, "content-type") for name in fields):
            fields["Content-Type"] = [_JSON]
        body = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogateescape")
    if body is not None and not isinstance(body, bytes):
        raise LuaError("body must be a nil, string or table")
    if body is None and code >= 400:  # nginx's `error_page` sees to it
        body, fields["Content-Type"] = error_body(code, None, pdk.exchange.id), [_JSON]
    raise Exit(code, body, {name: values for name, values in fields.items() if _settable(name)})


def error_body(status: int, message: str | None, request_id: str) -> bytes:
    """What Kong writes for an error."""
    words = message or _MESSAGES.get(status, f"The upstream server responded with {status}")
    return f'{{\n  "message":"{words}",\n  "request_id":"{request_id}"\n}}'.encode()


@function("response.error", BEFORE_CONTENT)
def _error(pdk: Pdk, status: Any, message: Any, headers: Any) -> None:
    code, fields = whole(status, "code", 400, 599), headers_of(headers)
    if isinstance(message, dict | list):
        message = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
    if message is not None:
        message = string(message, "message")
    if not any(is_header(name, "content-type") for name in fields):
        fields["Content-Type"] = [_JSON]
    raise Exit(code, error_body(code, message, pdk.exchange.id), fields)
