"""Straight-line code on an event loop.

A call may have to wait in its middle: for the gateway's answer, for an async handler, for a thread. Rather than writing
the path of a call twice (a fast one that never waits and a slow one made of callbacks), each call runs as ordinary
code in a *strand*: a pooled greenlet that switches back to the loop when it has to wait and is switched to again when
what it waits for is there. A call that never waits costs two switches (0.3 us) and no task, future or timer.

Three things can be waited for:

- `Bridge.wait_for_resume`: somebody will call `resume(strand, value)`, e.g. the connection when an answer arrived;
- `Bridge.run_coroutine`: an async handler. Its first step is taken at once, under a *spare task* that does nothing
  yet, so that `asyncio.current_task()` and all that builds on it (`asyncio.timeout`, aiohttp, anyio) find a real task.
  While a coroutine only waits for the gateway's answers (`Bridge.pause`), its strand waits for it, and takes the next
  step. One that waits for anything else is carried on by the spare task, and the next call gets a new one; so is one
  whose task is cancelled (`asyncio.timeout`). (A task per call costs 16 % of the throughput, futures for answers more.)
- `Bridge.run_blocking`: a function in the bounded thread pool.

Deadlines are kept by one periodic sweep over the strands that wait, not by a timer each: a deadline is met to within
`SWEEP_INTERVAL`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from time import perf_counter
from typing import Any, ClassVar, Final, Protocol, TypeVar, cast

from greenlet import GreenletExit, getcurrent, greenlet

from gatewright.errors import DeadlineExceededError, MustAwaitError, PluginError
from gatewright.runtime.spare_tasks import CANCELLED, CURRENT, SpareTask, SpareTasks, TaskStep
from gatewright.runtime.thread_bound import speaks_of_threads
from gatewright.runtime.threads import Home, PluginThreads

__all__ = ["CURRENT", "SWEEP_INTERVAL", "Bridge", "Strand", "Work", "current_work"]

T = TypeVar("T")

_PAUSE: Final = object()
_ENDED: Final = object()
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
        bridge: whose strand it is.
        call: the call that is served, for whoever wants to know it (logs).
        record: what is written down about it, where that is done (see `recorded`).
        dies: nobody will let it go on; greenlet ends it.
        lingering: done when what this strand no longer waits for, and could not end, has ended.
        deadline: loop time at which waiting ends with `DeadlineExceededError`; 0 until the first wait.
    """

    record: Any = None

    def __init__(self, bridge: Bridge, *, pooled: bool = True) -> None:
        super().__init__(parent=bridge.hub)
        self.bridge = bridge
        self._pooled = pooled
        self.began = 0.0
        self.work: Work | None = None
        self.call: Any = None
        self.deadline = 0.0
        self.on_expiry: Callable[[Strand], object] | None = None
        self.dies = False
        self.lingering: asyncio.Future[Any] | None = None

    def run(self, job: Callable[[Strand, Any], None], argument: object) -> None:
        """The greenlet's body: run jobs, and wait among the idle ones in between."""
        idle = self.bridge.idle
        max_idle = self.bridge.max_idle
        hub = self.bridge.hub
        while True:
            job(self, argument)
            self.work = self.call = None
            self.gr_context = None  # context variables that a handler set are not for the next call to see
            if not self._pooled or len(idle) >= max_idle:
                return
            idle.append(self)
            job, argument = hub.switch()


def current_work() -> tuple[Any, Work | None] | None:
    """The call and the work that the caller runs for; `None` outside of calls."""
    running = getcurrent()
    return (running.call, running.work) if isinstance(running, Strand) else CURRENT.get()


class Bridge:
    """Runs jobs in strands on one event loop. All methods but `submit`'s work belong to the loop's thread."""

    waits_here: ClassVar[bool] = True
    """Whether an `async def` handler can `wait_here`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        threads: int = 16,
        thread_queue: int = 256,
        max_idle: int = 256,
    ) -> None:
        """Make a bridge; to be called in the loop's thread.

        Args:
            loop: the loop that jobs run on.
            threads: how many blocking functions run at once.
            thread_queue: how many more may wait for a thread before `OverloadedError`.
            max_idle: how many idle strands are kept.
        """
        self.loop = loop
        self.hub = getcurrent()
        self.idle: list[Strand] = []
        self.max_idle = max_idle
        self.hold_limit = float("inf")
        self.on_hold: Callable[[Any, float], None] = lambda _work, _seconds: None
        """Told of work that held the loop for longer than `hold_limit` seconds before it waits."""
        self.on_bound: Callable[[Any], None] = lambda _work: None
        """Told of work that failed in another thread than its own, as what belongs to one thread fails."""
        self._thread_id = threading.get_ident()
        self._spares = SpareTasks(loop, self.resume)
        self.stepping: SpareTask | None = None
        """In whose name a coroutine takes a step right now."""
        self._waiting: set[Strand] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self.threads = PluginThreads(loop, most=threads, queue=thread_queue)

    # --- from the loop

    def start(self, job: Callable[[Strand, Any], None], argument: object) -> None:
        """Run `job(strand, argument)` in a strand until it ends or first waits. The job must not raise."""
        strand = self.idle.pop() if self.idle else Strand(self)
        strand.began = perf_counter()
        strand.switch(job, argument)

    def start_apart(self, job: Callable[[Strand, Any], None], argument: object) -> None:
        """As `start`, in a strand of its own: for work that is begun by a timer or by `call_soon`.

        A greenlet's stack begins where it was first switched to, and each switch saves what of the loop's own stack
        lies deeper. A strand that was made near the loop's top would have 12 KiB (libuv's array of events) saved and
        restored for every call that it served later from a read callback.
        """
        strand = Strand(self, pooled=False)
        strand.began = perf_counter()
        strand.switch(job, argument)

    def resume(self, strand: Strand, value: object = None) -> None:
        """Let a strand that is in `wait_for_resume` go on with `value`."""
        strand.began = perf_counter()
        strand.switch(value)

    def throw(self, strand: Strand, error: BaseException) -> None:
        """Let a strand that waits go on with an exception; whatever it was waiting for no longer matters."""
        strand.began = perf_counter()
        strand.throw(error)

    def waits(self, strand: Strand, on_expiry: Callable[[Strand], object]) -> bool:
        """Whether a strand waits for what this function would make forget it."""
        return strand in self._waiting and strand.on_expiry == on_expiry

    @property
    def in_loop_thread(self) -> bool:
        """Whether the caller runs in the loop's thread."""
        return threading.get_ident() == self._thread_id

    def close(self) -> None:
        """Stop the sweep, the spare task and the threads (those that run are not waited for)."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self.idle:  # or the interpreter's end would find them, and complain
            strand = self.idle.pop()
            strand.parent = getcurrent()  # where it goes when it ends; with gevent the hub may be another greenlet
            strand.throw(GreenletExit)
        self._spares.close()
        self.threads.close()

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
        strand = self.current()
        if not strand.deadline and strand.work is not None:
            strand.deadline = self.loop.time() + strand.work.timeout
        held = perf_counter() - strand.began
        if held > self.hold_limit and strand.work is not None:
            self.on_hold(strand.work, held)
        strand.on_expiry = on_expiry
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
                future.add_done_callback(_swallow)
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

    @property
    def in_coroutine(self) -> bool:
        """Whether the caller is a coroutine that a strand or its task drives."""
        return (self.stepping is not None or isinstance(getcurrent(), TaskStep)) and self.in_loop_thread

    def check_wait_here(self) -> None:
        """See that the caller can `wait_here`.

        Raises:
            MustAwaitError: it can't: it's a task of the plugin's own, say.
        """
        if isinstance(getcurrent(), TaskStep):
            return
        if self.stepping is None or self.strand_of_task() is None:
            self.current()

    def wait_here(self, future: asyncio.Future[T]) -> T:
        """Wait for a future, be it in a property that an `async def` handler looks at.

        To its task it's as if the handler awaited the future. See `check_wait_here` for what is raised.
        """
        step = getcurrent()
        if isinstance(step, TaskStep):
            return step.wait(future)
        spare = self.stepping
        if spare is None:
            return self.wait_future(future)
        strand = self.strand_of_task()
        if strand is None:
            self.current()  # says what is wrong
        answer: T = self._aside(spare, self.wait_future, future)
        return answer

    def wait_aside(self, on_expiry: Callable[[Strand], object]) -> Any:
        """As `wait_for_resume`, in the middle of a step that the coroutine of the caller's strand takes."""
        assert self.stepping is not None  # noqa: S101 - it takes a step
        value: Any = self._aside(self.stepping, self.wait_for_resume, on_expiry)
        return value

    def _aside(self, spare: SpareTask, wait: Callable[[Any], T], argument: Any) -> T:
        # Others' turns come now: they must not run in the name of this one's task.
        self.stepping, spare.aside = None, True
        asyncio._leave_task(self.loop, spare.task)
        try:
            return wait(argument)
        finally:
            asyncio._enter_task(self.loop, spare.task)
            self.stepping, spare.aside = spare, False

    def run_coroutine(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        if self.stepping is not None:
            self.current()  # says what is wrong
        spare = self._spares.take()
        loop, task, run = self.loop, spare.task, spare.context.run
        value: Any = None
        while True:
            asyncio._enter_task(loop, task)
            self.stepping = spare
            try:
                waits_for = run(coroutine.send, value)
            except StopIteration as stop:
                value, waits_for = stop.value, _ENDED
            except BaseException:
                spare.end()
                raise
            finally:
                self.stepping = None
                asyncio._leave_task(loop, task)
            if waits_for is _ENDED:
                del task
                self._spares.keep(spare)
                result: T = value
                return result
            strand = self.current()
            if waits_for is not _PAUSE:
                break
            if task.cancelling() and not spare.has_begun:
                self._forget_pause(spare, strand)
                waits_for = asyncio.CancelledError()
                break
            spare.paused = strand
            try:
                value = self.wait_for_resume(spare.on_expiry)
            except BaseException:  # nobody waits for the coroutine any more
                strand.lingering = self._hand_over(spare, coroutine, asyncio.CancelledError(), strand)
                strand.lingering.add_done_callback(_swallow)
                raise
            finally:
                spare.paused = None
            if spare.cancelled:
                if value is CANCELLED:
                    self._forget_pause(spare, strand)
                waits_for = asyncio.CancelledError()
                break
        carrying = self._hand_over(spare, coroutine, waits_for, strand)
        try:
            carried: T = self.wait_future(carrying)
        except asyncio.CancelledError:
            raise PluginError("the handler was cancelled") from None
        return carried

    @staticmethod
    def _forget_pause(spare: SpareTask, strand: Strand) -> None:
        if spare.on_expiry is not None:
            spare.on_expiry(strand)

    def _hand_over(
        self, spare: SpareTask, coroutine: Coroutine[Any, Any, Any], waits_for: Any, strand: Strand
    ) -> asyncio.Task[Any]:
        if not spare.has_begun and (spare.task.cancelling() or spare.task.done()):  # another one has to see to it
            if spare.task.cancelling():
                if asyncio.isfuture(waits_for):
                    waits_for.cancel()
                waits_for = asyncio.CancelledError()
            spare = self._spares.make(spare.context)
        spare.hand_over(coroutine, waits_for, strand)
        return spare.task

    def strand_of_task(self) -> Strand | None:
        """The strand that drives the current task: it can wait for an answer itself, see `pause`."""
        spare = self.stepping
        running = getcurrent()
        drives = spare is not None and isinstance(running, Strand) and asyncio.current_task() is spare.task
        return cast("Strand", running) if drives else None

    @types.coroutine
    def pause(self, on_expiry: Callable[[Strand], object]) -> Generator[Any, Any, Any]:
        """Wait, in a coroutine that a strand drives, until that strand is resumed; see `wait_for_resume`."""
        if self.stepping is not None:
            self.stepping.on_expiry = on_expiry
        return (yield _PAUSE)

    def run_blocking(self, function: Callable[[], T]) -> T:
        """Run a function in a thread. Past the deadline its thread goes on, but nobody waits for it.

        Raises:
            OverloadedError: all threads are busy and the queue is full, or too many of this plugin's don't end.
        """
        strand = self.current()
        work = strand.work
        context = contextvars.copy_context()
        context.run(CURRENT.set, (strand.call, work))
        name, home = (work.name, work.home) if work is not None else ("", Home())
        job = self.threads.submit(partial(context.run, function), name, home)
        try:
            result, error = self.wait_future(job.outcome)
        except BaseException:
            strand.lingering = self.threads.give_up(job, after=strand.deadline - self.loop.time())
            raise
        if error is not None:
            if job.abroad and not home.bound and speaks_of_threads(error):
                home.bound = True
                self.on_bound(work)
            raise error
        return cast("T", result)

    def run_apart(self, function: Callable[[], T]) -> T:
        """Run a function in a thread whatever the bridge: one that can't run where the loop runs."""
        return self.run_blocking(function)

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


def _swallow(future: asyncio.Future[Any]) -> None:
    # Its outcome no longer matters, but asyncio complains about exceptions that nobody looked at.
    if not future.cancelled():
        future.exception()
