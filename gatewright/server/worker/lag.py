"""How late the loop is: the surest sign that something holds it, or that there is more work than time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["LagMeter"]

_TURN_SECONDS = 15.0


class LagMeter:
    """Measures how much later than due a timer runs, and says when that passes a limit.

    Attributes:
        last: the latest lag, seconds.
    """

    INTERVAL = 0.1

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float, on_change: Callable[[bool], None]) -> None:
        """Make a meter.

        Args:
            loop: the loop to measure.
            limit: seconds of lag that mean overload; 0 for none.
            on_change: told when that begins and when it's over.
        """
        self._loop = loop
        self._limit = limit
        self._on_change = on_change
        self._due = 0.0
        self._over = False
        self.last = 0.0
        self._highest = self._highest_before = 0.0
        self._turn = 0.0

    def measure(self) -> None:
        """To be called every `INTERVAL` seconds."""
        now = self._loop.time()
        if self._due:
            self.last = max(now - self._due, 0.0)
            self._highest = max(self._highest, self.last)
        if now >= self._turn:
            self._turn = now + _TURN_SECONDS
            self._highest_before, self._highest = self._highest, self.last
        self._due = now + self.INTERVAL
        over = 0 < self._limit < self.last
        if over != self._over:
            self._over = over
            self._on_change(over)

    @property
    def highest(self) -> float:
        """The highest lag of late, so that whoever looks every quarter of a minute misses none."""
        return max(self._highest, self._highest_before)
