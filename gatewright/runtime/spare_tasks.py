"""Tasks for coroutines that strands drive: there to be `asyncio.current_task()`, and to take over from the strand."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import types
from asyncio.tasks import _unregister_task
from collections.abc import Callable, Generator
from sys import getrefcount
from typing import Any, Final, TypeVar
from weakref import getweakrefcount

from greenlet import getcurrent, greenlet

from gatewright.errors import PluginError

__all__ = [
    "CANCELLED",
    "CURRENT",
    "ENDED",
    "TURN",
    "Rest",
    "SpareTask",
    "SpareTasks",
    "TaskStep",
    "cancelled_wait",
    "hide",
]

T = TypeVar("T")

CANCELLED: Final = object()
"""What a paused strand is resumed with when the task in whose name it waits was cancelled."""
ENDED: Final = object()
"""What a driven coroutine gives instead of what it waits for when it has ended; see `SpareTask.send`."""
TURN: Final = object()
"""What a coroutine waits for that only lets others go on: `asyncio.sleep(0)`."""
_MOST_KEPT: Final = 256

CURRENT: contextvars.ContextVar[tuple[Any, Any] | None] = contextvars.ContextVar("gatewright", default=None)
"""Call and work of code that runs in no strand: the rest of an async handler, a thread."""


class _Task(asyncio.Task[Any]):
    """A task that remembers whether a handler has left something on it, or knows it by its name."""

    touched = False

    def get_name(self) -> str:
        """The name; whoever has it may look for it later."""
        self.touched = True
        return super().get_name()

    def set_name(self, value: object) -> None:
        """Give it another name."""
        self.touched = True
        super().set_name(value)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__("touched", True)
        super().__setattr__(name, value)


def hide(task: asyncio.Task[Any] | None) -> None:
    """Leave a task of the runner's own out of `asyncio.all_tasks()`: whoever cancels all tasks means others."""
    if task is not None:
        _unregister_task(task)


class SpareTask:
    """A task in whose name a coroutine is driven by its strand, until it waits for what only a task can wait for.

    Attributes:
        gate: opened to let the task go on with what was handed over. Cancelling the task cancels it, at once.
        paused: the strand, while it waits for an answer that the coroutine asked for, or for `waits_for`.
        waits_for: the future that the coroutine awaits, or `TURN`, while its strand waits for that.
        known_call: what gives `CURRENT` back, while the coroutine's context says what it runs for.
        aside: the strand waits in the middle of a step of the coroutine; cancelled meanwhile, the task waits, too.
        send: lets a coroutine that it's given begin, and then go on with a value. Gives what the coroutine waits for,
            or `ENDED`; its result is in `result` then. (A coroutine's own `send` makes an exception of each end.)
    """

    __slots__ = (
        "aside", "context", "driving", "gate", "handed_over", "known", "known_call",
        "on_expiry", "paused", "result", "resume", "send", "task", "waits_for", "watched",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, resume: Callable[[Any, object], None], context: contextvars.Context
    ) -> None:
        """Make the task; to be called in the loop's thread.

        Args:
            loop: the loop.
            resume: lets a strand go on with a value.
            context: what the coroutine runs in, be it driven by its strand or by the task. The task's own is another
                one: it may have to wake up while the strand waits in the middle of a step, and so in that context.
        """
        self.gate: asyncio.Future[None] = loop.create_future()
        self.aside = False
        self.handed_over: tuple[Rest, Any, Any, Any] | None = None
        self.paused: Any = None
        self.waits_for: Any = None
        self.known_call: contextvars.Token[Any] | None = None
        self.on_expiry: Callable[[Any], object] | None = None
        self.resume = resume
        self.context = context
        self.result: Any = None
        self.driving = _drives(self)
        next(self.driving)
        self.send = self.driving.send
        carrying = _carry_on(self)
        carrying.send(None)  # so that it hears of it if it's cancelled before its first turn
        self.task = _Task(carrying, loop=loop, context=contextvars.Context())
        task = self.task
        hide(task)
        self.known, self.watched = getrefcount(task), getweakrefcount(task)

    def wake(self, what: Any) -> None:
        """Let the strand go on: what it waits for is there."""
        if what is self.waits_for:  # or it has had to go on without
            self.resume(self.paused, what)

    def is_cancelled(self) -> bool:
        """Whether somebody wanted the coroutine cancelled."""
        return self.gate.done() or bool(self.task.cancelling())

    def hand_over(self, rest: Rest, waits_for: Any, strand: Any) -> None:
        """Let the task go on with a coroutine that has suspended: it waits for a future, or gets an exception."""
        self.handed_over = rest, waits_for, strand.call, strand.work
        self.end()

    def end(self) -> None:
        """Let the task go on; with nothing handed over, it ends."""
        if not self.gate.done():
            self.gate.set_result(None)


@types.coroutine
def _drives(spare: SpareTask) -> Generator[Any, Any, None]:
    """Drive one coroutine after another, until one fails."""
    coroutine = yield ENDED
    while True:
        spare.result = yield from coroutine
        coroutine = yield ENDED


def cancelled_wait(waits_for: Any, error: asyncio.CancelledError) -> Any:
    """What a cancelled coroutine waits for: the future that it awaits, if that ends for it, else nothing any more.

    Args:
        waits_for: what it has waited for.
        error: what it goes on with, if it no longer waits. Whoever cancelled may know it by its message (anyio does).
    """
    return waits_for if asyncio.isfuture(waits_for) and waits_for.cancel(*error.args) else error


class Rest:
    """What is left of a coroutine that a spare task drove so far."""

    def __init__(self, spare: SpareTask) -> None:
        self._spare = spare
        self.close = spare.driving.close

    def send(self, value: Any) -> Any:
        """Go on with a value; as a coroutine's."""
        return self._or_end(self._spare.send(value))

    def throw(self, error: BaseException) -> Any:
        """Go on with an exception; as a coroutine's."""
        return self._or_end(self._spare.driving.throw(error))

    def _or_end(self, waits_for: Any) -> Any:
        if waits_for is ENDED:
            raise StopIteration(self._spare.result)
        return waits_for


@types.coroutine
def _turn() -> Generator[None, None, None]:
    yield


async def _carry_on(spare: SpareTask) -> Any:
    cancelled = None
    try:
        await _turn()
        await spare.gate
    except asyncio.CancelledError as error:
        cancelled = error
        while spare.aside and spare.handed_over is None:
            spare.known = 0  # not for another coroutine
            spare.gate = asyncio.get_running_loop().create_future()
            with contextlib.suppress(asyncio.CancelledError):
                await spare.gate
        if spare.paused is not None:
            spare.resume(spare.paused, CANCELLED)  # it hands the coroutine over
    if spare.handed_over is None:  # the coroutine has ended, in its strand
        return None
    rest, waits_for, call, work = spare.handed_over
    spare.context.run(CURRENT.set, (call, work))
    if cancelled is not None:
        waits_for = cancelled_wait(waits_for, cancelled)
    return await _go_on(rest, waits_for, spare.context)


@types.coroutine
def _go_on(rest: Rest, waits_for: Any, context: contextvars.Context) -> Generator[Any, Any, Any]:
    """Go on with a suspended coroutine: first wait for what it yielded (or throw the exception given)."""
    try:
        if isinstance(waits_for, BaseException):
            waits_for = yield from _take_step(rest.throw, waits_for, context)
        while True:
            try:
                value = yield waits_for
            except GeneratorExit:
                rest.close()
                raise
            except BaseException as error:
                waits_for = yield from _take_step(rest.throw, error, context)
            else:
                waits_for = yield from _take_step(rest.send, value, context)
    except _Ended as end:
        return end.value
    except SystemExit as exit:  # a task would pass it on to the loop, and so end the process
        raise PluginError(f"the handler called sys.exit({exit.code!r})") from exit
    except KeyboardInterrupt as interrupt:
        raise PluginError("the handler raised KeyboardInterrupt") from interrupt


class _Ended(Exception):  # noqa: N818 - no error: a StopIteration would be the generator's own
    """The coroutine has ended."""

    def __init__(self, value: Any) -> None:
        self.value = value


class TaskStep(greenlet):
    """A step of a coroutine that a task carries on. In its middle it may wait as if the coroutine awaited."""

    def wait(self, future: asyncio.Future[T]) -> T:
        """Wait for a future of the loop."""
        assert self.parent is not None  # noqa: S101 - it runs
        result: T = self.parent.switch(future)
        return result


def _take_step(step: Callable[[Any], Any], value: Any, context: contextvars.Context) -> Generator[Any, Any, Any]:
    """Take a step: gives what the coroutine waits for. Ends with `_Ended` if it has ended."""
    running = TaskStep(_step, getcurrent())
    running.gr_context = context
    outcome = running.switch(step, value)
    while not running.dead:
        try:
            yield from outcome
        except BaseException as error:
            outcome = running.throw(error)
        else:
            outcome = running.switch(outcome.result())
    waits_for, raised = outcome
    if raised is None:
        return waits_for
    if isinstance(raised, StopIteration):
        raise _Ended(raised.value)
    raise raised


def _step(step: Callable[[Any], Any], value: Any) -> tuple[Any, BaseException | None]:
    try:
        return step(value), None
    except BaseException as error:  # GreenletExit included, which a greenlet would swallow
        return None, error


class SpareTasks:
    """The spare tasks of a bridge."""

    def __init__(self, loop: asyncio.AbstractEventLoop, resume: Callable[[Any, object], None]) -> None:
        """Begin with none.

        Args:
            loop: the loop.
            resume: lets a strand go on with a value.
        """
        self._loop = loop
        self._resume = resume
        self._kept: list[SpareTask] = []

    def make(self, context: contextvars.Context) -> SpareTask:
        """A new one."""
        return SpareTask(self._loop, self._resume, context)

    def take(self) -> SpareTask:
        """One for a coroutine that is about to start, in the caller's context variables."""
        context = contextvars.copy_context()
        if not len(context):  # what the caller has set is for this one to see, not for other calls'
            while self._kept:
                spare = self._kept.pop()
                if not (spare.gate.done() or spare.task.cancelling()):  # `is_cancelled`, without a call
                    return spare
        return self.make(context)

    def keep(self, spare: SpareTask) -> None:
        """The coroutine has ended: keep its task for another one, if nobody can tell."""
        task = spare.task
        if spare.known_call is not None:
            spare.context.run(CURRENT.reset, spare.known_call)
            spare.known_call = None
        if (
            not spare.gate.done()
            and not task.cancelling()
            and not len(spare.context)
            and getrefcount(task) <= spare.known
            and getweakrefcount(task) <= spare.watched
            and not task._callbacks
            and not task.touched
            and len(self._kept) < _MOST_KEPT
        ):
            spare.on_expiry = None
            self._kept.append(spare)
        else:
            spare.end()

    def close(self) -> None:
        """End them all."""
        while self._kept:
            self._kept.pop().task.cancel()
