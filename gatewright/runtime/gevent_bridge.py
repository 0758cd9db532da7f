"""The bridge for gevent: handlers run in greenlets of gevent's, where everything that blocks lets others go on.

A strand's parent is gevent's hub instead of the loop's greenlet, and it is switched to by the hub only. asyncio's loop
runs in the main greenlet, on a selector that gives way to the hub (`gevent.selectors`, by monkey-patching). So a
handler may do blocking I/O, wait on locks or spawn greenlets, while the loop reads and writes the gateway's
connections. What computes for long holds everybody up, as always with gevent.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import warnings
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeVar, TypeVarTuple

import gevent
import gevent.monkey
from greenlet import getcurrent

from gatewright.errors import DeadlineExceededError, PluginError, words_of
from gatewright.runtime.bridge import Bridge
from gatewright.runtime.shared_loop import SharedLoop
from gatewright.runtime.spare_tasks import CURRENT
from gatewright.runtime.strands import SWEEP_INTERVAL, Strand

__all__ = ["GeventBridge", "GeventLoop", "patch"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def patch() -> None:
    """Make the standard library cooperative. To be called before any plugin is imported."""
    with warnings.catch_warnings():
        # It warns of modules that hold on to `ssl` as it was; none of ours does, and plugins come later.
        warnings.simplefilter("ignore", gevent.monkey.MonkeyPatchWarning)
        gevent.monkey.patch_all()


class GeventLoop(SharedLoop, asyncio.SelectorEventLoop):
    """An asyncio loop that notices what is asked of it from other greenlets while it waits in its selector."""

    _home: object = None

    def run_forever(self) -> None:
        """Run until stopped."""
        self._home = getcurrent()
        super().run_forever()

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Call something at the next turn."""
        handle = super().call_soon(callback, *args, context=context)
        self._wake()
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call something at a time."""
        handle = super().call_at(when, callback, *args, context=context)
        self._wake()
        return handle

    def _wake(self) -> None:
        if self._home is not None and getcurrent() is not self._home:
            self._write_to_self()  # type: ignore[attr-defined]  # what `call_soon_threadsafe` does


class GeventBridge(Bridge):
    """A bridge whose strands are greenlets of gevent's hub."""

    waits_here = False  # coroutines are the loop's own tasks

    def __init__(self, loop: asyncio.AbstractEventLoop, **limits: int) -> None:
        """Make a bridge; to be called in the loop's greenlet, after `patch`."""
        super().__init__(loop, **limits)
        self._loops_greenlet = getcurrent()
        self.hub = gevent.get_hub()
        self._soon: Callable[..., Any] = gevent.get_hub().loop.run_callback
        self._running: set[Strand] = set()
        self._turns: dict[Strand, int] = {}  # of strands that can be let go on; each time gives a new number
        self._turn = itertools.count(1)

    # --- from the loop

    def start(self, job: Callable[[Strand, Any], None], argument: object) -> None:
        """Run `job(strand, argument)` in a strand, soon: one of its own, since gevent's locals go by greenlet."""
        self._soon(self._begin, Strand(self, None), job, argument)

    start_apart = start_counted = start_soon = start

    def start_each(self, job: Callable[[Strand, Any], None], arguments: Sequence[object]) -> None:
        """As `start` for each argument."""
        for argument in arguments:
            self.start(job, argument)

    @staticmethod
    def _begin(strand: Strand, job: Callable[[Strand, Any], None], argument: object) -> None:
        strand.began = perf_counter()
        strand.switch(job, argument)

    def resume(self, strand: Strand, value: object = None) -> None:
        """Let a strand that is in `wait_for_resume` go on with `value`, soon."""
        self._soon(self._go_on, strand, self._turns.get(strand), strand.switch, value)

    def throw(self, strand: Strand, error: BaseException) -> None:
        """Let a strand that waits, for us or for anything of gevent's, go on with an exception, soon."""
        self._soon(self._go_on, strand, self._turns.get(strand), partial(self._throw, strand), error)

    resume_soon = resume

    def _go_on(self, strand: Strand, turn: int | None, action: Callable[[Any], Any], argument: object) -> None:
        # Meanwhile somebody else may have let it go on.
        if turn is not None and self._turns.get(strand) == turn:
            self._turns[strand] = next(self._turn)
            strand.began = perf_counter()
            action(argument)

    @property
    def in_loop_thread(self) -> bool:
        """Whether the caller runs in a strand; greenlets that a handler spawned don't."""
        return isinstance(getcurrent(), Strand)

    @property
    def in_coroutine(self) -> bool:
        """Whether the caller is a coroutine, which the loop drives."""
        return getcurrent() is self._loops_greenlet

    @property
    def waiting(self) -> int:
        """How many strands wait for something, or run a handler that does."""
        return len(self._waiting | self._running)

    # --- from inside a strand

    def wait_for_resume(self, on_expiry: Callable[[Strand], object] | None = None) -> Any:
        """Give way until somebody resumes this strand; see `Bridge.wait_for_resume`."""
        strand = self.current()
        inner = strand in self._turns
        if not inner:
            self._turns[strand] = next(self._turn)
        try:
            return super().wait_for_resume(on_expiry)
        finally:
            if not inner:
                del self._turns[strand]

    def run_coroutine(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, as a task of the loop."""
        strand = self.current()
        context = contextvars.copy_context()
        context.run(CURRENT.set, (strand.call, strand.work))
        task = self.loop.create_task(_contained(coroutine), context=context)
        try:
            return self.wait_future(task)
        except asyncio.CancelledError:
            raise PluginError("the handler was cancelled") from None

    def run_blocking(self, function: Callable[[], T]) -> T:
        """Run a function right here: what blocks gives way. Past its deadline it gets the error wherever it waits."""
        strand = self.current()
        strand.deadline = self.loop.time() + strand.work.timeout if strand.work is not None else 0.0
        self._turns[strand] = next(self._turn)
        self._running.add(strand)
        if self._sweep is None:
            self._sweep = self.loop.call_later(SWEEP_INTERVAL, self._look_at_deadlines)
        try:
            return function()
        finally:
            self._running.discard(strand)
            del self._turns[strand]

    def run_apart(self, function: Callable[[], T]) -> T:
        """Run a function in a thread of the system's: asyncio looks at those, not at greenlets."""
        strand = self.current()
        context = contextvars.copy_context()
        context.run(CURRENT.set, (strand.call, strand.work))
        result: T = gevent.get_hub().threadpool.apply(context.run, (function,))
        return result

    # --- deadlines

    def _look_at_deadlines(self) -> None:
        super()._look_at_deadlines()
        now = self.loop.time()
        for strand in [strand for strand in self._running - self._waiting if 0 < strand.deadline <= now]:
            limit = strand.work.timeout if strand.work is not None else 0.0
            self.throw(strand, DeadlineExceededError(f"took longer than its timeout of {limit:g} s"))
        if self._running and self._sweep is None:
            self._sweep = self.loop.call_later(SWEEP_INTERVAL, self._look_at_deadlines)


async def _contained(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine. What a task would pass on to the loop, and so end the process, is a failure like any other."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise PluginError(f"the handler raised {words_of(error)}") from error
