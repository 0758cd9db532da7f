"""Configurations as they may be shown: without what their models call secret, whatever a field's name is.

A secret's name may say nothing (`key`, `hash`, `x-tenant`), so it takes the plugin's own schema to know it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gatewright.config import config_schema
from gatewright.errors import GatewrightError
from gatewright.redaction import REDACTED
from gatewright.runtime.shipped import is_shipped, load_shipped

__all__ = ["Schemas", "without_secrets"]

_REFERENCES: Final = ("$env://", "file:", "{vault://", "$secret://")
"""What says only where a secret is."""


_PRIVATE: Final = frozenset(("k", "d", "p", "q", "dp", "dq", "qi", "oth"))  # RFC 7518, 6


class Schemas:
    """The schemas of plugins' configurations, by name: those that were told, and those of plugins that come along."""

    def __init__(self) -> None:
        self._told: dict[str, Any] = {}
        self._shipped: dict[str, Any] = {}

    def tell(self, plugins: Iterable[Mapping[str, Any]]) -> None:
        """Take those of plugins, each with `name` and `schema`."""
        self._told = {plugin["name"]: plugin["schema"] for plugin in plugins if plugin.get("schema")}

    def of(self, name: str) -> Any:
        """A plugin's schema; `None` where it isn't known."""
        if name in self._told or not is_shipped(name):
            return self._told.get(name)
        if name not in self._shipped:
            try:
                plugin = load_shipped(name)
                self._shipped[name] = config_schema(plugin.Config) if plugin.Config is not None else None
            except GatewrightError:  # a package is missing, so nothing can be made of its configuration, either
                self._shipped[name] = None
        return self._shipped[name]

    def shown(self, value: Any) -> Any:
        """A record, a view of plugins, or a part of them, with configurations as they may be shown."""
        if isinstance(value, list):
            return [self.shown(each) for each in value]
        if not isinstance(value, Mapping):
            return value
        shown = {key: self.shown(each) if key in _ON_THE_WAY else each for key, each in value.items()}
        name = value.get("name")
        if isinstance(name, str) and isinstance(value.get("config"), str):
            shown["config"] = without_secrets(value["config"], self.of(name))
        if isinstance(name, str) and "routes" in value:
            schema = value.get("schema") or self.of(name)
            shown["routes"] = [
                {**route, "config": without_secrets(route["config"], schema)} for route in value["routes"]
            ]
        return shown


_ON_THE_WAY: Final = ("phases", "plugins")
"""Where configurations are in a record."""


def without_secrets(config: str, schema: Any) -> str:
    """A configuration's text with its secrets blacked out.

    Args:
        config: JSON.
        schema: the JSON Schema of the model that reads it; `None`: nobody knows.
    """
    if not isinstance(schema, Mapping) or '"password"' not in json.dumps(schema):
        return config
    try:
        value = json.loads(config)
    except ValueError:
        return config
    shown = _without_keys(_hidden(value, schema, schema))
    return config if shown == value else json.dumps(shown, ensure_ascii=False)


def _without_keys(value: Any) -> Any:
    """JSON Web Keys without what is private in them, or the secret that they are."""
    if isinstance(value, str):
        return REDACTED if '"kty"' in value else value
    if isinstance(value, list):
        return [_without_keys(each) for each in value]
    if not isinstance(value, dict):
        return value
    hidden = _PRIVATE if "kty" in value else ()
    return {name: REDACTED if name in hidden else _without_keys(each) for name, each in value.items()}


def _hidden(value: Any, schema: Any, root: Mapping[str, Any]) -> Any:
    for part in _alternatives(schema, root):
        if part.get("format") == "password":
            if not isinstance(value, str) or not value.startswith(_REFERENCES):
                return value if value is None else REDACTED
        elif isinstance(value, dict):
            more = part.get("additionalProperties")
            known = part.get("properties") or {}
            value = {name: _hidden(each, known.get(name, more), root) for name, each in value.items()}
        elif isinstance(value, list):
            value = [_hidden(each, part.get("items"), root) for each in value]
    return value


def _alternatives(schema: Any, root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A schema, and what it may be instead."""
    found: list[Mapping[str, Any]] = []
    left = [schema]
    while left:
        part = left.pop()
        if not isinstance(part, Mapping) or part in found:
            continue
        found.append(part)
        reference = part.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            left.append((root.get("$defs") or {}).get(reference.removeprefix("#/$defs/")))
        for name in ("anyOf", "oneOf", "allOf"):
            left += part.get(name) or ()
    return found
