"""Copies of what `request.ctx` holds, and the way back: what was changed in a copy is changed in the original.

Dicts, lists, sets and the like are copied, at any depth that honest data has; objects of other kinds are shared. Only
containers that were changed are written back, and in place: whoever holds the original goes on with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = ["Copies"]

_DEEPEST: Final = 64


class Copies:
    """Copies that belong together."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Any, list[Any]]] = []  # original, copy, and what was in the copy at first
        self._by_original: dict[int, Any] = {}
        self._originals: dict[int, Any] = {}  # by the copy's id

    def copied(self, value: Any, depth: int = 0) -> Any:
        """A copy of a value; of the same one always the same."""
        kind = type(value)
        if depth >= _DEEPEST or not (kind in _CONTAINERS or kind is tuple or (isinstance(value, dict) and not depth)):
            return value
        if id(value) in self._by_original:
            return self._by_original[id(value)]
        if kind is tuple:
            parts = tuple(self.copied(part, depth + 1) for part in value)
            made = value if all(one is other for one, other in zip(parts, value, strict=True)) else parts
            self._keep(value, made)
            return made
        made = copy.copy(value)
        self._keep(value, made)  # first: it may hold itself
        if isinstance(made, dict):
            for name, part in made.items():
                made[name] = self.copied(part, depth + 1)
        elif kind is list:
            made[:] = [self.copied(part, depth + 1) for part in made]
        self._made.append((value, made, _content(made)))
        return made

    def _keep(self, value: Any, made: Any) -> None:
        self._by_original[id(value)] = made
        self._originals[id(made)] = value

    def write_back(self) -> None:
        """Change the originals as their copies have been changed."""
        for original, made, before in self._made:
            now = _content(made)
            if len(now) != len(before) or any(one is not other for one, other in zip(now, before, strict=True)):
                put: Callable[[Any, Any, Back], None] = _CONTAINERS.get(type(made), _put_dict)
                put(original, made, self._original_of)

    def _original_of(self, value: Any) -> Any:
        return self._originals.get(id(value), value)


def _content(container: Any) -> list[Any]:
    """What a container holds, to be compared by identity."""
    if isinstance(container, dict):
        return [part for item in container.items() for part in item]
    if isinstance(container, bytearray):
        return [*container]
    return list(container)


Back = Callable[[Any], Any]


def _put_dict(original: dict[Any, Any], made: dict[Any, Any], back: Back) -> None:
    content = {name: back(part) for name, part in made.items()}
    original.clear()
    original.update(content)


def _put_list(original: list[Any], made: Iterable[Any], back: Back) -> None:
    original[:] = [back(part) for part in made]


def _put_set(original: set[Any], made: Iterable[Any], back: Back) -> None:
    content = [back(part) for part in made]
    original.clear()
    original.update(content)


def _put_bytes(original: bytearray, made: bytearray, _: Back) -> None:
    original[:] = made


_CONTAINERS: Final[dict[type, Callable[[Any, Any, Back], None]]] = {
    dict: _put_dict, list: _put_list, set: _put_set, bytearray: _put_bytes,
}  # fmt: skip
