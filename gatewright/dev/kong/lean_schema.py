"""The lean path's two plugins, as Kong knows them (lua/kong/plugins, lua/gatewright/kong_schema.lua)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatewright.dev.kong.plugins import KnownPlugin

__all__ = ["LEAN_PLUGINS", "chain_of"]

_ENTRY: Final = (
    {"name": {"type": "string", "required": True, "len_min": 1}},
    {"config": {"type": "string"}},
)
_FIELDS: Final = (
    {"address": {"type": "string", "required": True, "default": "unix:/tmp/gatewright.sock"}},
    {"threshold": {"type": "integer", "between": [0, 10000]}},
    {
        "chain": {
            "type": "array", "required": True, "len_min": 1, "elements": {"type": "record", "fields": _ENTRY},
        },
    },
)  # fmt: skip
_EARLY: Final = {"early_response": {"type": "boolean", "default": False}}
_PRIORITY: Final = 2000


def _plugin(name: str, phases: tuple[str, ...], fields: Sequence[Mapping[str, Any]]) -> KnownPlugin:
    return KnownPlugin(name, _PRIORITY, "0.1.0", phases, fields, "", "")


LEAN_PLUGINS: Final[Mapping[str, KnownPlugin]] = {
    plugin.name: plugin
    for plugin in (
        _plugin("gatewright", ("access", "header_filter", "log"), (*_FIELDS, _EARLY)),
        _plugin("gatewright-response", ("response", "log"), _FIELDS),
    )
}
"""By name."""


def chain_of(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The runner's plugins that a configuration names, each with its own as JSON text."""
    chain = config.get("chain")
    entries = chain if isinstance(chain, list) else []
    return [(str(entry["name"]), str(entry.get("config") or "{}")) for entry in entries if "name" in entry]
