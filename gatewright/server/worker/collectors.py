"""Collectors of plugins' metrics, which may ask a database for their numbers, and take as long as that takes.

Those that prometheus-client has itself add numbers up, and are quick. Others are asked in a thread, for which nobody
waits longer than a moment: what is told, then, is what they gave the time before.
"""

from __future__ import annotations

import _thread
import threading
from itertools import islice
from time import monotonic
from types import BuiltinFunctionType
from typing import Any, Final

from gatewright.observe.report import MOST_SAMPLES
from gatewright.runtime.failures import FailureLog

__all__ = ["Collectors", "name_of"]

_MOMENT: Final = 0.1
_LIBRARY: Final = "prometheus_client."


def name_of(collector: Any) -> str:
    """What a collector is called."""
    return str(getattr(collector, "_name", type(collector).__name__))


class _Apart:
    """A collector that is asked in a thread."""

    def __init__(self, collector: Any) -> None:
        self._collector = collector
        self._given: list[Any] = []
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.is_slow = False

    def collect(self) -> list[Any]:
        """What it gives, or gave the last time. Raises what it raised."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._ask, name="gatewright-metrics", daemon=True)
            self._thread.start()
            if not self.is_slow:
                self._thread.join(_MOMENT)
                self.is_slow = self._thread.is_alive()
        if self._error is not None:
            raise self._error.with_traceback(None)  # or it would grow with each report
        return self._given

    def _ask(self) -> None:
        try:
            self._given, self._error = _families_of(self._collector), None
        except BaseException as error:  # `collect` raises it, in the thread that reports it
            self._given, self._error = [], error


def _families_of(collector: Any) -> list[Any]:
    families = list(islice(collector.collect(), MOST_SAMPLES + 1))
    if len(families) > MOST_SAMPLES:
        raise ValueError(f"it gives more than {MOST_SAMPLES} metrics")
    return families


class Collectors:
    """Asks collectors, the slow ones in threads."""

    def __init__(self, failures: FailureLog) -> None:
        """Ask none yet.

        Args:
            failures: where it's told which are slow.
        """
        self._failures = failures
        self._apart: dict[Any, _Apart] = {}

    def keep(self, collectors: list[Any]) -> None:
        """Forget those that there are no more."""
        for gone in self._apart.keys() - set(collectors):
            del self._apart[gone]

    def collect(self, collector: Any) -> list[Any]:
        """The metrics of a collector. May raise anything."""
        apart = self._apart.get(collector)
        if apart is None and _is_the_librarys(collector):
            began = monotonic()
            families = _families_of(collector)
            if monotonic() - began > _MOMENT and _threads_are_threads():  # a gauge's own function, say
                self._apart[collector] = apart = _Apart(collector)
                apart.is_slow = True
                self._tell(collector)
            return families
        if apart is None:
            if not _threads_are_threads():
                return _families_of(collector)
            apart = self._apart[collector] = _Apart(collector)
        was_slow = apart.is_slow
        try:
            return apart.collect()
        finally:
            if apart.is_slow and not was_slow:
                self._tell(collector)

    def _tell(self, collector: Any) -> None:
        self._failures.report(
            "a plugin's metric takes long to collect: what is told of it is older from now on",
            kind="metrics",
            metric=name_of(collector)[:1000],
            cure="count in the handlers, and collect what is counted",
        )


def _is_the_librarys(collector: Any) -> bool:
    return str(type(collector).__module__).startswith(_LIBRARY)


def _threads_are_threads() -> bool:
    return isinstance(_thread.start_new_thread, BuiltinFunctionType)  # and not gevent's
