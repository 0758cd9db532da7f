"""Whether a configuration means what its author thinks: no field that nobody reads.

Such a field would leave a route open that looks guarded: `alow: [admin]`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import inspect as shapes

from gatewright.config import parse_config
from gatewright.errors import ConfigError
from gatewright.plugin import Plugin

__all__ = ["check_config", "check_fields", "with_misspelt"]


def check_config(plugin: type[Plugin], text: object) -> None:
    """See that a configuration suits a plugin: its model takes it, and knows all of its fields.

    Args:
        plugin: the plugin's class.
        text: the configuration as a gateway sends it: JSON.

    Raises:
        ConfigError: it doesn't; the message names the field.
    """
    try:
        parse_config(plugin.Config, text)
    except ConfigError as error:
        raise with_misspelt(plugin, text, error) from error.__cause__
    check_fields(plugin, text)


def with_misspelt(plugin: type[Plugin], text: object, error: ConfigError) -> ConfigError:
    """Why a configuration isn't taken, and first which field nobody knows: who writes `nme` lacks `name`."""
    try:
        check_fields(plugin, text)
    except ConfigError as unknown:
        return ConfigError(f"{unknown}; {error}")
    except (ValueError, TypeError):  # no JSON, or no object: it says so itself
        return error
    return error


def check_fields(plugin: type[Plugin], text: object) -> None:
    """See that the plugin's model knows all fields of a configuration.

    Args:
        plugin: the plugin's class; `unknown_fields = "ignore"` in it allows others.
        text: the configuration as it came: JSON.

    Raises:
        ConfigError: there is a field that nobody reads; the message names the nearest one that there is.
    """
    model = plugin.Config
    if model is None or plugin.unknown_fields == "ignore" or not isinstance(text, str) or not text.strip():
        return
    if hasattr(model, "model_fields"):
        unknown = _unknown_to_pydantic(model, json.loads(text), "$")
    else:
        unknown = _unknown_to(shapes.type_info(model), json.loads(text), "$")
    for place, name, known in unknown:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known)) or 'none'}"
        raise ConfigError(f"unknown field {name!r} - at `{place}`: {meant}")


_Unknown = Iterator[tuple[str, str, list[str]]]


def _unknown_to(shape: shapes.Type, value: Any, place: str) -> _Unknown:
    if isinstance(shape, shapes.StructType | shapes.DataclassType | shapes.TypedDictType | shapes.NamedTupleType):
        if not isinstance(value, dict):
            return
        fields = {each.encode_name: each.type for each in shape.fields}
        tag = getattr(shape, "tag_field", None)
        for name, inner in value.items():
            if name in fields:
                yield from _unknown_to(fields[name], inner, f"{place}.{name}")
            elif name != tag:
                yield place, name, list(fields)
    elif isinstance(shape, shapes.UnionType):
        found = [list(_unknown_to(each, value, place)) for each in shape.types if _may_be(each, value)]
        if found:
            yield from min(found, key=len)  # a value is of one of them: the one that it fits best
    elif isinstance(shape, shapes.CollectionType) and isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _unknown_to(shape.item_type, inner, f"{place}[{number}]")
    elif isinstance(shape, shapes.DictType) and isinstance(value, dict):
        for name, inner in value.items():
            yield from _unknown_to(shape.value_type, inner, f"{place}.{name}")


def _may_be(shape: shapes.Type, value: Any) -> bool:
    """Whether a value can be of a shape, as far as that matters: an object for what has fields."""
    if isinstance(shape, shapes.StructType) and shape.tag_field is not None:
        return isinstance(value, dict) and value.get(shape.tag_field) == shape.tag
    return isinstance(value, dict | list) and not isinstance(shape, shapes.NoneType | shapes.StrType | shapes.IntType)


def _unknown_to_pydantic(model: Any, value: Any, place: str) -> _Unknown:
    if model.model_config.get("extra") in ("allow", "ignore") or not isinstance(value, Mapping):
        return
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias or field.alias
        if alias is not None and not isinstance(alias, str):
            return  # a path or a choice: the model has its own idea of names
        fields[alias or name] = field
        if model.model_config.get("populate_by_name"):
            fields[name] = field
    for name, inner in value.items():
        if name not in fields:
            yield place, name, list(fields)
        elif hasattr(fields[name].annotation, "model_fields"):
            yield from _unknown_to_pydantic(fields[name].annotation, inner, f"{place}.{name}")
