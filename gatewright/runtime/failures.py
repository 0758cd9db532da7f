"""Saying what failed: one clear log line a failure, and not a million of them.

The same failure (plugin, route, kind) is logged in full a few times, then once a second with the number left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from time import monotonic, time
from typing import Any

from gatewright.errors import tangible, text_of
from gatewright.loggers import get_logger
from gatewright.redaction import redact_error, redact_fields

__all__ = ["FailureLog"]

_BURST = 5
_MAX_KINDS = 1024
_LAST = 20
_LINES_AT_ONCE = 200
_LINES_A_SECOND = 50.0
"""Of one kind, whatever they are about: a thousand routes that fail at once are not a thousand lines a second."""
_UNTOLD = ("log", "")
"""Under which lines are counted that could not be logged."""
_MOST_UNKNOWN = 64
_OTHERS = "(others)"
"""Stands for names that no plugin has, beyond some: anybody who speaks to the socket can make them up."""


class FailureLog:
    """Rate-limited error log of the plugin chains; the same traceback is written down once, not once more after it."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._log = get_logger("gatewright.runtime")
        self.counts: dict[tuple[str, str], int] = {}
        """How many, by kind and plugin."""
        self.last: deque[dict[str, Any]] = deque(maxlen=_LAST)
        """The latest ones, left out of the log or not."""
        self.known: Container[str] = ()
        """Names of plugins that there are: each is counted by name."""
        self._unknown: set[str] = set()
        self._seen: dict[tuple[str, ...], list[float]] = {}  # -> [burst left, next time, suppressed]
        self._last_told: dict[tuple[str, ...], tuple[object, int]] = {}
        self._lines: dict[str, list[float]] = {}  # by kind -> [lines left, of when, left out]

    def report(
        self,
        event: str,
        *,
        kind: str = "other",
        plugin: str = "",
        route: str = "",
        error: BaseException | None = None,
        traceback: bool = False,
        **more: Any,
    ) -> None:
        """Log a failure. Never raises.

        Args:
            event: what happened and what it meant for the request.
            kind: under which it's counted.
            plugin: the plugin's name.
            route: the gateway's key of the configuration.
            error: the cause; its message is logged.
            traceback: log the traceback too.
            more: further fields.
        """
        counted = kind, self._label(plugin)
        self.counts[counted] = self.counts.get(counted, 0) + 1
        if error is not None:
            error = tangible(error)
            more["error"] = redact_error(error)
        told = {"event": event, "plugin": plugin, "route": route, **more}
        self.last.append({"time": time(), **{name: redact_fields(value, name) for name, value in told.items()}})
        key = (event, plugin, route, type(error).__name__)
        state = self._seen.get(key)
        if state is None:
            if len(self._seen) >= _MAX_KINDS:
                del self._seen[next(iter(self._seen))]
            state = self._seen[key] = [_BURST, 0.0, 0]
        times = self._told(key, error) if traceback else 1
        if times > 1:
            more["times"] = times
        now = self._clock()
        if state[0] > 0:
            state[0] -= 1
            state[1] = now + 1.0
        elif now < state[1]:
            state[2] += 1
            return
        else:
            state[1] = now + 1.0
        if state[2]:
            more["left_out"] = int(state[2])
            state[2] = 0
        left_out = self._exhausted(kind, now)
        if left_out is None:
            return
        if left_out:
            more["others_left_out"] = left_out
        if plugin:
            more["plugin"] = plugin
        if route:
            more["route"] = route
        try:
            self._log.error(event, exc_info=error if traceback and times == 1 else None, **more)
        except BaseException:  # of what a plugin has put into logging: somebody waits for an answer all the same
            self.counts[_UNTOLD] = self.counts.get(_UNTOLD, 0) + 1

    def _told(self, key: tuple[str, ...], error: BaseException | None) -> int:
        """How often the very same has happened, one after the other: same words, same place."""
        place = error.__traceback__ if error is not None else None
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        words = text_of(error) if error is not None else ""
        told = hash(words), place and (place.tb_frame.f_code.co_filename, place.tb_lineno)
        before, times = self._last_told.get(key, (None, 0))
        times = times + 1 if before == told else 1
        self._last_told[key] = told, times
        if len(self._last_told) > _MAX_KINDS:
            del self._last_told[next(iter(self._last_told))]
        return times

    def _label(self, plugin: str) -> str:
        if not plugin or plugin in self.known or plugin in self._unknown:
            return plugin
        if len(self._unknown) >= _MOST_UNKNOWN:
            return _OTHERS
        self._unknown.add(plugin)
        return plugin

    def _exhausted(self, kind: str, now: float) -> int | None:
        """Whether there were too many lines of a kind lately (`None`), or how many were left out before this one."""
        state = self._lines.setdefault(kind, [_LINES_AT_ONCE, now, 0])
        state[0] = min(state[0] + (now - state[1]) * _LINES_A_SECOND, _LINES_AT_ONCE)
        state[1] = now
        if state[0] < 1:
            state[2] += 1
            return None
        state[0] -= 1
        left_out, state[2] = int(state[2]), 0
        return left_out
