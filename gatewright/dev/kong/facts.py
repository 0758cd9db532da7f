"""What the inspector is told of plugins and routes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatewright.dev.inspector.facts import Facts
from gatewright.dev.kong.declarative import Declared, PluginEntry
from gatewright.dev.kong.lean_schema import LEAN_PLUGINS, chain_of
from gatewright.dev.kong.plugins import KnownPlugin
from gatewright.runtime.kong_schema import filled

__all__ = ["facts_of"]


def facts_of(
    known: Sequence[KnownPlugin],
    declared: Declared,
    sources: Mapping[str, Mapping[str, Any]],
    host: str,
    port: int,
    over_lean: Sequence[Mapping[str, Any]] = (),
) -> Facts:
    """The facts.

    Args:
        known: what plugin servers say of their plugins.
        declared: routes and where plugins apply.
        sources: see `survey.sources_of`.
        host: the address that the gateway listens on.
        port: its port.
        over_lean: the plugins of the lean path's runner (see `dev.survey`).
    """
    theirs = {plugin["name"] for plugin in over_lean}
    routes = [
        {
            "id": route["id"],
            "name": route.get("name") or "",
            "paths": list(route.get("paths") or ()),
            "plugins": [
                named
                for entry in declared.plugins
                if entry.route in (None, route["id"])
                and entry.service in (None, (route.get("service") or {}).get("id"))
                for named in _named(entry)
            ],
        }
        for route in declared.routes.values()
    ]
    plugins = [
        {
            "name": plugin.name,
            "phases": list(plugin.phases),
            "schema": _schema({"type": "record", "fields": plugin.fields}),
            "needs": None,
            "source": sources.get(plugin.name, {}).get("source", plugin.socket),
        }
        for plugin in known
        if plugin.name not in theirs
    ]
    plugins += [{**plugin, "schema": plugin.get("config")} for plugin in over_lean]
    fields = {plugin.name: plugin.fields for plugin in known if plugin.name not in theirs}
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return Facts(
        url=url, host=host, port=port, plugins=plugins, routes=routes,
        read_as_kongs=fields.keys(),
        filled=lambda name, config: filled(fields[name], config, "config") if name in fields else config,
    )  # fmt: skip


_TYPES: Final = {"record": "object", "map": "object", "array": "array", "set": "array"}
_KEPT: Final = ("default", "description")


def _schema(field: Mapping[str, Any]) -> dict[str, Any]:
    """Kong's form of a schema as a JSON Schema, as far as a form needs one."""
    kind = field.get("type", "string")
    schema: dict[str, Any] = {"type": _TYPES.get(kind, kind), **{key: field[key] for key in _KEPT if key in field}}
    if "one_of" in field:
        schema["enum"] = list(field["one_of"])
    if "between" in field:
        schema["minimum"], schema["maximum"] = field["between"]
    if kind == "record":
        known = {name: attributes for each in field.get("fields", ()) for name, attributes in each.items()}
        schema["properties"] = {name: _schema(attributes) for name, attributes in known.items()}
        schema["required"] = [
            name for name, each in known.items() if each.get("required") and each.get("default") is None
        ]
    elif kind in ("array", "set") and isinstance(field.get("elements"), Mapping):
        schema["items"] = _schema(field["elements"])
    return schema


def _named(entry: PluginEntry) -> list[tuple[str, str, str]]:
    """Where a plugin is named, its name, and its configuration; of the lean path's each of its chain."""
    if entry.name in LEAN_PLUGINS:
        return [(entry.name, name, config) for name, config in chain_of(entry.config)]
    return [(_where(entry), entry.name, json.dumps(entry.config))]


def _where(entry: PluginEntry) -> str:
    if entry.consumer is not None:
        return "for a consumer"
    if entry.route is not None:
        return "the route"
    return "the service" if entry.service is not None else "everywhere"
