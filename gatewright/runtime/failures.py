"""Saying what failed: one clear log line a failure, and not a million of them.

The same failure (plugin, route, kind) is logged in full a few times, then once a second with the number left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic, time
from typing import Any

import structlog

from gatewright.redaction import redact_error, redact_fields

__all__ = ["FailureLog"]

_BURST = 5
_MAX_KINDS = 1024
_LAST = 20


class FailureLog:
    """Rate-limited error log of the plugin chains."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._log = structlog.get_logger("gatewright.runtime")
        self.counts: dict[tuple[str, str], int] = {}
        """How many, by kind and plugin."""
        self.last: deque[dict[str, Any]] = deque(maxlen=_LAST)
        """The latest ones, left out of the log or not."""
        self._seen: dict[tuple[str, ...], list[float]] = {}  # -> [burst left, next time, suppressed]

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
        """Log a failure.

        Args:
            event: what happened and what it meant for the request.
            kind: under which it's counted.
            plugin: the plugin's name.
            route: the gateway's key of the configuration.
            error: the cause; its message is logged.
            traceback: log the traceback too.
            more: further fields.
        """
        counted = kind, plugin
        self.counts[counted] = self.counts.get(counted, 0) + 1
        if error is not None:
            more["error"] = redact_error(error)
        told = {"event": event, "plugin": plugin, "route": route, **more}
        self.last.append({"time": time(), **{name: redact_fields(value, name) for name, value in told.items()}})
        key = (event, plugin, route, type(error).__name__)
        state = self._seen.get(key)
        if state is None:
            if len(self._seen) >= _MAX_KINDS:
                self._seen.clear()
            state = self._seen[key] = [_BURST, 0.0, 0]
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
        if plugin:
            more["plugin"] = plugin
        if route:
            more["route"] = route
        self._log.error(event, exc_info=error if traceback else None, **more)
