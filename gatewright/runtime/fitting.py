"""Whether a configuration means what its author thinks: no field that nobody reads.

Such a field would leave a route open that looks guarded: `alow: [admin]`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from msgspec import inspect as shapes

from gatewright.config import parse_config
from gatewright.errors import ConfigError
from gatewright.plugin import Plugin
from gatewright.runtime.fitting_pydantic import unknown_to_model

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
        unknown = unknown_to_model(model, json.loads(text), "$")
    else:
        unknown = _unknown_to(shapes.type_info(model), json.loads(text), "$")
    for place, name, known in unknown:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known)) or 'none'}"
        raise ConfigError(f"unknown field {name!r} - at `{place}`: {meant}")


_Unknown = Iterator[tuple[str, str, list[str]]]
_WITH_FIELDS = shapes.StructType | shapes.DataclassType | shapes.TypedDictType | shapes.NamedTupleType


def _unknown_to(shape: shapes.Type, value: Any, place: str) -> _Unknown:
    if isinstance(shape, shapes.Metadata):  # a description of it, say
        yield from _unknown_to(shape.type, value, place)
    elif isinstance(shape, _WITH_FIELDS):
        if isinstance(value, list) and _is_list(shape):
            for number, (each, inner) in enumerate(zip(shape.fields, value, strict=False)):
                yield from _unknown_to(each.type, inner, f"{place}[{number}]")
        elif isinstance(value, dict):
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
    elif isinstance(shape, shapes.TupleType) and isinstance(value, list):
        for number, (kind, inner) in enumerate(zip(shape.item_types, value, strict=False)):
            yield from _unknown_to(kind, inner, f"{place}[{number}]")
    elif isinstance(shape, shapes.CollectionType) and isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _unknown_to(shape.item_type, inner, f"{place}[{number}]")
    elif isinstance(shape, shapes.DictType) and isinstance(value, dict):
        for name, inner in value.items():
            yield from _unknown_to(shape.value_type, inner, f"{place}.{name}")


def _is_list(shape: shapes.Type) -> bool:
    """Whether it's written as a list, though it has fields."""
    return isinstance(shape, shapes.NamedTupleType) or bool(getattr(shape, "array_like", False))


def _may_be(shape: shapes.Type, value: Any) -> bool:
    """Whether a value can be of a shape, as far as that matters: what is no object and no list has no fields."""
    if isinstance(shape, shapes.Metadata):
        return _may_be(shape.type, value)
    if isinstance(shape, shapes.AnyType):
        return True
    if isinstance(shape, shapes.StructType) and shape.tag_field is not None and isinstance(value, dict):
        return bool(value.get(shape.tag_field) == shape.tag)
    if isinstance(value, dict):
        return isinstance(shape, shapes.DictType | _WITH_FIELDS) and not _is_list(shape)
    return isinstance(value, list) and (isinstance(shape, shapes.CollectionType | shapes.TupleType) or _is_list(shape))
