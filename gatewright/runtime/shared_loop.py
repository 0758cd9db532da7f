"""The event loop that all plugins of a process share: none of them ends it, or changes it, for the others.

What leaves a callback as `SystemExit` or `KeyboardInterrupt` comes out of the loop, and `loop.stop()` lets it return:
the process would end, and the calls of all others in it. So the loop is let go on (`drive`) until what it's run for has
ended. What a plugin wants for its own use (threads) it gets for itself; what would be everybody's (how tasks are made)
stays as it is, and that is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, Protocol, TypeVar

from gatewright.errors import PluginError
from gatewright.runtime.executor import PluginExecutor
from gatewright.runtime.failures import FailureLog
from gatewright.runtime.strands import current_work

__all__ = ["Escapes", "SharedLoop", "drive", "new_shared_loop"]

T = TypeVar("T")

_MOST: Final = 1000
_WITHIN_SECONDS: Final = 10.0


class Escapes:
    """What came out of the loop that was not to end it.

    Attributes:
        failures: where it's told.
        on_too_many: told that there's no end to it.
    """

    def __init__(self) -> None:
        self.failures: FailureLog | None = None
        self.on_too_many: Callable[[str], None] = lambda _why: None
        self._since = 0.0
        self._count = 0

    def tell(self, error: BaseException | None, now: float) -> None:
        """Tell of one: what was raised, or `None` where somebody has stopped the loop."""
        if now - self._since > _WITHIN_SECONDS:
            self._since, self._count = now, 0
        self._count += 1
        if self._count == _MOST:
            self.on_too_many("callbacks of a plugin end the loop again and again")
        if self.failures is None:
            return
        what = "a plugin has stopped the loop" if error is None else f"a callback raised {type(error).__name__}"
        self.failures.report(
            f"{what}: it goes on, and so does this process", kind="loop", error=error, traceback=error is not None
        )


def drive(
    loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T], escapes: Escapes, *, interrupts: bool = False
) -> T:
    """Run a loop until a coroutine has ended, whatever comes out of it before.

    Args:
        loop: the loop.
        main: what it's run for.
        escapes: is told of what has no effect.
        interrupts: `KeyboardInterrupt` is for whoever sits before it.
    """
    task = asyncio.Task(main, loop=loop)
    task.add_done_callback(lambda _: loop.stop())
    while True:
        escaped: BaseException | None = None
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            if interrupts and isinstance(error, KeyboardInterrupt):
                raise
            escaped = error
        if task.done():
            return task.result()
        escapes.tell(escaped, loop.time())


class _Loop(Protocol):
    def stop(self) -> None: ...
    def set_task_factory(self, factory: Any) -> None: ...
    def set_default_executor(self, executor: Any) -> None: ...
    def shutdown_default_executor(self, timeout: float | None = None) -> Coroutine[Any, Any, None]: ...


class SharedLoop:
    """What a loop is besides, once it's shared (`share`). To be named before the loop's class."""

    _executor: PluginExecutor | None = None
    _failures: FailureLog | None = None

    def share(self, failures: FailureLog, executor: PluginExecutor | None = None) -> None:
        """Be all plugins' from now on.

        Args:
            failures: where it's told what plugins can't have.
            executor: has a pool of threads for each of them, where threads are threads.
        """
        self._failures, self._executor = failures, executor

    def share_no_more(self) -> None:
        """What comes now is the loop's owner's."""
        self._executor = self._failures = None

    def stop(self) -> None:
        """Return from `run_forever` soon."""
        if self._failures is not None and current_work() is not None:
            raise PluginError("a plugin can't stop the loop that all plugins share")
        _of(self).stop()

    def set_task_factory(self, factory: Any) -> None:
        """Say how tasks are made."""
        if self._failures is None:
            _of(self).set_task_factory(factory)
            return
        plugin, route = _who()
        self._failures.report(
            "a plugin's task factory is not taken: others' tasks are made by the same loop",
            kind="loop", plugin=plugin, route=route, cure="make the tasks in question yourself: asyncio.Task(...)",
        )  # fmt: skip

    def set_default_executor(self, executor: Executor) -> None:
        """Say what `asyncio.to_thread` runs in: for a plugin, what its own does."""
        if self._executor is None:
            _of(self).set_default_executor(executor)
        else:
            self._executor.have(_who()[0], executor)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """End the threads of `asyncio.to_thread`: those of the plugin that asks for it."""
        if self._executor is None:
            await _of(self).shutdown_default_executor()
        else:
            self._executor.end(_who()[0])


def _of(loop: Any) -> _Loop:
    """The loop as it's without that."""
    of: Any = super(SharedLoop, loop)
    return of  # type: ignore[no-any-return]


def _who() -> tuple[str, str]:
    under = current_work()
    work = under[1] if under is not None else None
    return (work.name, work.route) if work is not None else ("", "")


class _StandardLoop(SharedLoop, asyncio.SelectorEventLoop):
    """The standard library's."""


def new_shared_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop's, or the standard one where uvloop is missing (a fifth slower)."""
    try:
        import uvloop
    except ImportError:
        return _StandardLoop()

    class QuickLoop(SharedLoop, uvloop.Loop):  # type: ignore[misc]  # as uvloop's own is an AbstractEventLoop
        """uvloop's."""

    return QuickLoop()
