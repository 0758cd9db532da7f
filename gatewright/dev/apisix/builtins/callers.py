"""Who calls, and who may: key-auth, basic-auth, consumer-restriction."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from gatewright.dev.apisix.builtins.shape import Around
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.exits import exited
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.messages import Answer, raw, text_of
from gatewright.dev.nginx import format_args, set_header

__all__ = ["basic_auth", "check_basic_auth", "check_key_auth", "consumer_restriction", "key_auth"]


def _refused(exchange: Exchange, why: str, challenge: str) -> Answer:
    if exchange.behaviour.challenges:
        exchange.response_headers = set_header(exchange.response_headers, "WWW-Authenticate", [challenge])
    return exited(exchange, 401, {"message": why})


def _consumers_of(around: Around, plugin: str, field: str) -> dict[str, str]:
    """Names by what a plugin knows them by; who comes later in the file wins."""
    return {str(plugins[plugin][field]): name for name, plugins in around.consumers.items() if plugin in plugins}


def _attach(exchange: Exchange, name: str, around: Around) -> None:
    exchange.consumer_name = name
    if exchange.behaviour.names_consumer:
        exchange.set_header("X-Consumer-Username", name)
        exchange.set_header("X-Credential-Identifier", None)
        exchange.set_header("X-Consumer-Custom-ID", around.custom_ids.get(name))


def check_key_auth(conf: Mapping[str, Any]) -> None:
    """See that it can be done."""
    if conf.get("anonymous_consumer"):
        raise ValueError("`anonymous_consumer` is not supported by the development gateway")


check_basic_auth = check_key_auth


async def key_auth(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Find the consumer by a key in a header or an argument (plugins/key-auth.lua)."""
    conf = plugin.conf
    header, argument = str(conf.get("header", "apikey")), str(conf.get("query", "apikey"))
    challenge = f'apikey realm="{conf.get("realm", "key")}"'
    sent = exchange.header(header)
    values: list[str | None] = [*sent] or list(exchange.args().get(argument, ()))
    if not values:
        found = "found " if not exchange.behaviour.first_header else ""
        return _refused(exchange, f"Missing API key {found}in request", challenge)
    known = _consumers_of(around, "key-auth", "key")
    if not known and not exchange.behaviour.since(12):
        return _refused(exchange, "Missing related consumer", challenge)
    # An empty header is a key, too; one that comes twice, or an argument without a value, is none that anybody has.
    key = values[0] if len(values) == 1 else None
    if key is None or key not in known:
        return _refused(exchange, "Invalid API key in request", challenge)
    if conf.get("hide_credentials"):
        if sent:
            exchange.set_header(header, None)
        else:
            left = {name: each for name, each in exchange.args().items() if name != argument}
            exchange.set_args_text(format_args(left))
    _attach(exchange, known[key], around)
    return None


def _credentials(header: str, *, any_case: bool) -> tuple[str, str] | None:
    found = re.search(r"Basic\s(.+)", header, re.IGNORECASE if any_case else 0)
    if found is None:
        return None
    text = raw(found[1].partition("=")[0])
    if re.search(rb"[^A-Za-z0-9+/]", text) or len(text) % 4 == 1:
        return None
    parts = text_of(base64.b64decode(text + b"=" * (-len(text) % 4))).split(":")
    while parts and not parts[-1]:
        parts.pop()
    if len(parts) < 2:
        return None
    name, password = (re.sub(r"\s+", "", part) for part in parts[:2])
    return name, password


async def basic_auth(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Find the consumer by name and password (plugins/basic-auth.lua)."""
    challenge = f'Basic realm="{plugin.conf.get("realm", "basic")}"'
    header = next(iter(exchange.header("Authorization")), None)
    if header is None:
        if not exchange.behaviour.challenges:
            exchange.response_headers = set_header(exchange.response_headers, "WWW-Authenticate", ["Basic realm='.'"])
        return _refused(exchange, "Missing authorization in request", challenge)
    came = _credentials(header, any_case=exchange.behaviour.since(14))
    if came is None:
        return _refused(exchange, "Invalid authorization in request", challenge)
    known = _consumers_of(around, "basic-auth", "username")
    if not known and not exchange.behaviour.since(12):
        return _refused(exchange, "Missing related consumer", challenge)
    name = known.get(came[0])
    if name is None or str(around.consumers[name]["basic-auth"].get("password")) != came[1]:
        return _refused(exchange, "Invalid user authorization", challenge)
    if plugin.conf.get("hide_credentials"):
        exchange.set_header("Authorization", None)
    _attach(exchange, name, around)
    return None


async def consumer_restriction(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Let some consumers pass, or those of some routes (plugins/consumer-restriction.lua)."""
    conf = plugin.conf
    kind = str(conf.get("type", "consumer_name"))
    value = exchange.consumer_name if kind == "consumer_name" else exchange.route_facts.get(kind)
    if value is None:
        return exited(exchange, 401, {"message": f"The request is rejected, please check the {kind} for this request"})
    refused = _refusal_of(conf, kind)
    if value in (conf.get("blacklist") or ()):
        return exited(exchange, *refused)
    allowed = conf.get("whitelist") or ()
    block = bool(allowed) and value not in allowed
    if value not in allowed:
        rule = next((each for each in conf.get("allowed_by_methods") or () if each.get("user") == value), None)
        block = block or (rule is not None and exchange.method not in (rule.get("methods") or ()))
    return exited(exchange, *refused) if block else None


def _refusal_of(conf: Mapping[str, Any], kind: str) -> tuple[int, dict[str, str]]:
    """Status and message of a refusal."""
    return int(conf.get("rejected_code", 403)), {"message": str(conf.get("rejected_msg", f"The {kind} is forbidden."))}
