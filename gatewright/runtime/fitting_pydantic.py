"""Fields that pydantic's models don't know, at any depth; pydantic passes over them unless a model forbids them."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

__all__ = ["unknown_to_model"]

_Unknown = Iterator[tuple[str, str, list[str]]]


def unknown_to_model(model: Any, value: Any, place: str) -> _Unknown:
    """Place, name and the names that there are, of each field that nobody reads.

    Args:
        model: a class of pydantic's.
        value: what it's to be made of.
        place: where that stands.
    """
    if "root" in model.model_fields and len(model.model_fields) == 1 and _is_root(model):
        yield from _unknown_to(model.model_fields["root"].annotation, value, place)
        return
    if not isinstance(value, Mapping):
        return
    by_name = model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name")
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias or field.alias
        names = [*_names_of(alias), *([name] if by_name else [])] if alias else [name]
        fields.update(dict.fromkeys(names, field.annotation))
    open_to_more = model.model_config.get("extra") in ("allow", "ignore")
    yield from _unknown_in(fields, value, place, open_to_more=open_to_more)


def _is_root(model: Any) -> bool:
    return bool(getattr(model, "__pydantic_root_model__", False))


def _names_of(alias: Any) -> Iterator[str]:
    """The names that an alias stands for, be it a choice, or the path to a part of a field."""
    if isinstance(alias, str):
        yield alias
    elif hasattr(alias, "choices"):
        for choice in alias.choices:
            yield from _names_of(choice)
    else:
        yield str(alias.path[0])


def _unknown_in(fields: Mapping[str, Any], value: Mapping[str, Any], place: str, *, open_to_more: bool) -> _Unknown:
    for name, inner in value.items():
        if name in fields:
            yield from _unknown_to(fields[name], inner, f"{place}.{name}")
        elif not open_to_more:
            yield place, name, list(fields)


def _unknown_to(kind: Any, value: Any, place: str) -> _Unknown:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from _unknown_to(arguments[0], value, place)
    elif origin is Union or origin is types.UnionType:
        found = [list(_unknown_to(each, value, place)) for each in arguments if _may_be(each, value)]
        if found:
            yield from min(found, key=len)  # a value is of one of them: the one that it fits best
    elif hasattr(kind, "__value__"):  # `type Rules = list[Rule]`
        yield from _unknown_to(kind.__value__, value, place)
    elif hasattr(kind, "__supertype__"):
        yield from _unknown_to(kind.__supertype__, value, place)
    elif hasattr(kind, "model_fields"):
        yield from unknown_to_model(kind, value, place)
    elif isinstance(value, Mapping):
        if dataclasses.is_dataclass(kind) or _is_typed_dict(kind):
            config = getattr(kind, "__pydantic_config__", {})
            hints = get_type_hints(kind, include_extras=True)
            yield from _unknown_in(hints, value, place, open_to_more=config.get("extra") in ("allow", "ignore"))
        elif _is_kind_of(origin, Mapping) and len(arguments) == 2:
            for name, inner in value.items():
                yield from _unknown_to(arguments[1], inner, f"{place}.{name}")
    elif isinstance(value, list) and _is_kind_of(origin, Collection) and arguments:
        fixed = origin is tuple and arguments[-1] is not ...
        for number, inner in enumerate(value):
            if not fixed or number < len(arguments):
                yield from _unknown_to(arguments[number] if fixed else arguments[0], inner, f"{place}[{number}]")


def _is_typed_dict(kind: Any) -> bool:
    """Be it `typing`'s or `typing_extensions`'."""
    return is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__total__"))


def _is_kind_of(origin: Any, kind: type) -> bool:
    return isinstance(origin, type) and issubclass(origin, kind)


def _may_be(kind: Any, value: Any) -> bool:
    """Whether a value can be of a kind, as far as that matters: what has no fields is not looked into."""
    if get_origin(kind) is Annotated:
        return _may_be(get_args(kind)[0], value)
    if hasattr(kind, "model_fields"):
        return _is_root(kind) or (isinstance(value, Mapping) and _suits_literals(kind, value))
    if kind is Any or kind is object or hasattr(kind, "__value__") or hasattr(kind, "__supertype__"):
        return True
    plain = get_origin(kind) or kind
    if isinstance(value, Mapping):
        return dataclasses.is_dataclass(plain) or _is_typed_dict(plain) or _is_kind_of(plain, Mapping)
    return isinstance(value, list) and _is_kind_of(plain, Collection) and not _is_kind_of(plain, str)


def _suits_literals(model: Any, value: Mapping[str, Any]) -> bool:
    """Whether what tells a model from others in a union is this one's."""
    return all(
        value.get(name, field.default) in get_args(field.annotation)
        for name, field in model.model_fields.items()
        if get_origin(field.annotation) is Literal
    )
