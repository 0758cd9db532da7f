"""A dict as 0.2.0 hands it out: what is changed in it is changed in the request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gatewright.datastructures import Headers, Query

__all__ = ["LiveDict"]

_MISSING: Any = object()


class LiveDict(dict[str, str]):
    """The first value of each name. Changes go on to the headers or arguments that it was made of."""

    def __init__(self, mapping: Headers | Query) -> None:
        """Show what is there now.

        Args:
            mapping: where changes go.
        """
        super().__init__(mapping)
        self._mapping = mapping
        self._folds = isinstance(mapping, Headers)

    def _key(self, name: str) -> str:
        return name.lower() if self._folds and isinstance(name, str) else name

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(self._key(name))

    def __contains__(self, name: object) -> bool:
        return super().__contains__(self._key(name))  # type: ignore[arg-type]  # what is no name is not in here

    def get(self, name: str, default: Any = None) -> Any:
        """A value, or `default`."""
        return super().get(self._key(name), default)

    def __setitem__(self, name: str, value: str) -> None:
        self._mapping[name] = value
        super().__setitem__(self._key(name), value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(self._key(name))
        self._mapping.discard(name)

    def pop(self, name: str, default: Any = _MISSING) -> Any:
        """Take a value out."""
        if name in self:
            value = self[name]
            del self[name]
            return value
        if default is _MISSING:
            raise KeyError(name)
        return default

    def popitem(self) -> tuple[str, str]:
        """Take the last one out."""
        for name in reversed(self):
            return name, self.pop(name)
        raise KeyError("it is empty")

    def setdefault(self, name: str, default: Any = None) -> Any:
        """A value, set if there is none."""
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, other: Mapping[str, str] | Iterable[tuple[str, str]] = (), /, **more: str) -> None:  # type: ignore[override]
        """Set several."""
        for name, value in {**dict(other), **more}.items():
            self[name] = value

    def __ior__(self, other: Any) -> LiveDict:  # type: ignore[override, misc]
        self.update(other)
        return self

    def clear(self) -> None:
        """Delete all."""
        for name in list(self):
            del self[name]
