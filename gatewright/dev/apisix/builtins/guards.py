"""What keeps requests out: ip-restriction, referer-restriction, ua-restriction, uri-blocker, limit-count."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from gatewright.dev.apisix.builtins.shape import Around
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.exits import exited
from gatewright.dev.apisix.expressions import address_matches
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.apisix.variables import lua_value, resolved
from gatewright.dev.messages import Answer
from gatewright.dev.nginx import set_header

__all__ = [
    "check_addresses", "check_limit", "check_patterns", "ip_restriction", "limit_count", "referer_restriction",
    "ua_restriction", "uri_blocker",
]  # fmt: skip

_MOST_KEYS = 10_000


def check_addresses(conf: Mapping[str, Any]) -> None:
    """See that addresses are some."""
    for each in (*(conf.get("whitelist") or ()), *(conf.get("blacklist") or ())):
        ip_network(str(each), strict=False)


async def ip_restriction(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """By the client's address (plugins/ip-restriction.lua)."""
    conf = plugin.conf
    block = address_matches(exchange.client_ip, conf.get("blacklist") or ())
    if conf.get("whitelist"):
        block = not address_matches(exchange.client_ip, conf["whitelist"])
    if not block:
        return None
    status = int(conf.get("response_code", 403)) if exchange.behaviour.since(13) else 403
    return exited(exchange, status, {"message": str(conf.get("message", "Your IP address is not allowed"))})


_REFERER = re.compile(r"(?:(https?):)?//([^\[\]:/?]+|\[.+\])")


async def referer_restriction(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """By the host of the page that led here (plugins/referer-restriction.lua)."""
    conf = plugin.conf
    found = _REFERER.match(str(lua_value(exchange, "http_referer") or ""))
    if found is None:
        block = not conf.get("bypass_missing")
    else:
        hosts: Sequence[str] = conf.get("whitelist") or conf.get("blacklist") or ()
        among = any(found[2].endswith(h[1:]) if h.startswith("*") else found[2] == h for h in hosts)
        block = among != bool(conf.get("whitelist"))
    if not block:
        return None
    return exited(exchange, 403, {"message": str(conf.get("message", "Your referer host is not allowed"))})


def check_patterns(conf: Mapping[str, Any]) -> None:
    """See that patterns are some."""
    for field in ("block_rules", "allowlist", "denylist"):
        for pattern in conf.get(field) or ():
            re.compile(str(pattern))


async def ua_restriction(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """By the client's program (plugins/ua-restriction.lua)."""
    conf = plugin.conf
    agents = exchange.header("User-Agent")
    if not agents:
        passes = bool(conf.get("bypass_missing"))
    elif conf.get("allowlist"):
        passes = any(re.search(rule, agent.strip()) for agent in agents for rule in conf["allowlist"])
    else:
        passes = not any(re.search(rule, agent.strip()) for agent in agents for rule in conf.get("denylist") or ())
    return None if passes else exited(exchange, 403, {"message": str(conf.get("message", "Not allowed"))})


async def uri_blocker(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """By patterns on path and query (plugins/uri-blocker.lua)."""
    conf = plugin.conf
    flags = re.IGNORECASE if conf.get("case_insensitive") else 0
    asked = str(lua_value(exchange, "request_uri"))
    if not conf.get("block_rules") or not re.search("|".join(conf["block_rules"]), asked, flags):
        return None
    told = {"error_msg": str(conf["rejected_msg"])} if conf.get("rejected_msg") else None
    return exited(exchange, int(conf.get("rejected_code", 403)), told)


def check_limit(conf: Mapping[str, Any]) -> None:
    """See that it can be done."""
    if conf.get("policy", "local") != "local" or conf.get("rules") or conf.get("window_type", "fixed") != "fixed":
        raise ValueError("the development gateway counts with `policy: local` and fixed windows only")
    if not (int(conf.get("count", 0)) > 0 and int(conf.get("time_window", 0)) > 0):
        raise ValueError("`count` and `time_window` are numbers above 0")


def _place(plugin: PluginConf) -> str:
    """Where a plugin is and what it says: all consumers of a route have one counter, which a reload doesn't touch."""
    kind, place, *_ = plugin.key.split("#")
    if kind.endswith("&consumer_group"):
        kind, place = kind.removesuffix("&consumer_group"), place.rpartition("&")[0]
    if kind.endswith("&consumer"):
        kind, place = kind.removesuffix("&consumer"), place.rpartition("&")[0]
    return f"{kind}#{place}#{sorted(plugin.conf.items())}"


async def limit_count(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """So many in a window of time (plugins/limit-count.lua)."""
    conf, kind = plugin.conf, plugin.conf.get("key_type", "var")
    name = str(conf.get("key", "remote_addr"))
    value: object = name
    if kind == "var":
        value = lua_value(exchange, name)
    elif kind == "var_combination":
        value = resolved(exchange, name)
    key = f"{conf.get('group') or _place(plugin)}:{exchange.client_ip if value is None else value}"
    count, now, left = int(conf["count"]), time.time(), around.counters.left
    if len(left) >= _MOST_KEYS:
        for each in [each for each, (_, until) in left.items() if until <= now] or list(left)[:1]:
            del left[each]
    remaining, until = left.get(key, (count, 0.0))
    if until <= now:
        remaining, until = count, int(now) + float(conf["time_window"])
    remaining -= 1
    left[key] = remaining, until
    if conf.get("show_limit_quota_header", True):
        shown = (("Limit", count), ("Remaining", max(remaining, 0)), ("Reset", max(int(until) - int(now), 0)))
        for word, number in shown:
            exchange.response_headers = set_header(exchange.response_headers, f"X-RateLimit-{word}", [str(number)])
    if remaining >= 0:
        return None
    told = {"error_msg": str(conf["rejected_msg"])} if conf.get("rejected_msg") else None
    return exited(exchange, int(conf.get("rejected_code", 503)), told)
