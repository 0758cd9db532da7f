"""`kong.request`: what the client sent."""

from __future__ import annotations

from typing import Any

from gatewright.dev.kong.bodies import read_body
from gatewright.dev.kong.pdk.core import BEFORE_CONTENT, REQUEST, Pdk, function, limit, query_table, string


@function("request.get_scheme", REQUEST)
def _get_scheme(pdk: Pdk) -> str:
    return "http"


@function("request.get_host", REQUEST)
def _get_host(pdk: Pdk) -> str:
    return pdk.exchange.host


@function("request.get_port")
def _get_server_port(pdk: Pdk) -> int:
    return pdk.exchange.request.server_port


@function("request.get_forwarded_scheme", REQUEST)
def _get_forwarded_scheme(pdk: Pdk) -> str:
    return (pdk.forwarded("x-forwarded-proto") or "http").lower()


@function("request.get_forwarded_host", REQUEST)
def _get_forwarded_host(pdk: Pdk) -> str:
    host = pdk.forwarded("x-forwarded-host")
    return host.rpartition("@")[2].partition(":")[0].lower() if host else pdk.exchange.host


@function("request.get_forwarded_port", REQUEST)
def _get_forwarded_port(pdk: Pdk) -> int:
    for port in (pdk.forwarded("x-forwarded-port"), (pdk.forwarded("x-forwarded-host") or "").rpartition(":")[2]):
        if port and port.isdigit() and 1 <= int(port) <= 65535:
            return int(port)
    return pdk.exchange.request.server_port


@function("request.get_forwarded_path", REQUEST)
def _get_forwarded_path(pdk: Pdk) -> str:
    return pdk.forwarded("x-forwarded-path") or pdk.exchange.path


@function("request.get_forwarded_prefix", REQUEST)
def _get_forwarded_prefix(pdk: Pdk) -> str | None:
    exchange = pdk.exchange
    prefix = pdk.forwarded("x-forwarded-prefix") or (exchange.match.stripped if exchange.match else "")
    return prefix or ("" if exchange.phase == "rewrite" else None)


@function("request.get_http_version", REQUEST)
def _get_http_version(pdk: Pdk) -> float:
    return float(pdk.exchange.request.version)


@function("request.get_method", REQUEST)
def _get_method(pdk: Pdk) -> str:
    return pdk.exchange.method


@function("request.get_path", REQUEST)
def _get_path(pdk: Pdk) -> str:
    return pdk.exchange.path


@function("request.get_raw_path", REQUEST)
def _get_raw_path(pdk: Pdk) -> str:
    return pdk.exchange.raw_path


@function("request.get_path_with_query", REQUEST)
def _get_path_with_query(pdk: Pdk) -> str:
    return pdk.exchange.request.target


@function("request.get_raw_query", REQUEST)
def _get_raw_query(pdk: Pdk) -> str:
    return pdk.exchange.query


@function("request.get_query", REQUEST)
def _get_query(pdk: Pdk, most: Any) -> dict[str, Any]:
    return query_table(pdk.exchange.query, limit(most, "max_args"))


@function("request.get_query_arg", REQUEST)
def _get_query_arg(pdk: Pdk, name: Any) -> Any:
    value = query_table(pdk.exchange.query, 100).get(string(name, "query argument name"))
    return value[0] if isinstance(value, list) else value


@function("request.get_header", REQUEST, later=True)
def _get_header(pdk: Pdk, name: Any) -> str | None:
    wanted = string(name, "header name")
    if pdk.exchange.later:  # from a copy
        return next(iter(pdk.exchange.headers.values_of(wanted)), None)
    return pdk.exchange.headers.get(wanted)


@function("request.get_headers", REQUEST, later=True)
def _get_headers(pdk: Pdk, most: Any) -> dict[str, Any]:
    return pdk.exchange.headers.table(100 if pdk.exchange.later else limit(most, "max_headers"))


@function("request.get_raw_body", BEFORE_CONTENT)
def _get_raw_body(pdk: Pdk) -> bytes | dict[str, str] | None:
    if pdk.body_file and not pdk.exchange.body_changed:
        return {"body_filepath": pdk.body_file}
    return pdk.exchange.body


@function("request.get_body", BEFORE_CONTENT)
def _get_body(pdk: Pdk, mimetype: Any, most: Any) -> Any:
    if pdk.body_file and not pdk.exchange.body_changed:
        return None
    return read_body(mimetype or pdk.exchange.headers.get("content-type"), pdk.exchange.body, limit(most, "max_args"))


@function("request.get_start_time", REQUEST, later=True)
def _get_start_time(pdk: Pdk) -> int:
    return int(pdk.exchange.began * 1000)


@function("request.get_uri_captures", REQUEST, later=True)
def _get_uri_captures(pdk: Pdk) -> dict[str, Any]:
    match = pdk.exchange.match
    return {"unnamed": dict(enumerate(match.unnamed)) if match else [], "named": match.named if match else {}}
