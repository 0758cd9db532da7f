"""What answers without an upstream, or elsewhere: redirect, mocking, fault-injection."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping
from typing import Any

from gatewright.dev.apisix.builtins.shape import Around
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.exits import exited
from gatewright.dev.apisix.expressions import condition_of
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.apisix.variables import lua_value, resolved, variable
from gatewright.dev.messages import Answer, text_of
from gatewright.dev.nginx import escape, header_name, header_value, set_header

__all__ = ["check_fault", "check_mocking", "check_redirect", "fault_injection", "mocking", "redirect"]

_SEGMENT = re.compile(r"(\\\$[0-9a-zA-Z_]+)|\$\{([0-9a-zA-Z_]+)\}|\$([0-9a-zA-Z_]+)|(\$|[^$\\]+)")
_GROUP = re.compile(r"\$(?:\{(\d+)\}|(\d+))")


def _set(exchange: Exchange, name: str, value: str) -> None:
    values = [header_value(value)] if value else []  # what is set to nothing is taken away
    exchange.response_headers = set_header(exchange.response_headers, header_name(name), values)


def check_redirect(conf: Mapping[str, Any]) -> None:
    """See that it is one."""
    if sum(field in conf for field in ("uri", "regex_uri", "http_to_https")) != 1:
        raise ValueError("one of `uri`, `regex_uri` and `http_to_https` is needed")
    if conf.get("regex_uri"):
        re.compile(str(conf["regex_uri"][0]))


async def redirect(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Send the client elsewhere (plugins/redirect.lua)."""
    conf = plugin.conf
    status: int = int(conf.get("ret_code", 302))
    template = conf.get("uri")
    scheme = next(iter(exchange.header("X-Forwarded-Proto")), "http")
    plain = scheme != "https" if exchange.behaviour.since(14) else scheme == "http"
    if conf.get("http_to_https") and plain:
        template, status = "https://$host$request_uri", 301 if exchange.method in ("GET", "HEAD") else 308
    if template:
        where = _filled(exchange, str(template))
    elif conf.get("regex_uri"):
        pattern, new = conf["regex_uri"]
        found = re.search(pattern, exchange.uri)
        if found is None:
            return None
        parts = [found[0], *(group or "" for group in found.groups())]
        put = _GROUP.sub(lambda m: parts[n] if (n := int(m[1] or m[2])) < len(parts) else "", new)
        where = exchange.uri[: found.start()] + put + exchange.uri[found.end() :]
    else:
        return None
    path, question, query = where.partition("?")
    if conf.get("encode_uri"):
        where = escape(path) + question + query
    if conf.get("append_query_string") and exchange.is_args:
        where += ("&" if question else "?") + exchange.args_text
    _set(exchange, "Location", where)
    return exited(exchange, status)


def _filled(exchange: Exchange, template: str) -> str:
    parts = []
    for found in _SEGMENT.finditer(template):
        name = found[2] or found[3]
        parts.append(text_of(variable(exchange, name) or b"") if name else found[1] or found[4])
    return "".join(parts)


_MOCKED_TYPES = ("application/xml", "application/json", "text/plain", "text/html", "text/xml")


def check_mocking(conf: Mapping[str, Any]) -> None:
    """See that it can be done."""
    if "response_example" not in conf:
        raise ValueError("the development gateway makes nothing up from `response_schema`; give a `response_example`")
    if str(conf.get("content_type", "application/json")).partition(";")[0] not in _MOCKED_TYPES:
        raise ValueError(f"`content_type` is one of {', '.join(_MOCKED_TYPES)}")


async def mocking(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Answer as configured (plugins/mocking.lua)."""
    conf = plugin.conf
    _set(exchange, "Content-Type", str(conf.get("content_type", "application/json;charset=utf8")))
    if conf.get("with_mock_header", True):
        _set(exchange, "x-mock-by", f"APISIX/{exchange.behaviour.release}")
    for name, value in (conf.get("response_headers") or {}).items():
        filled = header_value(resolved(exchange, str(value)))
        exchange.response_headers = [*exchange.response_headers, *([(header_name(name), filled)] if filled else [])]
    if conf.get("delay"):
        await asyncio.sleep(float(conf["delay"]))
    return exited(exchange, int(conf.get("response_status", 200)), resolved(exchange, str(conf["response_example"])))


def check_fault(conf: Mapping[str, Any]) -> None:
    """See that conditions are some."""
    for part in ("abort", "delay"):
        for rule in (conf.get(part) or {}).get("vars") or ():
            condition_of(rule)


def _hit(exchange: Exchange, part: Mapping[str, Any] | None) -> bool:
    if part is None:
        return False
    share = part.get("percentage")
    if share is not None and random.randint(1, 100) > int(share):  # noqa: S311
        return False
    rules = part.get("vars")
    return rules is None or any(condition_of(rule)(lambda name: lua_value(exchange, name)) for rule in rules)


async def fault_injection(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Be late, or refuse (plugins/fault-injection.lua)."""
    delay, abort = plugin.conf.get("delay"), plugin.conf.get("abort")
    if delay and _hit(exchange, delay):
        await asyncio.sleep(float(delay["duration"]))
    if not abort or not _hit(exchange, abort):
        return None
    for name, value in (abort.get("headers") or {}).items():
        _set(exchange, name, resolved(exchange, str(value)))
    body = abort.get("body")
    return exited(exchange, int(abort["http_status"]), None if body is None else resolved(exchange, str(body)))
