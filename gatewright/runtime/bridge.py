"""What a strand can wait for: coroutines, threads, and what somebody resumes it with.

- `Strands.wait_for_resume`: somebody will call `resume(strand, value)`, e.g. the connection when an answer arrived;
- `Bridge.run_coroutine`: an async handler. Its first step is taken at once, under a *spare task* that does nothing
  yet, so that `asyncio.current_task()` and all that builds on it (`asyncio.timeout`, aiohttp, anyio) find a real task.
  While a coroutine waits for the gateway's answers (`Bridge.pause`) or for futures, its strand waits for it, and takes
  the next step. One whose task is cancelled (`asyncio.timeout`), or that nobody waits for any more, is carried on by
  that task, and the next call gets a new one. (A task per call costs 16 % of the throughput, handing a coroutine over
  to its task four times what its strand's waiting costs.)
- `Bridge.run_blocking`: a function in the bounded thread pool.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Final, TypeVar, cast

from greenlet import getcurrent

from gatewright.errors import PluginError
from gatewright.runtime.gathering import Gathering
from gatewright.runtime.spare_tasks import (
    CANCELLED,
    CURRENT,
    ENDED,
    TURN,
    Rest,
    SpareTask,
    SpareTasks,
    TaskStep,
    cancelled_wait,
)
from gatewright.runtime.strands import Strand, swallow
from gatewright.runtime.thread_bound import speaks_of_threads
from gatewright.runtime.threads import Home, PluginThreads

__all__ = ["Bridge"]

T = TypeVar("T")
NextStep = tuple[Callable[[Any], Any], Any]
"""A step of a coroutine, and what it takes."""

_PAUSE: Final = object()


class Bridge(Gathering):
    """Strands that run handlers. All methods belong to the loop's thread."""

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
        super().__init__(loop, max_idle=max_idle)
        self.on_bound: Callable[[Any], None] = lambda _work: None
        """Told of work that failed in another thread than its own, as what belongs to one thread fails."""
        self._spares = SpareTasks(loop, self.resume)
        self._outside = contextvars.Context()  # what wakes a strand has no use for any
        self.threads = PluginThreads(loop, most=threads, queue=thread_queue)

    def close(self) -> None:
        """Stop the sweep, the spare tasks and the threads (those that run are not waited for)."""
        super().close()
        self._spares.close()
        self.threads.close()

    # --- from inside a strand

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
        loop, task, run, step = self.loop, spare.task, spare.context.run, spare.send
        value: Any = coroutine
        while True:
            asyncio._enter_task(loop, task)
            self.stepping = spare
            try:
                waits_for = run(step, value)
            except asyncio.CancelledError:
                spare.end()
                raise PluginError("the handler was cancelled") from None
            except BaseException:
                spare.end()
                raise
            finally:
                self.stepping = None
                asyncio._leave_task(loop, task)
            if waits_for is ENDED:
                result: T = spare.result
                spare.result = None
                del task
                self._spares.keep(spare)
                return result
            strand = self.current()
            if waits_for is _PAUSE:
                next_step = self._pause(spare, strand)
                if next_step is None:
                    waits_for = asyncio.CancelledError()
                    break
            elif spare.is_cancelled() or not self._can_wait_for(waits_for, task):
                break  # that is for the task to see to
            else:
                next_step = self._await(spare, strand, waits_for)
                if next_step is None:
                    break
            step, value = next_step
        carrying = self._hand_over(spare, waits_for, strand)
        try:
            carried: T = self.wait_future(carrying)
        except asyncio.CancelledError:
            raise PluginError("the handler was cancelled") from None
        return carried

    def _pause(self, spare: SpareTask, strand: Strand) -> NextStep | None:
        """Wait until the strand is resumed; `None`: the coroutine's task was cancelled."""
        if spare.is_cancelled():
            self._forget_pause(spare, strand)
            return None
        spare.paused = strand
        try:
            value = self.wait_for_resume(spare.on_expiry)
        except BaseException:  # nobody waits for the coroutine any more
            self._linger(spare, asyncio.CancelledError(), strand)
            raise
        finally:
            spare.paused = None
        if spare.is_cancelled():
            if value is CANCELLED:
                self._forget_pause(spare, strand)
            return None
        return spare.send, value

    def _can_wait_for(self, waits_for: Any, task: asyncio.Task[Any]) -> bool:
        """Whether a strand can wait for what a coroutine has yielded, as a task would; what is wrong, a task tells."""
        if waits_for is None:
            return True
        return (
            isinstance(waits_for, asyncio.Future)
            and waits_for._asyncio_future_blocking
            and waits_for.get_loop() is self.loop
            and waits_for is not task
        )

    def _await(self, spare: SpareTask, strand: Strand, future: asyncio.Future[Any] | None) -> NextStep | None:
        """Wait for a future, or (`None`) let others go on; gives `None` if the coroutine's task was cancelled."""
        if spare.known_call is None:  # for the tasks that it makes
            spare.known_call = spare.context.run(CURRENT.set, (strand.call, strand.work))
        if future is None:
            spare.waits_for = TURN
            self.loop.call_soon(spare.wake, TURN, context=self._outside)
        else:
            spare.waits_for = future
            future._asyncio_future_blocking = False
            future.add_done_callback(spare.wake, context=self._outside)
        spare.paused = strand
        try:
            self.wait_for_resume()
        except BaseException:  # nobody waits for the coroutine any more
            self._leave_to_task(spare, future)
            self._linger(spare, cancelled_wait(future, asyncio.CancelledError()), strand)
            raise
        finally:
            spare.paused = spare.waits_for = None
        if spare.is_cancelled():
            self._leave_to_task(spare, future)
            return None
        if future is None:
            return spare.send, None
        whole: Any = future  # typeshed leaves out what a task makes of a cancelled one
        error = whole._make_cancelled_error() if future.cancelled() else future.exception()
        return (spare.send, None) if error is None else (spare.driving.throw, error)

    @staticmethod
    def _leave_to_task(spare: SpareTask, future: asyncio.Future[Any] | None) -> None:
        if future is not None:
            future.remove_done_callback(spare.wake)
            future._asyncio_future_blocking = True  # or it takes it for a mistake

    def _linger(self, spare: SpareTask, waits_for: Any, strand: Strand) -> None:
        strand.lingering = self._hand_over(spare, waits_for, strand)
        strand.lingering.add_done_callback(swallow)

    @staticmethod
    def _forget_pause(spare: SpareTask, strand: Strand) -> None:
        if spare.on_expiry is not None:
            spare.on_expiry(strand)

    def _hand_over(self, spare: SpareTask, waits_for: Any, strand: Strand) -> asyncio.Task[Any]:
        spare.hand_over(Rest(spare), waits_for, strand)
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
