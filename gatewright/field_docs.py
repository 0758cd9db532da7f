"""What fields of a configuration mean, where their author says so in a string below each.

Python keeps no such strings, so they are read from the source; without it, a schema says nothing of them.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from msgspec import inspect as shapes

from gatewright.config import config_schema

__all__ = ["described_schema"]


def described_schema(model: Any) -> dict[str, Any]:
    """The JSON Schema of a configuration model, with what its author says of the fields.

    Raises:
        ConfigError: it is no such model.
    """
    schema = config_schema(model)
    definitions = {**schema.get("$defs", {}), getattr(model, "__name__", ""): schema}
    for made, names in _classes(model):
        place = definitions.get(made.__name__, {})
        place = schema.get("$defs", {}).get(made.__name__, place)
        for name, meaning in _meanings(made).items():
            field = place.get("properties", {}).get(names.get(name, name))
            if isinstance(field, dict):
                field.setdefault("description", meaning)
    return schema


def _classes(model: Any) -> Iterator[tuple[type[Any], dict[str, str]]]:
    """The classes that a model is made of, and what their fields are called outside."""
    if model is None:
        return
    if hasattr(model, "model_fields"):  # pydantic's
        waiting, seen = [model], set()
        while waiting:
            made = waiting.pop()
            if made in seen:
                continue
            seen.add(made)
            yield made, {name: str(field.alias or name) for name, field in made.model_fields.items()}
            waiting += [f.annotation for f in made.model_fields.values() if hasattr(f.annotation, "model_fields")]
        return
    shapes_waiting: list[Any] = [shapes.type_info(model)]
    known: set[type[Any]] = set()
    while shapes_waiting:
        shape = shapes_waiting.pop()
        made = getattr(shape, "cls", None)
        if isinstance(shape, shapes.StructType | shapes.DataclassType | shapes.TypedDictType | shapes.NamedTupleType):
            if made is None or made in known:
                continue
            known.add(made)
            yield made, {field.name: field.encode_name for field in shape.fields}
            shapes_waiting += [field.type for field in shape.fields]
        elif isinstance(shape, shapes.UnionType):
            shapes_waiting += shape.types
        elif isinstance(shape, shapes.DictType):
            shapes_waiting.append(shape.value_type)
        elif isinstance(shape, shapes.CollectionType):
            shapes_waiting.append(shape.item_type)


def _meanings(made: type[Any]) -> dict[str, str]:
    """What is said below each field of a class and of those that it is derived from."""
    found: dict[str, str] = {}
    for each in reversed(made.__mro__):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        except (OSError, TypeError, SyntaxError, IndexError):
            continue  # built in, or made in a prompt
        if not isinstance(body, ast.ClassDef):
            continue
        for field, said in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(said, ast.Expr)
                and isinstance(said.value, ast.Constant)
                and isinstance(said.value.value, str)
            ):
                found[field.target.id] = inspect.cleandoc(said.value.value)
    return found
