"""What is put on requests and answers: real-ip, request-id, cors, echo."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from gatewright.dev.apisix.builtins.shape import Around
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.exits import exited
from gatewright.dev.apisix.expressions import address_matches
from gatewright.dev.apisix.rewriting import without
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.apisix.variables import lua_value
from gatewright.dev.messages import Answer, Headers, raw
from gatewright.dev.nginx import header_name, header_value, set_header

__all__ = [
    "add_request_id", "check_cors", "check_request_id", "cors", "echo", "note_origin", "real_ip", "tell_request_id",
]  # fmt: skip

_OF_THE_BODY = ("content-length", "content-encoding", "last-modified", "etag")
_ALL_METHODS = "GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE"


# --- real-ip


async def real_ip(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Take the client's address from elsewhere (plugins/real-ip.lua)."""
    conf = plugin.conf
    trusted: Sequence[str] = conf.get("trusted_addresses") or ()
    if trusted and not address_matches(exchange.client_ip, trusted):
        return None
    found = _address(exchange, conf, trusted)
    match = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?|([^:]*)(?::(\d+))?|(.*)", found or "")
    address = match and (match[1] or match[3] or match[5])
    try:
        address = str(ip_address(address or ""))
    except ValueError:
        return None
    port = match and (match[2] or match[4])
    if port and not 1 <= int(port) <= 65535:
        return None
    exchange.client_ip = address
    for name in ("remote_addr", "remote_port", "realip_remote_addr", "realip_remote_port"):
        exchange.kept_variables.pop(name, None)
    exchange.client_port = port or "0"
    return None


def _address(exchange: Exchange, conf: Mapping[str, Any], trusted: Sequence[str]) -> str | None:
    if conf["source"] != "http_x_forwarded_for":
        value = lua_value(exchange, str(conf["source"]))
        return None if value is None else str(value)
    exchange.header("X-Forwarded-For")
    sent = exchange.table.get("x-forwarded-for")
    if not sent:
        return None
    parts = re.split(r",\s*", sent[-1])
    if conf.get("recursive") and trusted:
        return next((each for each in reversed(parts[1:]) if not address_matches(each, trusted)), parts[0])
    return sent[-1].rpartition(",")[2].lstrip(" ")


# --- request-id


def check_request_id(conf: Mapping[str, Any]) -> None:
    """See that it can be done."""
    if conf.get("algorithm", "uuid") != "uuid":
        raise ValueError("the development gateway has only `algorithm: uuid`")


def _id_header(plugin: PluginConf) -> str:
    return str(plugin.conf.get("header_name", "X-Request-Id"))


async def add_request_id(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Give a request without an id one (plugins/request-id.lua)."""
    name = _id_header(plugin)
    sent = [value for present, value in exchange.headers if present.lower() == name.lower()]
    if not sent or (exchange.behaviour.since(15) and sent == [""]):
        sent = [str(uuid.uuid4())]
        exchange.set_header(name, sent[0])
    exchange.ids[name] = sent
    return None


def tell_request_id(exchange: Exchange, answer: Answer, plugin: PluginConf) -> Answer:
    """Name the id in the answer, unless it has one."""
    name = _id_header(plugin)
    named = [value for present, value in answer.headers if present.lower() == name.lower()]
    if plugin.conf.get("include_in_response", True) and (not named or (exchange.behaviour.since(15) and named == [""])):
        ids = [header_value(each) for each in exchange.ids.get(name, []) if each]
        answer.headers = set_header(answer.headers, header_name(name), ids)
    return answer


# --- cors


def check_cors(conf: Mapping[str, Any]) -> None:
    """See that it can be done."""
    if conf.get("allow_origins_by_metadata"):
        raise ValueError("`allow_origins_by_metadata` is not supported by the development gateway")
    if conf.get("allow_credential") and "*" in (
        conf.get(field, "*") for field in ("allow_origins", "allow_methods", "allow_headers", "expose_headers")
    ):
        raise ValueError("with `allow_credential` no other option may be `*`")
    for field in ("allow_origins_by_regex", "timing_allow_origins_by_regex"):
        for pattern in conf.get(field) or ():
            re.compile(pattern)


async def note_origin(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Answer a browser that asks first (plugins/cors.lua)."""
    exchange.origin = next(iter(exchange.header("Origin")), None)
    return exited(exchange, 200) if exchange.request.method == "OPTIONS" else None


def _allowed(exchange: Exchange, allowed: str | None, patterns: Sequence[str] | None) -> str | None:
    origin = exchange.origin
    if patterns is not None:
        return origin if origin is not None and re.search("|".join(patterns), origin) else None
    if allowed is None:
        return None
    if allowed == "**":
        allowed = origin or "*"
    if "," in allowed:
        allowed = origin if origin in allowed.split(",") else None
    return allowed if allowed in ("*", origin) else None


def cors(exchange: Exchange, answer: Answer, plugin: PluginConf) -> Answer:
    """Tell a browser who may read the answer."""
    conf = plugin.conf
    headers = answer.headers
    origins = str(conf.get("allow_origins", "*"))
    origin = _allowed(exchange, origins, conf.get("allow_origins_by_regex"))
    if origins != "*":
        headers = [*headers, ("Vary", "Origin")]
    if origin is not None:
        headers = _told(exchange, headers, conf, origin)
    timing = _allowed(exchange, conf.get("timing_allow_origins"), conf.get("timing_allow_origins_by_regex"))
    if timing is not None:
        headers = set_header(headers, "Timing-Allow-Origin", [timing])
    answer.headers = headers
    return answer


def _told(exchange: Exchange, headers: Headers, conf: Mapping[str, Any], origin: str) -> Headers:
    methods, wanted = str(conf.get("allow_methods", "*")), str(conf.get("allow_headers", "*"))
    if wanted == "**":
        wanted = next(iter(exchange.header("Access-Control-Request-Headers")), "")
    exposed = str(conf.get("expose_headers", "" if exchange.behaviour.since(10) else "*"))
    told = {
        "Allow-Origin": origin,
        "Allow-Methods": _ALL_METHODS if methods == "**" else methods,
        "Max-Age": str(conf.get("max_age", 5)),
        "Expose-Headers": exposed,
        "Allow-Headers": wanted,
        "Allow-Credentials": "true" if conf.get("allow_credential") else "",
    }
    for name, value in told.items():
        if value:
            headers = set_header(headers, f"Access-Control-{name}", [header_value(value)])
    return headers


# --- echo


def echo(exchange: Exchange, answer: Answer, plugin: PluginConf) -> Answer:
    """Put something around the body, or in its place (plugins/echo.lua)."""
    conf = plugin.conf
    if any(field in conf for field in ("body", "before_body", "after_body")):
        answer.headers = without(answer.headers, _OF_THE_BODY)
        replaced = conf.get("body") is not None
        ends = replaced or not (answer.cut or answer.unended)
        body = raw(str(conf["body"])) if replaced else answer.body or b""
        after = raw(str(conf.get("after_body", ""))) if ends else b""
        answer.body = raw(str(conf.get("before_body", ""))) + body + after
        answer.unended = answer.unended and not replaced
        answer.page, answer.rewritten, answer.unframed = False, ends and answer.framing == "proxied", ""
    for name, value in (conf.get("headers") or {}).items():
        values = [header_value(str(value))] if value != "" else []
        answer.headers = set_header(answer.headers, header_name(name), values)
    return answer
