"""Strands: code that waits in its middle, on an event loop.

Rather than writing the path of a call twice (a fast one that never waits and a slow one made of callbacks), each call
runs as ordinary code in a *strand*: a pooled greenlet that switches back to the loop when it has to wait
(`Strands.wait_for_resume`, `Strands.wait_future`) and is switched to again when what it waits for is there. A call that
never waits costs two switches (0.3 us) and no task, future or timer.

Deadlines are kept by one periodic sweep over the strands that wait, not by a timer each: a deadline is met to within
`SWEEP_INTERVAL`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any, ClassVar, Final, Protocol, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from gatewright.errors import DeadlineExceededError, MustAwaitError
from gatewright.runtime.spare_tasks import CURRENT, SpareTask
from gatewright.runtime.threads import Home

__all__ = ["SWEEP_INTERVAL", "Strand", "Strands", "Work", "current_work", "swallow"]

T = TypeVar("T")

SWEEP_INTERVAL: Final = 0.05
"""Seconds between two looks at the deadlines."""


class Work(Protocol):
    """What a strand is busy with: a plugin's step."""

    name: str
    route: str
    timeout: float
    home: Home


class Strand(greenlet):
    """A pooled greenlet that runs one job after another.

    Attributes:
        began: `perf_counter` when the loop last gave way to this strand.
        work: what runs now, which may wait for `work.timeout` seconds; the clock starts with its first wait.
        bridge: whose it is.
        call: the call that is served, for whoever wants to know it (logs).
        record: what is written down about it, where that is done and the call is yet to be made (see `recorded`).
        dies: nobody will let it go on; greenlet ends it.
        thrown: what it is let go on with, where that's an exception: it's not of the code that it comes out of.
        lingering: done when what this strand no longer waits for, and could not end, has ended.
        waited: how often it has begun to wait; tells whether a wait is still the same.
        deadline: loop time at which waiting ends with `DeadlineExceededError`; 0 until the first wait.
    """

    # Each is read or set with every call, which is three times as quick in a slot as in a greenlet's `__dict__`.
    __slots__ = (
        "_idle", "began", "bridge", "call", "deadline", "dies", "lingering", "on_expiry", "record", "thrown", "waited",
        "work",
    )  # fmt: skip

    def __init__(self, bridge: Strands, idle: list[Strand] | None) -> None:
        super().__init__(parent=bridge.hub)
        self.record: Any = None
        self.thrown: BaseException | None = None
        self.bridge = bridge
        self._idle = idle
        self.began = 0.0
        self.work: Work | None = None
        self.call: Any = None
        self.waited = 0
        self.deadline = 0.0
        self.on_expiry: Callable[[Strand], object] | None = None
        self.dies = False
        self.lingering: asyncio.Future[Any] | None = None

    def run(self, job: Callable[[Strand, Any], None], argument: object) -> None:
        """The greenlet's body: run jobs, and wait among the idle ones in between."""
        idle = self._idle
        max_idle = self.bridge.max_idle
        hub = self.bridge.hub
        while True:
            job(self, argument)
            self.work = self.call = None
            self.gr_context = None  # context variables that a handler set are not for the next call to see
            if idle is None or len(idle) >= max_idle:
                return
            idle.append(self)
            job, argument = hub.switch()


def current_work() -> tuple[Any, Work | None] | None:
    """The call and the work that the caller runs for; `None` outside of calls."""
    running = getcurrent()
    return (running.call, running.work) if isinstance(running, Strand) else CURRENT.get()


class Strands:
    """Runs jobs in strands on one event loop. All methods belong to the loop's thread."""

    waits_here: ClassVar[bool] = True
    """Whether an `async def` handler can wait without `await` (`Bridge.wait_here`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, max_idle: int) -> None:
        """To be called in the loop's thread."""
        self.loop = loop
        self.hub = getcurrent()
        self.idle: list[Strand] = []
        self.max_idle = max_idle
        self.hold_limit = float("inf")
        self.on_hold: Callable[[Any, float], None] = lambda _work, _seconds: None
        """Told of work that held the loop for longer than `hold_limit` seconds before it waits."""
        self._thread_id = threading.get_ident()
        self.stepping: SpareTask | None = None
        """In whose name a coroutine takes a step right now."""
        self._waiting: set[Strand] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def put_right(self) -> bool:
        """See that asyncio knows this loop to run, of which a plugin may have told it otherwise; false if one had."""
        known = asyncio._get_running_loop() is self.loop
        if not known:
            asyncio._set_running_loop(self.loop)
        return known

    # --- from the loop

    def start(self, job: Callable[[Strand, Any], None], argument: object) -> None:
        """Run `job(strand, argument)` in a strand until it ends or first waits. The job must not raise."""
        strand = self.idle.pop() if self.idle else Strand(self, self.idle)
        strand.began = perf_counter()
        strand.switch(job, argument)

    def start_apart(self, job: Callable[[Strand, Any], None], argument: object) -> None:
        """As `start`, in a strand of its own: for work that is begun by a timer or by `call_soon`.

        A greenlet's stack begins where it was first switched to, and each switch saves what of the loop's own stack
        lies deeper. A strand that was made near the loop's top would have 12 KiB (libuv's array of events) saved and
        restored for every call that it served later from a read callback.
        """
        strand = Strand(self, None)
        strand.began = perf_counter()
        strand.switch(job, argument)

    def resume(self, strand: Strand, value: object = None) -> None:
        """Let a strand that is in `wait_for_resume` go on with `value`."""
        strand.began = perf_counter()
        strand.switch(value)

    def throw(self, strand: Strand, error: BaseException) -> None:
        """Let a strand that waits go on with an exception; whatever it was waiting for no longer matters."""
        strand.began = perf_counter()
        self._throw(strand, error)

    @staticmethod
    def _throw(strand: Strand, error: BaseException) -> None:
        strand.thrown = error
        try:
            strand.throw(error)
        finally:
            strand.thrown = None

    def waits(self, strand: Strand, on_expiry: Callable[[Strand], object]) -> bool:
        """Whether a strand waits for what this function would make forget it."""
        return strand in self._waiting and strand.on_expiry == on_expiry

    @property
    def in_loop_thread(self) -> bool:
        """Whether the caller runs in the loop's thread."""
        return threading.get_ident() == self._thread_id

    def close(self) -> None:
        """Stop the sweep, and end the idle strands."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self.end_strands(self.idle)

    @staticmethod
    def end_strands(idle: list[Strand]) -> None:
        """End idle strands, or the interpreter's end would find them, and complain."""
        while idle:
            strand = idle.pop()
            strand.parent = getcurrent()  # where it goes when it ends; with gevent the hub may be another greenlet
            strand.throw(GreenletExit)

    @property
    def waiting(self) -> int:
        """How many strands wait for something."""
        return len(self._waiting)

    # --- from inside a strand

    def current(self) -> Strand:
        """The strand that the caller runs in, and can wait in.

        Raises:
            MustAwaitError: the caller runs in none, or is a coroutine, which has to await.
        """
        if self.stepping is not None:  # the loop would run others in the name of its task
            raise MustAwaitError("an `async def` handler can't wait without `await`")
        strand = getcurrent()
        if not isinstance(strand, Strand):
            raise MustAwaitError("this can be used only while a plugin handles a call")
        return strand

    def wait_for_resume(self, on_expiry: Callable[[Strand], object] | None = None) -> Any:
        """Go back to the loop until somebody resumes this strand; gives the value it is resumed with.

        Args:
            on_expiry: called with this strand if it has to go on without, to forget about it.

        Raises:
            DeadlineExceededError: the deadline passed first.
        """
        strand = getcurrent()
        if self.stepping is not None or not isinstance(strand, Strand):
            strand = self.current()  # says what is wrong
        work = strand.work
        if work is None:
            strand.deadline = 0.0  # what there is, an earlier call has left
        elif not strand.deadline:
            strand.deadline = self.loop.time() + work.timeout
        held = perf_counter() - strand.began
        if held > self.hold_limit and work is not None:
            self.on_hold(work, held)
        strand.on_expiry = on_expiry
        strand.waited += 1
        self._waiting.add(strand)
        if self._sweep is None:
            self._sweep = self.loop.call_later(SWEEP_INTERVAL, self._look_at_deadlines)
        try:
            return self.hub.switch()
        except BaseException as error:  # a deadline, a vanished gateway: what comes now is no longer for this strand
            strand.dies = isinstance(error, GreenletExit)
            if on_expiry is not None:
                on_expiry(strand)
            raise
        finally:
            self._waiting.discard(strand)
            strand.on_expiry = None

    def wait_future(self, future: asyncio.Future[T]) -> T:
        """Wait for a future of this loop. At the deadline the future is cancelled."""
        if not future.done():
            strand = self.current()
            waiting = True

            def wake(_: object) -> None:
                if waiting:  # it may have been thrown into since this was called for
                    self.resume(strand)

            def give_up(_: object = None) -> None:
                nonlocal waiting
                waiting = False
                future.remove_done_callback(wake)
                future.add_done_callback(swallow)
                future.cancel()

            future.add_done_callback(wake)
            try:
                self.wait_for_resume(give_up)
            except BaseException:
                if not future.done():  # a task that doesn't heed its being cancelled, or not yet
                    strand.lingering = future
                raise
            waiting = False
        return future.result()

    def others_work_at(self, work: Work) -> bool:
        """Whether other strands than the caller's are in the middle of some work."""
        strand = getcurrent()
        return any(other.work is work and other is not strand for other in self._waiting)

    def wait_a_moment(self) -> None:
        """Let others go on for a short while."""
        moment = self.loop.create_future()
        self.loop.call_later(SWEEP_INTERVAL, moment.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            self.wait_future(moment)

    # --- deadlines

    def _look_at_deadlines(self) -> None:
        self._sweep = None
        now = self.loop.time()
        for strand in [strand for strand in self._waiting if 0 < strand.deadline <= now]:
            if strand not in self._waiting or not 0 < strand.deadline <= now:
                continue  # what was thrown into another has let this one go on
            limit = strand.work.timeout if strand.work is not None else 0.0
            self.throw(strand, DeadlineExceededError(f"took longer than its timeout of {limit:g} s"))
        if self._waiting and self._sweep is None:
            self._sweep = self.loop.call_later(SWEEP_INTERVAL, self._look_at_deadlines)


def swallow(future: asyncio.Future[Any]) -> None:
    """Look at a future's outcome, which no longer matters."""
    # Its outcome no longer matters, but asyncio complains about exceptions that nobody looked at.
    if not future.cancelled():
        future.exception()
