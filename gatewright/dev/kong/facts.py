"""What the inspector is told of plugins and routes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gatewright.dev.inspector.facts import Facts
from gatewright.dev.kong.declarative import Declared, PluginEntry
from gatewright.dev.kong.plugins import KnownPlugin

__all__ = ["facts_of"]


def facts_of(
    known: Sequence[KnownPlugin], declared: Declared, sources: Mapping[str, Mapping[str, Any]], host: str, port: int
) -> Facts:
    """The facts.

    Args:
        known: what plugin servers say of their plugins.
        declared: routes and where plugins apply.
        sources: see `survey.sources_of`.
        host: the address that the gateway listens on.
        port: its port.
    """
    routes = [
        {
            "id": route["id"],
            "name": route.get("name") or "",
            "paths": list(route.get("paths") or ()),
            "plugins": [
                (_where(entry), entry.name, json.dumps(entry.config))
                for entry in declared.plugins
                if entry.route in (None, route["id"])
                and entry.service in (None, (route.get("service") or {}).get("id"))
            ],
        }
        for route in declared.routes.values()
    ]
    plugins = [
        {
            "name": plugin.name, "phases": list(plugin.phases), "schema": None, "needs": None,
            "source": plugin.socket, **sources.get(plugin.name, {}),
        }
        for plugin in known
    ]  # fmt: skip
    return Facts(
        url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        host=host,
        port=port,
        plugins=plugins,
        routes=routes,
    )


def _where(entry: PluginEntry) -> str:
    if entry.consumer is not None:
        return "for a consumer"
    if entry.route is not None:
        return "the route"
    return "the service" if entry.service is not None else "everywhere"
