"""What a plugin server tells Kong of its plugins: names, phases, priorities, and schemas in Kong's own form."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from gatewright.config import config_schema
from gatewright.plugin import Plugin

__all__ = ["PROTOCOLS", "dump", "kong_fields", "own_stdout", "plugin_info"]

PROTOCOLS = {"msgpack": "MsgPack:1", "protobuf": "ProtoBuf:1"}
"""What Kong calls the protocols."""

_TYPES = {"string": "string", "integer": "integer", "number": "number", "boolean": "boolean"}
_LIMITS = {"minLength": "len_min", "maxLength": "len_max", "minItems": "len_min", "maxItems": "len_max"}


def plugin_info(plugin: type[Plugin]) -> dict[str, Any]:
    """One plugin's entry in a dump (Kong's process.lua, `query_external_plugin_info`)."""
    own = getattr(plugin, "kong_schema", None)
    fields = list(own) if own is not None else kong_fields(config_schema(plugin.Config))
    return {
        "Name": plugin.name,
        "Phases": list(plugin.kong_phases()),
        "Priority": plugin.priority,
        "Version": plugin.version or "0.1.0",
        "Schema": {"name": plugin.name, "fields": [{"config": {"type": "record", "fields": fields}}]},
    }


def dump(plugins: Sequence[type[Plugin]], protocol: str) -> bytes:
    """What Kong's `query_cmd` has to print, as JSON. Kong 3.9 and later look at the first plugin only.

    Args:
        plugins: the plugins.
        protocol: a key of `PROTOCOLS`. A bare list means MsgPack:1, to every Kong.
    """
    infos = [plugin_info(plugin) for plugin in plugins]
    return json.dumps(infos if protocol == "msgpack" else {"Protocol": PROTOCOLS[protocol], "Plugins": infos}).encode()


@contextlib.contextmanager
def own_stdout() -> Iterator[IO[bytes]]:
    """The real standard output, while whatever plugins print goes to standard error: Kong parses every byte of it."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "wb") as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


def kong_fields(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A JSON Schema of an object as Kong's list of fields.

    Types, defaults, required fields, nested records, arrays, maps, enumerations and limits come over. What Kong has no
    word for (a union, say) is left unchecked there as a string, and checked by the plugin's own model.
    """
    definitions = schema.get("$defs", {})
    return _fields(_resolved(schema, definitions), definitions)


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


def _fields(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[dict[str, Any]]:
    required = set(schema.get("required", ()))
    fields = []
    for name, item in schema.get("properties", {}).items():
        field = _field(item, definitions)
        if name in required:
            field["required"] = True
        default = item.get("default")
        if default is not None and default not in ({}, []):
            field["default"] = default
        fields.append({name: field})
    return fields


def _field(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    description = schema.get("description")
    schema = _without_null(_resolved(schema, definitions), definitions)
    field: dict[str, Any]
    kind = schema.get("type")
    if "enum" in schema:
        field = {"type": _enum_type(schema["enum"]), "one_of": list(schema["enum"])}
    elif kind in _TYPES:
        field = {"type": _TYPES[kind]}
    elif kind == "array":
        items = schema.get("items")
        field = {"type": "array", "elements": _field(items, definitions) if items else {"type": "string"}}
    elif kind == "object" and "properties" in schema:
        field = {"type": "record", "fields": _fields(schema, definitions)}
    elif kind == "object":
        values = schema.get("additionalProperties")
        element = _field(values, definitions) if isinstance(values, Mapping) and values else {"type": "string"}
        field = {"type": "map", "keys": {"type": "string"}, "values": element}
    else:
        field = {"type": "string"}
    for theirs, ours in _LIMITS.items():
        if theirs in schema:
            field[ours] = schema[theirs]
    if "minimum" in schema and "maximum" in schema:
        field["between"] = [schema["minimum"], schema["maximum"]]
    if "pattern" in schema and kind == "string":
        description = f"{description or ''} (pattern: {schema['pattern']})".strip()
    if description:
        field["description"] = description
    return field


def _without_null(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one alternative beside null, where there is one."""
    for word in ("anyOf", "oneOf"):
        if word in schema:
            others = [item for item in schema[word] if item.get("type") != "null"]
            return _resolved(others[0], definitions) if len(others) == 1 else {}
    if isinstance(schema.get("type"), list):
        others = [kind for kind in schema["type"] if kind != "null"]
        return {**schema, "type": others[0]} if len(others) == 1 else {}
    return schema


def _enum_type(values: list[Any]) -> str:
    if all(isinstance(value, str) for value in values):
        return "string"
    return "integer" if all(isinstance(value, int) for value in values) else "number"
