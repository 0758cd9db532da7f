"""APISIX's `key-auth`: a route that knows its callers, before and beside a runner's plugins (plugins/key-auth.lua)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.messages import Answer, raw
from gatewright.dev.nginx import format_args

__all__ = ["authenticate", "printed"]


def printed(exchange: Exchange, status: int, message: str, *, key: str = "error_msg") -> Answer:
    """An answer of APISIX's own: JSON that Lua prints without a type of its own, beside headers that are set."""
    exchange.make_way()
    return Answer(status, [*exchange.response_headers], raw(json.dumps({key: message}, separators=(",", ":")) + "\n"))


def authenticate(
    exchange: Exchange, conf: Mapping[str, Any], consumers: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> Answer | None:
    """Find who calls, and name them in the exchange; an answer if nobody does.

    Args:
        exchange: the request.
        conf: the plugin's configuration.
        consumers: names and plugins by key.
    """
    header, argument = str(conf.get("header", "apikey")), str(conf.get("query", "apikey"))
    sent = exchange.table.get(header.lower())
    values: list[Any] = list(sent) if sent else list(exchange.args().get(argument, ()))
    if not values:
        return printed(exchange, 401, "Missing API key found in request", key="message")
    if not consumers:
        return printed(exchange, 401, "Missing related consumer", key="message")
    # An empty header is a key, too; one that comes twice, or an argument without a value, is none that anybody has.
    found = consumers.get(values[0]) if len(values) == 1 and isinstance(values[0], str) else None
    if found is None:
        return printed(exchange, 401, "Invalid API key in request", key="message")
    if conf.get("hide_credentials"):
        if sent:
            exchange.set_header(header, None)
        else:
            left = {name: each for name, each in exchange.args().items() if name != argument}
            exchange.set_args_text(format_args(left))
    exchange.consumer_name = found[0]
    return None
