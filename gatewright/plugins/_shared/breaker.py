"""A circuit breaker: who is down is left alone for a while, so that nobody waits for a timeout again and again.

closed --(so many failures in a row)--> open --(some time)--> half open --(one try succeeds)--> closed
                                          ^------------------------(it fails: twice the time)----'
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from random import random
from time import monotonic

__all__ = ["CircuitBreaker", "CircuitState"]


class CircuitState(Enum):
    """Whether tries are let through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class CircuitBreaker:
    """The state of one server, for one event loop.

    if breaker.allows():
        try: ...
        except OSError: breaker.failed()
        else: breaker.succeeded()
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        pause: float = 1.0,
        longest_pause: float = 30.0,
        trial_seconds: float = 30.0,
        clock: Callable[[], float] = monotonic,
        on_change: Callable[[CircuitState], None] = lambda _state: None,
    ) -> None:
        """Begin closed.

        Args:
            failures: failures in a row that open it.
            pause: seconds until the next try, at first; with each failure twice that, and a random tenth more.
            longest_pause: seconds, the most that it becomes.
            trial_seconds: after so long a try of which nothing was heard is taken for failed.
            clock: the time in seconds.
            on_change: told of the new state.
        """
        self.state = CircuitState.CLOSED
        self._failures, self._pause, self._longest = failures, pause, longest_pause
        self._trial_seconds = trial_seconds
        self._clock, self._on_change = clock, on_change
        self._in_a_row = self._opened = 0
        self._until = 0.0

    def allows(self) -> bool:
        """Whether to try. While it is half open, one may: who was allowed must tell what came of it."""
        if self.state is CircuitState.CLOSED:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self._until = now + self._trial_seconds
        self._change(CircuitState.HALF_OPEN)
        return True

    @property
    def retry_after(self) -> float:
        """Seconds until the next try."""
        return max(self._until - self._clock(), 0.0) if self.state is not CircuitState.CLOSED else 0.0

    def succeeded(self) -> None:
        """A try went well."""
        self._in_a_row = self._opened = 0
        self._change(CircuitState.CLOSED)

    def failed(self) -> None:
        """A try went wrong."""
        self._in_a_row += 1
        if self.state is CircuitState.OPEN:
            return  # it began before
        if self.state is CircuitState.HALF_OPEN or self._in_a_row >= self._failures:
            pause = min(self._pause * 2**self._opened, self._longest)
            self._opened += 1
            self._until = self._clock() + pause * (1 + random() / 10)  # noqa: S311 - not to come all at once
            self._change(CircuitState.OPEN)

    def _change(self, state: CircuitState) -> None:
        if state is not self.state:
            self.state = state
            self._on_change(state)
