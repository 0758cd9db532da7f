"""How far the faults of a value may be looked for: whether it has any is told at once, but each fault costs.

jsonschema-rs finds all of them before it gives the first one: 140,000 numbers that should be texts take seconds. And it
tells of each branch of an `anyOf` why it doesn't fit, of the branches in these, too: where a schema refers to itself,
that is twice as much, or more, with each level that a client adds. So what that may cost is estimated beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gatewright.plugins.request_validator._faults import Fault

__all__ = ["MOST_FAULTS", "TOO_LARGE", "branches_of", "may_be_told"]

TOO_LARGE: Final = Fault("body", "", "it doesn't suit, and is too large for all that is wrong to be looked for")
MOST_FAULTS: Final = 2000
"""Faults that may have to be made for one value; some 30 us each."""
_LISTS: Final = ("anyOf", "oneOf", "allOf")
_SINGLE: Final = ("if", "not", "dependentSchemas", "dependencies", "patternProperties")
_BY_OTHER_NAMES: Final = ("$dynamicRef", "$recursiveRef")


def branches_of(schema: Any, resolve: Callable[[Any], Any]) -> int:
    """By how much the faults may be multiplied with each level of a value; 1 where a schema doesn't refer to itself.

    Args:
        schema: its source.
        resolve: follows a part's `$ref`; gives the part itself where it can't.
    """
    walk = _Walk(resolve)
    try:
        walk.go(schema, frozenset())
    except RecursionError:
        walk.goes_round = True
    return walk.branches if walk.goes_round else 1


class _Walk:
    def __init__(self, resolve: Callable[[Any], Any]) -> None:
        self.branches, self.goes_round = 1, False
        self._resolve = resolve
        self._done: set[int] = set()

    def go(self, schema: Any, above: frozenset[int]) -> None:
        """Go through a part of a schema; `above` are those parts within which it was referred to."""
        if isinstance(schema, list):
            for each in schema:
                self.go(each, above)
        if not isinstance(schema, Mapping):
            return
        if "$ref" in schema:
            self._follow(schema, above)
        self.goes_round |= any(name in schema for name in _BY_OTHER_NAMES)
        if any(name in schema for name in _SINGLE):
            self.branches = max(self.branches, 2)
        for name, each in schema.items():
            if name in _LISTS and isinstance(each, list):
                self.branches = max(self.branches, len(each))
            if name not in ("const", "enum", "default", "examples"):
                self.go(each, above)

    def _follow(self, schema: Mapping[str, Any], above: frozenset[int]) -> None:
        target = self._resolve(schema)
        if target is schema or id(target) in above:
            self.goes_round = True
        elif id(target) not in self._done:
            self.go(target, above | {id(target)})
            self._done.add(id(target))


def may_be_told(value: Any, branches: int) -> bool:
    """Whether all faults of a value, which has some, may be looked for.

    Args:
        value: the value.
        branches: what `branches_of` says of the schema.
    """
    count, times, level = 0, 1, [value]
    while level:
        count += len(level) * times
        if count > MOST_FAULTS:
            return False
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        level, times = inner, times * branches
    return True
