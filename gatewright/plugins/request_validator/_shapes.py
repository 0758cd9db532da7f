"""What a schema says of a value's shape, beside whether it is right: what text may stand for, and which defaults.

Arguments, headers, paths and forms are text; a schema that wants an integer means text that is one. And a default is
filled in where its property is missing. Both look at what holds whatever the value is (`properties`, `items`, `allOf`,
`$ref` within the document), not at alternatives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

from gatewright.plugins.request_validator._schemas import Schema

__all__ = ["Shape", "shape_of"]

_INTEGER: Final = re.compile(r"-?(?:0|[1-9]\d{0,18})")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,18})(?:\.\d{1,30})?(?:[eE][+-]?\d{1,3})?")
_ABSENT: Final = object()
_DEEPEST: Final = 32


@dataclass(slots=True)
class Shape:
    """A value's shape.

    Attributes:
        types: JSON types that it may have; none: nothing is said.
        default: what it is where it is absent.
        properties: an object's.
        items: an array's elements'.
        fills: there is a default in here, somewhere.
    """

    types: frozenset[str] = frozenset()
    default: Any = _ABSENT
    properties: dict[str, Shape] = field(default_factory=dict)
    items: Shape | None = None
    fills: bool = False

    @property
    def has_default(self) -> bool:
        """It may be filled in where it is absent."""
        return self.default is not _ABSENT

    # --- text

    def of_texts(self, values: Sequence[str]) -> Any:
        """What one or more values of one name stand for; text that stands for nothing stays text, to be found wrong."""
        if "array" in self.types:
            return [self.items.of_texts([each]) if self.items is not None else each for each in values]
        if len(values) != 1:
            return list(values)
        return self._of_text(values[0])

    def _of_text(self, text: str) -> Any:
        types = self.types
        if not types or "string" in types:
            return text
        if "integer" in types and _INTEGER.fullmatch(text):
            return int(text)
        if "number" in types and _NUMBER.fullmatch(text):
            return float(text) if set(text) & set(".eE") else int(text)
        if "boolean" in types and text in ("true", "false"):
            return text == "true"
        if "null" in types and not text:
            return None
        return text

    # --- defaults

    def fill(self, value: Any) -> bool:
        """Fill defaults in, in place; whether there were any to fill in."""
        filled = False
        if isinstance(value, dict):
            for name, shape in self.properties.items():
                if name in value:
                    filled |= shape.fills and shape.fill(value[name])
                elif shape.default is not _ABSENT:
                    value[name] = deepcopy(shape.default)
                    filled = True
        elif isinstance(value, list) and self.items is not None and self.items.fills:
            for item in value:
                filled |= self.items.fill(item)
        return filled


def shape_of(schema: Schema) -> Shape:
    """The shape of a compiled schema's values."""
    return _shape(schema.source, schema, 0)


def _shape(source: Any, schema: Schema, depth: int) -> Shape:
    shape = Shape()
    if depth > _DEEPEST or not isinstance(source, Mapping):
        return shape
    _add(shape, source, schema, depth)
    if "$ref" in source:
        target = schema.resolve(source)
        if target is not source and isinstance(target, Mapping):
            _add(shape, target, schema, depth)
    inner = [*shape.properties.values(), *([shape.items] if shape.items is not None else [])]
    shape.fills = any(each.fills or each.default is not _ABSENT for each in inner)
    return shape


def _add(shape: Shape, source: Mapping[str, Any], schema: Schema, depth: int) -> None:
    said = source.get("type")
    types = frozenset([said] if isinstance(said, str) else said if isinstance(said, list) else ())
    shape.types = shape.types or types
    if "default" in source and shape.default is _ABSENT:
        shape.default = source["default"]
    properties = source.get("properties")
    for name, each in properties.items() if isinstance(properties, Mapping) else ():
        shape.properties.setdefault(name, _shape(each, schema, depth + 1))
    if shape.items is None and isinstance(source.get("items"), Mapping):
        shape.items = _shape(source["items"], schema, depth + 1)
    for each in source["allOf"] if isinstance(source.get("allOf"), list) else ():
        other = _shape(each, schema, depth + 1)
        shape.types = shape.types or other.types
        shape.default = other.default if shape.default is _ABSENT else shape.default
        shape.items = shape.items or other.items
        for name, inner in other.properties.items():
            shape.properties.setdefault(name, inner)
