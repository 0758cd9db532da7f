"""What there is to know of plugins and routes: what the page on plugins shows, and why one isn't called."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

__all__ = ["Facts", "plugins_view"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a development gateway has to do with.

    Attributes:
        url: the gateway's, without a path.
        host: where it can be reached.
        port: its port.
        plugins: each with `name`, `phases`, `source`, `schema` (JSON Schema, or `None`), `needs` (why `conf`, or
            else an empty configuration, won't do), and perhaps `faults`: what is wrong with its code or on its routes.
        routes: each with `id`, `name`, `paths`, and `plugins`: (where it's named, its name, its configuration).
        errors: plugins that can't be loaded.
        filled: what the gateway makes of a plugin's configuration before it hands it over; raises `ConfigError`.
        read_as_kongs: plugins that are read as Kong's plugin servers read them, by name; the others as a runner does.
        live: whether there is a gateway at all, or just a file that is looked at.
    """

    url: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    plugins: Sequence[Mapping[str, Any]] = ()
    routes: Sequence[Mapping[str, Any]] = ()
    errors: Sequence[str] = ()
    read_as_kongs: Collection[str] = ()
    live: bool = True
    filled: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda _name, config: config

    @property
    def sources(self) -> dict[str, str]:
        """The file of each plugin."""
        return {plugin["name"]: plugin["source"] for plugin in self.plugins}


_HANDLERS = {
    "ext-plugin-pre-req": "on_request",
    "ext-plugin-post-req": "on_request",
    "ext-plugin-post-resp": "on_response",
    "gatewright": "on_request",
    "gatewright-after": "on_request",
    "gatewright-response": "on_response",
}


def plugins_view(facts: Facts, outcomes: Mapping[str, Mapping[str, tuple[int, str]]]) -> list[dict[str, Any]]:
    """Each plugin with the routes that name it, and why it isn't called where it isn't.

    Args:
        facts: what there is.
        outcomes: by plugin and outcome, how often it was seen and the last reason.
    """
    known = {plugin["name"]: dict(plugin) for plugin in facts.plugins}
    named = {name for route in facts.routes for _, name, _ in route["plugins"]}
    for name in sorted(named - known.keys()):
        known[name] = {"name": name, "phases": [], "source": None, "schema": None, "needs": None}
    return [_view(plugin, facts, outcomes.get(name, {})) for name, plugin in sorted(known.items())]


def _view(plugin: dict[str, Any], facts: Facts, seen: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
    name = plugin["name"]
    routes = [
        {"id": route["id"], "name": route["name"], "paths": list(route["paths"]), "where": where, "config": config}
        for route in facts.routes
        for where, present, config in route["plugins"]
        if present == name
    ]
    return {
        **plugin,
        "called": any(outcome not in ("not called", "unknown") for outcome in seen),
        "routes": routes,
        "why_not": _why_not(plugin, routes, seen, list(facts.sources)),
        "seen": {k: n for k, (n, _) in seen.items()},
    }


def _why_not(
    plugin: Mapping[str, Any],
    routes: Sequence[Mapping[str, Any]],
    seen: Mapping[str, tuple[int, str]],
    names: Sequence[str],
) -> list[str]:
    """Reasons why a plugin isn't called, the nearest cause first; empty where it is."""
    faults = list(plugin.get("faults", ()))
    reasons = faults[:]
    if plugin["source"] is None:
        near = get_close_matches(plugin["name"], names, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        reasons.append(f"a route names it, but no plugin of this name was found{meant}")
    elif not plugin["phases"]:
        reasons.append("it has no handler: define on_request or on_response (or one of Kong's phases)")
    if not routes:
        needs = plugin.get("needs")
        reasons.append(f"it is on no route, since it needs a configuration: {needs}" if needs else "it is on no route")
    for route in routes:
        handler = _HANDLERS.get(route["where"])
        told = any(f"has no {handler}" in fault for fault in faults)
        if handler is not None and plugin["phases"] and handler not in plugin["phases"] and not told:
            reasons.append(
                f"route {route['id']} names it under {route['where']}, for which it has no {handler}: it has "
                f"{', '.join(plugin['phases'])}"
            )
        if plugin.get("needs") and route["config"] == plugin.get("conf", "{}") and not faults:
            reasons.append(f"route {route['id']} refuses requests: its configuration doesn't fit: {plugin['needs']}")
    for outcome in ("not called", "skipped"):
        if outcome in seen:
            count, why = seen[outcome]
            reasons.append(f"{outcome} {count} time{'s' * (count > 1)}, the last time because: {why}")
    return reasons
