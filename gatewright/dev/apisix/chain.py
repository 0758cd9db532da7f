"""The plugins of a route or a global rule, run one after the other as APISIX does: by priority, phase by phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gatewright.dev.answers import with_page
from gatewright.dev.apisix.builtins import BUILTINS, Around
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.exits import in_own_words
from gatewright.dev.apisix.ext_plugin import ExtPlugin
from gatewright.dev.apisix.lean import LeanPlugins
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.apisix.variables import lua_value
from gatewright.dev.messages import Answer, Headers

__all__ = ["Chain", "answered", "ordered", "run_phase", "runs"]

Chain = Mapping[str, PluginConf]

_PRIORITIES: Final = {
    "gatewright": 12000, "ext-plugin-pre-req": 12000, "gatewright-after": -3000, "ext-plugin-post-req": -3000,
    "ext-plugin-post-resp": -4000, "gatewright-response": -4000,
    **{name: plugin.priority for name, plugin in BUILTINS.items()},
}  # fmt: skip
_ASKED: Final = {
    "rewrite": ("gatewright", "ext-plugin-pre-req"), "access": ("gatewright-after", "ext-plugin-post-req"),
}  # fmt: skip
"""Who asks a runner in which phase."""


def ordered(chain: Chain) -> Iterator[tuple[str, PluginConf]]:
    """The plugins in the order in which they run."""
    places = {name: number for number, name in enumerate(_PRIORITIES)}
    return iter(
        sorted(
            chain.items(),
            key=lambda item: (-int(item[1].meta.get("priority", _PRIORITIES[item[0]])), places[item[0]]),
        )
    )


def runs(exchange: Exchange, plugin: PluginConf) -> bool:
    """Whether a plugin's condition holds; that is found out once a request."""
    if plugin.condition is None:
        return True
    if plugin.key not in exchange.conditions:
        exchange.conditions[plugin.key] = plugin.condition(lambda name: lua_value(exchange, name))
    return exchange.conditions[plugin.key]


async def run_phase(
    exchange: Exchange,
    chain: Chain,
    phase: str,
    *,
    ext: ExtPlugin,
    lean: LeanPlugins,
    around: Around,
    again: bool = False,
) -> Answer | None:
    """Run a phase; gives an answer if there is one already.

    Args:
        exchange: the request.
        chain: the plugins.
        phase: `rewrite` or `access`.
        ext: asks runners.
        lean: asks runners over the lean path.
        around: what there is beside the request.
        again: the consumer is known now, and who found out has nothing to do any more.
    """
    for name, plugin in ordered(chain):
        own = BUILTINS.get(name)
        act = None
        if own is not None and not (again and own.identifies):
            act = own.rewrite if phase == "rewrite" else own.access
        asks = name in _ASKED[phase]
        if (act is None and not asks) or not runs(exchange, plugin):
            continue
        if act is not None:
            answer = await act(exchange, plugin, around)
        elif name.startswith("gatewright"):
            answer = await lean.request_phase(exchange, name, plugin, around.consumers)
        else:
            answer = await ext.request_phase(exchange, plugin)
        if answer is not None:
            return in_own_words(answer, plugin)
    return None


def answered(exchange: Exchange, chain: Chain, answer: Answer) -> Answer:
    """An answer once the plugins have changed it."""
    for name, plugin in ordered(chain):
        own = BUILTINS.get(name)
        if own is None or own.answer is None or not answer.status:
            continue
        answer = with_page(answer)
        exchange.status, exchange.response_headers = answer.status, _sent(answer)
        if runs(exchange, plugin):
            answer = own.answer(exchange, answer, plugin)
    return answer


def _sent(answer: Answer) -> Headers:
    """The headers that variables know of: what Lua prints has a type."""
    if answer.framing not in ("stop", "chunked") or any(name.lower() == "content-type" for name, _ in answer.headers):
        return answer.headers
    return [*answer.headers, ("Content-Type", "text/plain")]
