"""proxy-rewrite and response-rewrite, as plugins in the order of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gatewright.dev.apisix.builtins.shape import Around
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.expressions import condition_of
from gatewright.dev.apisix.lengths import cut_or_awaited
from gatewright.dev.apisix.rewriting import proxy_rewrite, response_rewrite
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.messages import Answer

__all__ = ["answer", "check", "rewrite"]


async def rewrite(exchange: Exchange, plugin: PluginConf, around: Around) -> Answer | None:
    """Change the request; its body, too, if it's to have another length."""
    changes = plugin.conf.get("headers") or {}
    named = [*changes, *(changes.get("set") or ()), *(changes.get("remove") or ())]
    if any(name.lower() == "content-length" for name in named):
        await exchange.read_body()
    proxy_rewrite(exchange, plugin.conf)
    return cut_or_awaited(exchange)


def answer(exchange: Exchange, given: Answer, plugin: PluginConf) -> Answer:
    """Change the answer."""
    return response_rewrite(exchange, given, plugin.conf)


def check(conf: Mapping[str, Any]) -> None:
    """See that conditions are some, and a status one that APISIX takes."""
    status = conf.get("status_code", 200)
    if not isinstance(status, int) or not 200 <= status <= 598:
        raise ValueError("`status_code` is a number from 200 to 598")
    if conf.get("vars"):
        condition_of(conf["vars"])
