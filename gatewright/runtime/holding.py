"""What is to be done about handlers that hold the loop, and so everybody else up."""

from __future__ import annotations

from gatewright.runtime.apart import Apart
from gatewright.runtime.failures import FailureLog
from gatewright.runtime.starving import Starving
from gatewright.runtime.steps import Step

__all__ = ["Holding"]


class Holding:
    """Says what held the loop, and has it run elsewhere.

    Attributes:
        starving: whether it was the machine's fault; somebody has to look from time to time.
    """

    def __init__(self, apart: Apart, failures: FailureLog, limit: float) -> None:
        """Begin without any.

        Args:
            apart: the plugins that run elsewhere.
            failures: where it's told.
            limit: seconds that a handler may hold the loop.
        """
        self._apart = apart
        self._failures = failures
        self._limit = limit
        self.starving = Starving()

    def held_the_loop(self, step: Step, seconds: float) -> None:
        """A handler kept everybody waiting: say so, and keep a `def` handler from doing it again."""
        if self.was_starving(seconds):
            return
        if step.holds_the_loop:
            self._apart.learn(step.name)
            cure = "it runs in a thread from now on; declare `blocking = True`"
        else:
            cure = "an `async def` handler must not block: await, or use a `def` handler with `blocking = True`"
        self._failures.report(
            "plugin held the loop",
            kind="held_loop",
            plugin=step.name,
            route=step.route,
            seconds=round(seconds, 3),
            cure=cure,
        )

    def was_starving(self, seconds: float) -> bool:
        """Whether what took so many seconds would have been quick, had there been a processor for it."""
        waited = self.starving.since_look()
        self.starving.look()  # what is taken off here is not taken off another one
        if seconds - waited > self._limit:
            return False
        self._failures.report(
            "the worker had to wait for a processor",
            kind="starving",
            seconds=round(waited, 3),
            cure="more processors or a higher limit of the container, fewer workers, less else on this machine",
        )
        return True

    def is_bound(self, step: Step) -> None:
        """What a plugin holds failed in another thread than its own."""
        self._failures.report(
            "plugin holds what belongs to one thread: its calls run there from now on, one after another",
            kind="thread_bound",
            plugin=step.name,
            route=step.route,
        )
