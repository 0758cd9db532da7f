"""A cache that forgets: what has expired, and what was used longest ago once there is too much."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

__all__ = ["ExpiringCache"]

K = TypeVar("K")
V = TypeVar("V")


class ExpiringCache(Generic[K, V]):
    """Values by key, for one event loop."""

    def __init__(
        self,
        most: int,
        *,
        most_bytes: int = 0,
        size_of: Callable[[V], int] = lambda _: 0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Begin empty.

        Args:
            most: how many values at most.
            most_bytes: how large all may be together; 0: any.
            size_of: a value's size in bytes.
            clock: the time in seconds.
        """
        self._most = most
        self._most_bytes = most_bytes
        self._size_of = size_of
        self._clock = clock
        self._entries: OrderedDict[K, tuple[float, int, V]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, if it is here and has not expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= self._clock():
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[2]

    def put(self, key: K, value: V, seconds: float) -> None:
        """Keep a value for some seconds; none, or less, drops what is here."""
        self.drop(key)
        size = self._size_of(value)
        if seconds <= 0 or (self._most_bytes and size > self._most_bytes):
            return
        self._entries[key] = self._clock() + seconds, size, value
        self.bytes += size
        while len(self._entries) > self._most or (self._most_bytes and self.bytes > self._most_bytes):
            _, (_, size, _) = self._entries.popitem(last=False)
            self.bytes -= size

    def drop(self, key: K) -> None:
        """Forget a value, if it is here."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry[1]

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self.bytes = 0
