"""Counters with a bounded number of series, in prometheus-client's registry, where the runner collects them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final

from prometheus_client import REGISTRY, Counter

__all__ = ["BoundedCounter", "counter"]

_MOST: Final = 200
OTHER: Final = "other"
_made: dict[str, BoundedCounter] = {}  # as the registry itself: a name can be registered once in a process
_lock = Lock()


class BoundedCounter:
    """A counter whose labels may come from requests: beyond so many series, all else is counted as `other`."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str], most: int) -> None:
        self._counter = Counter(name, meaning, labels, registry=REGISTRY)
        self._most = most
        self._children: dict[tuple[str, ...], Counter] = {}
        self._rest = (OTHER,) * len(labels)

    def add(self, *values: str, amount: float = 1.0) -> None:
        """Count something.

        Args:
            values: the labels' values, in order.
            amount: how much.
        """
        child = self._children.get(values)
        if child is None:
            child = self._child(values)
        child.inc(amount)

    def series(self, *values: str) -> Callable[[], None]:
        """What counts one more of these values: for a hot path, where it is half the price of `add`."""
        return self._child(values).inc

    def _child(self, values: tuple[str, ...]) -> Counter:
        if len(self._children) >= self._most:
            values = self._rest
        child = self._children.get(values)
        if child is None:
            shown = [value.encode("utf-8", "backslashreplace").decode()[:200] for value in values]
            child = self._children[values] = self._counter.labels(*shown)
        return child


def counter(name: str, meaning: str, labels: Sequence[str] = (), *, most: int = _MOST) -> BoundedCounter:
    """The counter of a name, made once in a process.

    Args:
        name: `rate_limit_decisions`, say; `_total` is added. Begin it with the plugin's name.
        meaning: one sentence.
        labels: names of labels; their values must not be secrets.
        most: how many series at most.
    """
    with _lock:
        if name not in _made:
            _made[name] = BoundedCounter(name, meaning, labels, most)
        return _made[name]
