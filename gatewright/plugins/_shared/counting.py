"""Counters with a bounded number of series, in prometheus-client's registry, where the runner collects them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Final

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["BoundedCounter", "Series", "counter"]

_MOST: Final = 200
_LONGEST: Final = 200
OTHER: Final = "other"
_made: dict[str, BoundedCounter] = {}  # as the registry itself: a name can be registered once in a process
_lock = Lock()


class Series:
    """What is counted of one set of labels' values. `series.count += 1` is a tenth of the library's `inc`."""

    __slots__ = ("count", "labels")

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.count = 0.0


class BoundedCounter(Collector):
    """A counter whose labels may come from requests: beyond so many series, all else is counted as `other`."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str], most: int) -> None:
        self._name, self._meaning, self._labels = name, meaning, labels
        self._most = most
        self._series: dict[tuple[str, ...], Series] = {}
        self._shown: dict[tuple[str, ...], Series] = {}
        self._rest = (OTHER,) * len(labels)
        REGISTRY.register(self)

    def add(self, *values: str, amount: float = 1.0) -> None:
        """Count something.

        Args:
            values: the labels' values, in order.
            amount: how much.
        """
        (self._series.get(values) or self.series(*values)).count += amount

    def series(self, *values: str) -> Series:
        """The series of these values, or the one of all the rest."""
        if values not in self._series and len(self._series) >= self._most:
            values = self._rest
        known = self._series.get(values)
        if known is None:
            shown = tuple(value.encode("utf-8", "backslashreplace").decode()[:_LONGEST] for value in values)
            known = self._series[values] = self._shown.setdefault(shown, Series(shown))
        return known

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for series in list(self._shown.values()):
            family.add_metric(series.labels, series.count)
        yield family


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
