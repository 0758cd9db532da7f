"""Limits of size and rate, and tokens against forged requests: client-control, limit-req, csrf."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import time
from collections.abc import Mapping
from typing import Any

from gatewright.dev.apisix.builtins.shape import Around
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.exits import exited
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.apisix.variables import lua_value, resolved
from gatewright.dev.messages import Answer
from gatewright.dev.nginx import header_value

__all__ = ["add_token", "check_csrf", "check_rate", "check_size", "client_control", "csrf", "limit_req"]

_MOST_KEYS = 10_000
_SAFE = ("GET", "HEAD", "OPTIONS")


# --- client-control


def check_size(conf: Mapping[str, Any]) -> None:
    """See that the size is one."""
    size = conf.get("max_body_size", 0)
    if not isinstance(size, int) or size < 0:
        raise ValueError("`max_body_size` is a number of bytes, 0 for any")


async def client_control(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Take no longer bodies than this (plugins/client-control.lua)."""
    most = int(plugin.conf.get("max_body_size", 0))
    length = next(iter(exchange.header("Content-Length")), None)
    if most and length is not None and int(length) > most:
        return exited(exchange, 413)
    if exchange.request.framing == "chunked":  # nginx counts when somebody reads
        exchange.most_body = most
    return None


# --- limit-req


def check_rate(conf: Mapping[str, Any]) -> None:
    """See that it can be done."""
    if conf.get("policy", "local") != "local":
        raise ValueError("the development gateway counts with `policy: local` only")
    if not float(conf.get("rate", 0)) > 0 or not float(conf.get("burst", -1)) >= 0 or not conf.get("key"):
        raise ValueError("`rate` is a number above 0, `burst` one from 0, and `key` a variable")


async def limit_req(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """So many in a second; some more have to wait (plugins/limit-req.lua, a leaky bucket)."""
    conf, name = plugin.conf, str(plugin.conf["key"])
    value: object = lua_value(exchange, name)
    if conf.get("key_type") == "var_combination":
        filled = resolved(exchange, name)
        value = None if filled == name else filled
    kind, place, _, version = plugin.key.split("#", 3)
    if not exchange.behaviour.since(14):
        place = ""  # routes of the same version have one bucket
    key = f"{exchange.client_ip if value is None else value}#{kind}#{place}#{version}"
    rate, now, buckets = float(conf["rate"]), time.monotonic(), around.counters.excess
    excess, since = buckets.get(key, (-1.0, now))
    excess = max(excess - rate * (now - since) + 1, 0.0)
    if excess > float(conf["burst"]):
        told = {"error_msg": str(conf["rejected_msg"])} if conf.get("rejected_msg") else None
        return exited(exchange, int(conf.get("rejected_code", 503)), told)
    if key not in buckets and len(buckets) >= _MOST_KEYS:
        del buckets[next(iter(buckets))]
    buckets[key] = excess, now
    if not conf.get("nodelay") and excess / rate >= 0.001:
        await asyncio.sleep(excess / rate)
    return None


# --- csrf


def check_csrf(conf: Mapping[str, Any]) -> None:
    """See that there is a key."""
    if not isinstance(conf.get("key"), str):
        raise ValueError("`key` is needed, a text")


def _name(conf: Mapping[str, Any]) -> str:
    return str(conf.get("name", "apisix-csrf-token"))


def _sign(conf: Mapping[str, Any], number: float, expires: float) -> str:
    signed = f"{{expires:{expires:.14g},random:{number:.14g},key:{conf['key']}}}"
    return hashlib.sha256(signed.encode()).hexdigest()


def _is_good(conf: Mapping[str, Any], token: str) -> bool:
    try:
        said = json.loads(base64.b64decode(token))
        number, expires, sign = float(said["random"]), float(said["expires"]), said["sign"]
    except (ValueError, KeyError, TypeError):
        return False
    lasts = int(conf.get("expires", 7200))
    return not (lasts > 0 and int(time.time()) - expires > lasts) and sign == _sign(conf, number, expires)


async def csrf(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Want the token of an earlier answer, as a header beside the cookie (plugins/csrf.lua)."""
    if exchange.method in _SAFE:
        return None
    name = _name(plugin.conf)
    header, cookie = next(iter(exchange.header(name)), ""), lua_value(exchange, f"cookie_{name}")
    why = None
    if not header:
        why = "no csrf token in headers"
    elif cookie is None:
        why = "no csrf cookie"
    elif header != cookie:
        why = "csrf token mismatch"
    elif not _is_good(plugin.conf, header):
        why = "Failed to verify the csrf token signature"
    return None if why is None else exited(exchange, 401, {"error_msg": why})


def add_token(exchange: Exchange, answer: Answer, plugin: PluginConf) -> Answer:
    """Give the client a token."""
    conf, number, now = plugin.conf, random.random(), int(time.time())  # noqa: S311 - as APISIX makes it
    said = {"random": float(f"{number:.14g}"), "expires": now, "sign": _sign(conf, number, now)}
    token = base64.b64encode(json.dumps(said, separators=(",", ":")).encode()).decode()
    until = time.strftime("%a, %d-%b-%y %H:%M:%S GMT", time.gmtime(now + int(conf.get("expires", 7200))))
    cookie = f"{_name(conf)}={token};path=/;SameSite=Lax;Expires={until}"
    answer.headers = [*answer.headers, ("Set-Cookie", header_value(cookie))]
    return answer
