"""Schemas of plugins as Kong takes them, and configurations, checked and filled in after them as Kong does it.

A schema that breaks a rule keeps Kong from starting at all. The rules are those of Kong's kong/db/schema/metaschema.lua
and init.lua, as tables; what is not known here is not held against a schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor
from typing import Any

from gatewright.errors import ConfigError

__all__ = ["example", "faults", "filled"]

_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "string": (lambda value: isinstance(value, str), "a string"),
    "number": (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number"),
    "integer": (lambda value: isinstance(value, int) and not isinstance(value, bool), "an integer"),
    "boolean": (lambda value: isinstance(value, bool), "a boolean"),
    "array": (lambda value: isinstance(value, list), "an array"),
    "set": (lambda value: isinstance(value, list), "a set"),
    "map": (lambda value: isinstance(value, dict), "a map"),
    "record": (lambda value: isinstance(value, dict), "a record"),
}


def filled(fields: Sequence[Mapping[str, Any]], value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A record with its defaults in place.

    Args:
        fields: the record's fields, in Kong's form: a list of names with their attributes.
        value: what the declarative file says.
        where: its place there, for messages.

    Raises:
        ConfigError: it does not suit the fields; says where and why, in Kong's words.
    """
    known = {name: attributes for field in fields for name, attributes in field.items()}
    for name in value:
        if name not in known:
            raise ConfigError(f"{where}.{name}: unknown field")
    result = {}
    for name, attributes in known.items():
        item = _filled(attributes, value.get(name), f"{where}.{name}")
        if item is not None:
            result[name] = item
    return result


def _filled(field: Mapping[str, Any], value: Any, where: str) -> Any:
    if value is None:
        value = field.get("default")
    if value is None:
        is_record = field.get("type") == "record"
        if not field.get("required", is_record):  # a record is there unless its schema says that it need not
            return None
        if not is_record:
            raise ConfigError(f"{where}: required field missing")
        value = {}
    kind = field.get("type", "string")
    if kind not in _KINDS:
        raise ConfigError(f"{where}: the plugin's schema has a type that is not known: {kind}")
    suits, expected = _KINDS[kind]
    if not suits(value):
        raise ConfigError(f"{where}: expected {expected}")
    if kind == "record":
        value = filled(field.get("fields", ()), value, where)
    elif kind in ("array", "set"):
        value = [_element(field.get("elements"), item, f"{where}[{n}]") for n, item in enumerate(value, 1)]
    elif kind == "map":
        value = {
            _element(field.get("keys"), name, where): _element(field.get("values"), item, f"{where}.{name}")
            for name, item in value.items()
        }
    _check(field, value, where)
    return value


def _element(field: Mapping[str, Any] | None, value: Any, where: str) -> Any:
    return value if field is None else _filled({**field, "required": True}, value, where)


def _check(field: Mapping[str, Any], value: Any, where: str) -> None:
    size = len(value) if isinstance(value, str | list | dict) else 0
    low, high = field.get("between", (None, None))
    problem = ""
    if "one_of" in field and value not in field["one_of"]:
        problem = f"expected one of: {', '.join(map(str, field['one_of']))}"
    elif value in field.get("not_one_of", ()):
        problem = f"must not be one of: {', '.join(map(str, field['not_one_of']))}"
    elif low is not None and not low <= value <= high:
        problem = f"value should be between {low} and {high}"
    elif "gt" in field and value <= field["gt"]:
        problem = f"value must be greater than {field['gt']}"
    elif "len_eq" in field and size != field["len_eq"]:
        problem = f"length must be {field['len_eq']}"
    elif size < (least := field.get("len_min", int(isinstance(value, str)))):  # no text is empty unless that is said
        problem = f"length must be at least {least}"
    elif "len_max" in field and size > field["len_max"]:
        problem = f"length must be at most {field['len_max']}"
    elif isinstance(value, str) and not value.startswith(field.get("starts_with", "")):
        problem = f"should start with: {field['starts_with']}"
    if problem:
        raise ConfigError(f"{where}: {problem}")


def example(fields: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The smallest record that suits the fields: those that must be there and have no default, with made-up values."""
    known = {name: attributes for field in fields for name, attributes in field.items()}
    return {
        name: _example(attributes)
        for name, attributes in known.items()
        if attributes.get("required") and attributes.get("default") is None
    }


def _example(field: Mapping[str, Any]) -> Any:
    kind = field.get("type", "string")
    if field.get("one_of"):
        return field["one_of"][0]
    if kind in ("number", "integer"):
        return _number(field, whole=kind == "integer")
    least = field.get("len_eq", field.get("len_min", 0))
    if kind == "string":
        text = field.get("starts_with", "") + "change-me"
        text = text.ljust(least, "-")
        return text[: field.get("len_eq", field.get("len_max", len(text)))]
    if kind in ("array", "set"):
        return [_example(field.get("elements", {})) for _ in range(least)]
    if kind == "map":
        return {f"change-me-{number}": _example(field.get("values", {})) for number in range(1, least + 1)}
    if kind == "record":
        return example(field.get("fields", ()))
    return False


def _number(field: Mapping[str, Any], *, whole: bool) -> float:
    low: float | None
    low, high = field.get("between", (None, None))
    above: float | None = field.get("gt")
    if above is None:
        return 1 if low is None else low
    if high is not None and not whole:
        return float((above + high) / 2)
    return max(floor(above) + 1, floor(above) + 1 if low is None else low)


# --- schemas

_TYPES = frozenset((*_KINDS, "foreign", "function", "json"))
_NEEDS = {"array": ("elements",), "set": ("elements",), "map": ("keys", "values"), "record": ("fields",)}
_ONLY_FOR = {
    "between": ("integer", "number"),
    "len_eq": ("array", "set", "string", "map"),
    "match": ("string",),
    "one_of": ("string", "number", "integer"),
    "contains": ("array", "set"),
    "is_regex": ("string",),
    "timestamp": ("number", "integer"),
    "uuid": ("string",),
    "unique": ("string", "number", "integer", "foreign"),
}
"""Attributes that only fields of some types may have."""
_DESCRIPTION = range(10, 501)
"""How long a description may be."""


def faults(fields: Sequence[Mapping[str, Any]], where: str = "") -> list[str]:
    """What Kong would not start with.

    Args:
        fields: a record's fields, in Kong's form.
        where: the record's place, for messages.
    """
    found = []
    for field in fields:
        if len(field) != 1:
            found.append(f"{where or 'fields'}: each entry has one name, not {len(field)}")
            continue
        ((name, attributes),) = field.items()
        if not name:
            found.append(f"{where or 'fields'}: a name is empty")
        found += _faults_of(attributes, f"{where}.{name}" if where else str(name))
    return found


def _faults_of(field: Any, where: str) -> list[str]:
    if not isinstance(field, Mapping):
        return [f"{where}: must be a table"]
    kind = field.get("type")
    if kind is None:
        return [f"{where}: missing type declaration"]
    if kind not in _TYPES:
        return [f"{where}: type: expected one of: {', '.join(sorted(_TYPES))}"]
    found = [
        f"{where}: field of type {kind!r} must declare {each!r}" for each in _NEEDS.get(kind, ()) if each not in field
    ]
    found += [
        f"{where}: field of type {kind!r} cannot have attribute {attribute!r}"
        for attribute in field
        if kind not in _ONLY_FOR.get(attribute, (kind,))
    ]
    description = field.get("description")
    if description is not None and len(description) not in _DESCRIPTION:
        found.append(f"{where}: description: length must be {_DESCRIPTION[0]} to {_DESCRIPTION[-1]}")
    for nested in ("elements", "keys", "values"):
        if nested in field:
            found += _faults_of(field[nested], f"{where}.{nested}")
    if isinstance(field.get("fields"), Sequence):
        found += faults(field["fields"], where)
    if not found and field.get("default") is not None and kind in _KINDS:
        try:
            _filled(field, field["default"], f"{where}: default")
        except ConfigError as error:
            found.append(str(error))
    return found
