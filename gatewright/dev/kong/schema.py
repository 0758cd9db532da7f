"""Plugin configurations, checked and filled in as Kong does it, after the schema that a plugin server dumps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gatewright.errors import ConfigError

__all__ = ["filled"]

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
        if not field.get("required"):
            return None
        if field.get("type") != "record":
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
    elif size < field.get("len_min", 0):
        problem = f"length must be at least {field['len_min']}"
    elif "len_max" in field and size > field["len_max"]:
        problem = f"length must be at most {field['len_max']}"
    elif isinstance(value, str) and not value.startswith(field.get("starts_with", "")):
        problem = f"should start with: {field['starts_with']}"
    if problem:
        raise ConfigError(f"{where}: {problem}")
