"""What a plugin server tells Kong of its plugins: names, phases, priorities, and schemas in Kong's own form."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from gatewright.errors import ConfigError
from gatewright.field_docs import described_schema
from gatewright.plugin import Plugin
from gatewright.runtime.kong_schema import faults

__all__ = ["PROTOCOLS", "dump", "kong_fields", "own_stdout", "plugin_info", "without_nulls"]

PROTOCOLS = {"msgpack": "MsgPack:1", "protobuf": "ProtoBuf:1"}
"""What Kong calls the protocols."""

_TYPES = {"string": "string", "integer": "integer", "number": "number", "boolean": "boolean"}
_TEXT = {"type": "string", "len_min": 0}
_HAS_LENGTH = ("string", "array", "map")
_SHORTEST_DESCRIPTION, _LONGEST_DESCRIPTION = 10, 500
_MAX_DEPTH = 32
_LIMITS = {"minLength": "len_min", "maxLength": "len_max", "minItems": "len_min", "maxItems": "len_max"}


def plugin_info(plugin: type[Plugin]) -> dict[str, Any]:
    """One plugin's entry in a dump (Kong's process.lua, `query_external_plugin_info`)."""
    own = getattr(plugin, "kong_schema", None)
    fields = list(own) if own is not None else kong_fields(described_schema(plugin.Config))
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
    word for (a union, say) is left unchecked there as a string, and checked by the plugin's own model. Kong is told
    nothing that it would not start with (see `runtime.kong_schema`), and refuses nothing that the model takes: text may
    be empty, a record need not be there, what may be `null` is not required.
    """
    definitions = schema.get("$defs", {})
    return _fields(_resolved(schema, definitions), definitions)


def without_nulls(schema: Mapping[str, Any], value: Any) -> Any:
    """A configuration without the fields that Kong made `null` because they were left out, at any depth.

    Args:
        schema: the JSON Schema that `kong_fields` had.
        value: the configuration as Kong completed it.
    """
    return _without_nulls(schema, schema.get("$defs", {}), value)


def _without_nulls(schema: Mapping[str, Any], definitions: Mapping[str, Any], value: Any) -> Any:
    schema = _without_null(_resolved(schema, definitions), definitions)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [_without_nulls(schema["items"], definitions, item) for item in value]
    if not isinstance(value, dict):
        return value
    known, needed = schema.get("properties", {}), schema.get("required", ())
    others = schema.get("additionalProperties")
    others = others if isinstance(others, Mapping) else {}
    return {
        name: _without_nulls(known.get(name, others), definitions, item)
        for name, item in value.items()
        if item is not None or name in needed
    }


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


def _fields(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int = 0) -> list[dict[str, Any]]:
    required = set(schema.get("required", ()))
    fields = []
    for name, item in schema.get("properties", {}).items():
        field = _field(item, definitions, depth)
        if name in required and not _may_be_null(item, definitions):
            field["required"] = True
        elif field["type"] == "record":
            field["required"] = False  # else Kong makes one, and asks for its required fields
        default = item.get("default")
        if default is not None and default not in ({}, []) and not faults([{name: {**field, "default": default}}]):
            field["default"] = default
        fields.append({name: field})
    return fields


def _may_be_null(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool:
    schema = _resolved(schema, definitions)
    kinds = schema.get("type")
    if kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or None in schema.get("enum", ()):
        return True
    return any(_may_be_null(item, definitions) for word in ("anyOf", "oneOf") for item in schema.get(word, ()))


def _field(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    description = schema.get("description")
    schema = _without_null(_resolved(schema, definitions), definitions)
    field: dict[str, Any]
    kind = schema.get("type")
    choices = [value for value in schema.get("enum", ()) if value is not None]
    if depth > _MAX_DEPTH:  # a model that holds itself
        raise ConfigError("Kong's schemas have no word for a model that holds itself, nor for one so deep")
    if choices:
        field = _enumeration(choices)
    elif kind in _TYPES:
        field = {"type": _TYPES[kind]}
    elif kind == "array":
        items = schema.get("items")
        field = {"type": "array", "elements": _field(items, definitions, depth + 1) if items else dict(_TEXT)}
    elif kind == "object" and "properties" in schema:
        field = {"type": "record", "fields": _fields(schema, definitions, depth + 1)}
    elif kind == "object":
        values = schema.get("additionalProperties")
        element = _field(values, definitions, depth + 1) if isinstance(values, Mapping) and values else dict(_TEXT)
        field = {"type": "map", "keys": dict(_TEXT), "values": element}
    else:
        field = {"type": "string"}
    if field["type"] == "string":
        field["len_min"] = 0  # Kong's own is 1
        if schema.get("format") == "password":
            field["referenceable"] = True  # it may be in one of Kong's vaults
    for theirs, ours in _LIMITS.items():
        if theirs in schema and field["type"] in _HAS_LENGTH:
            field[ours] = schema[theirs]
    if kind in ("integer", "number") and not choices:
        field |= _bounds(schema, whole=kind == "integer")
    if "pattern" in schema and kind == "string":
        description = f"{description or ''} (pattern: {schema['pattern']})".strip()
    if description and len(description) >= _SHORTEST_DESCRIPTION:
        field["description"] = description[:_LONGEST_DESCRIPTION]
    return field


def _bounds(schema: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
    """Bounds in Kong's terms, never closer than they are: `between` holds its ends, and only `gt` holds none."""
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if whole:
        least, above = (above + 1 if least is None and above is not None else least), None
        most = below - 1 if most is None and below is not None else most
    low = above if least is None else least
    high = below if most is None else most
    bounds: dict[str, Any] = {"gt": above} if above is not None else {}
    if low is not None and high is not None:
        bounds["between"] = [low, high]
    elif whole and low is not None:
        bounds["gt"] = low - 1
    return bounds


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


def _enumeration(values: list[Any]) -> dict[str, Any]:
    if all(isinstance(value, str) for value in values):
        return {"type": "string", "one_of": values}
    if all(isinstance(value, bool) for value in values):
        return {"type": "boolean"}  # which Kong lets have no choices
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        whole = all(isinstance(value, int) for value in values)
        return {"type": "integer" if whole else "number", "one_of": values}
    return {"type": "string"}
