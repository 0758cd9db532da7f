"""`kong.service`: what the service gets, and what it answered."""

from __future__ import annotations

import logging
import re
from typing import Any, Final
from urllib.parse import quote

from gatewright.dev.kong.bodies import read_body, write_body
from gatewright.dev.kong.exchange import HeaderList
from gatewright.dev.kong.pdk.core import (
    ACCESS,
    ANSWERED,
    CHANGE_REQUEST,
    NEVER,
    Pdk,
    function,
    header_values,
    headers_of,
    is_header,
    limit,
    string,
    whole,
)
from gatewright.dev.kong.values import LuaError
from gatewright.dev.nginx import escape, header_name, parse_args

log = logging.getLogger("gatewright.dev.kong")
_METHODS: Final = frozenset(
    (
        "GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "MKCOL", "COPY", "MOVE", "PROPFIND", "PROPPATCH", "LOCK",
        "UNLOCK", "PATCH", "TRACE",
    )
)  # fmt: skip


@function("service.set_upstream", ACCESS)
def _set_upstream(pdk: Pdk, host: Any) -> bool | None:
    name = string(host, "host")
    if name not in pdk.declared.upstreams:
        log.warning("could not find an Upstream named '%s'", name)
        return None
    pdk.exchange.upstream_name = name
    return True


@function("service.set_target", ACCESS)
def _set_target(pdk: Pdk, host: Any, port: Any) -> None:
    name = string(host, "host")
    pdk.exchange.target = name, whole(port, "port", 0, 65535)
    pdk.exchange.upstream_host = name


@function("service.set_retries", ACCESS)
def _set_retries(pdk: Pdk, retries: Any) -> None:
    pdk.exchange.balancer["retries"] = whole(retries, "retries", 0, 32767)


@function("service.set_timeouts", ACCESS)
def _set_timeouts(pdk: Pdk, connect: Any, write: Any, read: Any) -> None:
    for name, value in (("connect_timeout", connect), ("write_timeout", write), ("read_timeout", read)):
        pdk.exchange.balancer[name] = whole(value, name, 1, 2147483646)


@function("service.set_tls_verify", CHANGE_REQUEST)
def _set_tls_verify(pdk: Pdk, on: Any) -> bool:
    if not isinstance(on, bool):
        raise LuaError("argument must be a boolean")
    pdk.exchange.tls_verify = on
    return True


@function("service.set_tls_verify_depth", CHANGE_REQUEST)
def _set_tls_verify_depth(pdk: Pdk, depth: Any) -> bool:
    pdk.exchange.balancer["tls_verify_depth"] = whole(depth, "argument", 0, 64)
    return True


@function("service.request.enable_buffering", CHANGE_REQUEST)
def _enable_buffering(pdk: Pdk) -> None:
    pdk.exchange.buffered = True


@function("service.request.disable_tls", NEVER)
@function("service.request.enable_tls", NEVER)
def _switch_tls(pdk: Pdk) -> None:
    """Only in phases that plugin servers have no part in for HTTP."""


@function("service.request.set_scheme", CHANGE_REQUEST)
def _set_scheme(pdk: Pdk, scheme: Any) -> None:
    name = string(scheme, "scheme")
    if name not in ("http", "https"):
        raise LuaError(f"invalid scheme: {name}")
    pdk.exchange.upstream_scheme = name


@function("service.request.set_path", CHANGE_REQUEST)
def _set_path(pdk: Pdk, path: Any) -> None:
    plain = string(path, "path")
    if not plain.startswith("/"):
        raise LuaError("path must start with /")
    pdk.exchange.upstream_path = quote(plain, safe="/%!$&'()*+,-.:;=@_~?#[]", errors="surrogateescape")


@function("service.request.set_raw_query", CHANGE_REQUEST)
def _set_raw_query(pdk: Pdk, query: Any) -> None:
    text = string(query, "query")
    pdk.exchange.query = re.sub(r"[\0-\x20\x7f]", lambda match: f"%{ord(match[0]):02X}", text)


@function("service.request.set_method", CHANGE_REQUEST)
def _set_method(pdk: Pdk, method: Any) -> None:
    name = string(method, "method")
    if name not in _METHODS:
        raise LuaError(f"invalid method: {name}")
    pdk.exchange.method = name


def _ordered_args(args: Any) -> str:
    if args in (None, []):
        args = {}
    if not isinstance(args, dict):
        raise LuaError("args must be a table")
    parts = []
    for name, value in sorted(args.items()):
        key = escape(name, component=True)
        items = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
        of_name = []
        for item in items:
            if isinstance(item, dict | list):
                raise LuaError(f"attempt to use {type(item).__name__} as query arg value")
            if item is True:
                of_name.append(key)
            elif item not in (None, False):
                of_name.append(f"{key}={escape(str(item), component=True)}")
        parts.append("&".join(of_name))
    return "&".join(sorted(parts))  # what has no value leaves its separator


@function("service.request.set_query", CHANGE_REQUEST)
def _set_query(pdk: Pdk, args: Any) -> None:
    pdk.exchange.query = _ordered_args(args)


@function("service.request.clear_query_arg", CHANGE_REQUEST)
def _clear_query_arg(pdk: Pdk, name: Any) -> None:
    wanted = string(name, "query argument name")
    parts = [part for part in pdk.exchange.query.split("&") if wanted not in parse_args(part)]
    pdk.exchange.query = "&".join(part if "=" in part or not part else f"{part}=" for part in parts)


def _change_header(pdk: Pdk, name: str, values: list[str]) -> None:
    if is_header(name, "host"):
        pdk.exchange.upstream_host = values[0] if values else ""
    pdk.exchange.headers.set(header_name(name), values)


@function("service.request.set_header", CHANGE_REQUEST)
def _set_header(pdk: Pdk, name: Any, value: Any) -> None:
    _change_header(pdk, name, header_values(name, value))


@function("service.request.add_header", CHANGE_REQUEST)
def _add_header(pdk: Pdk, name: Any, value: Any) -> None:
    values = header_values(name, value)
    if isinstance(value, list | dict):
        log.warning("fault: kong.service.request.add_header sends a list as `table: 0x...`")
        values = ["table: 0x000000000000"]
    before = [present for present in pdk.exchange.headers.values_of(name) if present]
    _change_header(pdk, name, values if is_header(name, "host") else [*before, *values])


@function("service.request.clear_header", CHANGE_REQUEST)
def _clear_header(pdk: Pdk, name: Any) -> None:
    pdk.exchange.headers.clear(string(name, "header"))


@function("service.request.set_headers", CHANGE_REQUEST)
def _set_headers(pdk: Pdk, headers: Any) -> None:
    for name, values in headers_of(headers).items():
        if is_header(name, "host") and len(values) > 1:
            log.warning("fault: kong.service.request.set_headers sends a list of hosts as `table: 0x...`")
            values = ["table: 0x000000000000"]
        _change_header(pdk, name, values)


@function("service.request.set_raw_body", CHANGE_REQUEST)
def _set_raw_body(pdk: Pdk, body: Any) -> None:
    data = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body
    if not isinstance(data, bytes):
        raise LuaError("body must be a string")
    pdk.exchange.body, pdk.exchange.body_changed = data, True


@function("service.request.set_body", CHANGE_REQUEST)
def _set_body(pdk: Pdk, args: Any, mime: Any) -> bool | None:
    if not isinstance(args, dict | list):
        raise LuaError("args must be a table")
    kind = mime or pdk.exchange.headers.get("content-type")
    if kind is None:
        return None
    body, content_type = write_body(args, string(kind, "mime"))
    _set_raw_body(pdk, body)
    pdk.exchange.headers.set("Content-Type", [content_type])
    return True


def _service_headers(pdk: Pdk) -> HeaderList:
    answer = pdk.exchange.service_answer
    return answer.headers if answer is not None else HeaderList([])


@function("service.response.get_status", ANSWERED, later=True)
def _get_service_status(pdk: Pdk) -> int | None:
    answer = pdk.exchange.service_answer
    return answer.status if answer is not None else None


@function("service.response.get_header", ANSWERED, later=True)
def _get_service_header(pdk: Pdk, name: Any) -> str | None:
    return _service_headers(pdk).get(string(name, "name"))


@function("service.response.get_headers", ANSWERED, later=True)
def _get_service_headers(pdk: Pdk, most: Any) -> dict[str, Any]:
    limit(most, "max_headers")
    if pdk.exchange.buffered:
        log.warning(
            "fault: kong.service.response.get_headers gives plugin servers nothing where the answer is buffered; "
            "kong.response.get_headers has them"
        )
        return {}
    return _service_headers(pdk).table(limit(most, "max_headers"))


def _buffered_body(pdk: Pdk) -> bytes:
    answer = pdk.exchange.service_answer
    if not pdk.exchange.buffered:
        raise LuaError("service body is only available with buffered proxying "
                       "(see: kong.service.request.enable_buffering function)")  # fmt: skip
    return answer.body if answer is not None else b""


@function("service.response.get_raw_body", ANSWERED, later=True)
def _get_service_raw_body(pdk: Pdk) -> bytes:
    return _buffered_body(pdk)


@function("service.response.get_body", ANSWERED, later=True)
def _get_service_body(pdk: Pdk, mimetype: Any, most: Any) -> Any:
    return read_body(
        mimetype or _service_headers(pdk).get("content-type"), _buffered_body(pdk), limit(most, "max_args")
    )
