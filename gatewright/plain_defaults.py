"""A configuration's model as its JSON Schema is made from: without defaults that can't be written down as JSON.

msgspec puts each default into the schema, and a `Secret` is kept from being turned into JSON. Such a field stays one
that need not be given; what it is then, its schema doesn't say.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

import msgspec

__all__ = ["with_plain_defaults"]


def with_plain_defaults(model: Any) -> Any:
    """A type like `model`, down to the models that its fields hold, whose defaults can be turned into JSON.

    Raises:
        TypeError: a model holds itself.
    """
    return _plain_type(model, {})


def _plain_type(model: Any, made: dict[Any, Any]) -> Any:
    """The same, where what has been `made` of each model is known, and `None` as long as it's being made."""
    arguments = typing.get_args(model)
    origin = typing.get_origin(model)
    if not arguments and isinstance(model, type):
        if model not in made:
            made[model] = None
            made[model] = _plain_class(model, made)
        elif made[model] is None:
            raise TypeError(f"{model.__name__} holds itself, so a secret can't be a default in it")
        return made[model]
    if not arguments or origin is typing.Literal:
        return model
    if origin is typing.Annotated:
        return typing.Annotated[(_plain_type(arguments[0], made), *arguments[1:])]
    plain = tuple(_plain_type(each, made) for each in arguments)
    if plain == arguments:
        return model
    if origin in (typing.Union, types.UnionType):
        return typing.Union[plain]  # noqa: UP007 - of as many as there are
    return model.copy_with(plain) if hasattr(model, "copy_with") else model.__origin__[plain]


def _plain_class(model: Any, made: dict[Any, Any]) -> Any:
    if issubclass(model, msgspec.Struct):
        return _struct(model, made)
    if dataclasses.is_dataclass(model):
        return _dataclass(model, made)
    return _typed_dict(model, made) if typing.is_typeddict(model) else model


def _typed_dict(model: Any, made: dict[Any, Any]) -> Any:
    hints = typing.get_type_hints(model, include_extras=True)
    fields = {name: _plain_type(hint, made) for name, hint in hints.items()}
    # (mypy takes only what is written out for a call of TypedDict.)
    return typing.TypedDict(model.__name__, fields, total=model.__total__)  # type: ignore[operator]


def _struct(model: type[msgspec.Struct], made: dict[Any, Any]) -> type[msgspec.Struct]:
    fields: list[tuple[str, Any, Any]] = []
    for each in msgspec.structs.fields(model):
        default, factory = _plain(each.default, each.default_factory, msgspec.NODEFAULT)
        # (For mypy a field has a default or a factory; msgspec takes both where one of them is NODEFAULT.)
        field: Any = msgspec.field(default=default, default_factory=factory, name=each.encode_name)  # type: ignore[call-overload]
        fields.append((each.name, _plain_type(each.type, made), field))
    return msgspec.defstruct(
        model.__name__, fields, bases=(model,), module=model.__module__, namespace={"__doc__": model.__doc__}
    )


def _dataclass(model: Any, made: dict[Any, Any]) -> Any:
    hints = typing.get_type_hints(model, include_extras=True)
    fields = []
    for each in dataclasses.fields(model):
        default, factory = _plain(each.default, each.default_factory, dataclasses.MISSING)
        field: Any = dataclasses.field(default=default, default_factory=factory, init=each.init, kw_only=each.kw_only)
        fields.append((each.name, _plain_type(hints[each.name], made), field))
    return dataclasses.make_dataclass(
        model.__name__,
        fields,
        bases=(model,),
        namespace={"__doc__": model.__doc__, "__module__": model.__module__},
        frozen=model.__dataclass_params__.frozen,
    )


def _plain(default: Any, factory: Any, nothing: Any) -> tuple[Any, Any]:
    """A field's default and factory: where the default can't be JSON, a factory, which a schema doesn't ask."""
    if default is nothing:
        return nothing, factory
    try:
        msgspec.to_builtins(default, str_keys=True)
    except TypeError:
        return nothing, lambda: default
    return default, nothing
