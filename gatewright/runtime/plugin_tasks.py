"""Tasks that handlers make: they know whose they are, and end no process.

`sys.exit()` in a task would go on to the loop, and so be the end of all calls in the process.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from gatewright.errors import PluginError, words_of
from gatewright.runtime.spare_tasks import CURRENT
from gatewright.runtime.strands import current_work

__all__ = ["task_of_a_plugin"]

T = TypeVar("T")


class _Contained(Coroutine[Any, Any, T]):
    """A coroutine whose wish to end the process is a failure like any other."""

    __slots__ = ("_of",)

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._of = coroutine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)  # `cr_code` and the like

    def send(self, value: Any) -> Any:
        """Go on."""
        try:
            return self._of.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _refused(error) from error

    def throw(self, *raised: Any) -> Any:
        """Go on with an exception."""
        try:
            return self._of.throw(*raised)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _refused(error) from error

    def close(self) -> None:
        """Go on no more."""
        self._of.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._of.__await__()


def _refused(error: BaseException) -> PluginError:
    return PluginError(f"a task can't end the process: {words_of(error)}")


def task_of_a_plugin(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, T],
    *,
    context: contextvars.Context | None = None,
    **more: Any,
) -> asyncio.Task[T]:
    """A loop's task factory: a task that a handler makes has its name in its logs, and for `PluginExecutor`."""
    under = current_work()
    if under is not None:
        context = contextvars.copy_context() if context is None else context
        if context.get(CURRENT) is None:
            context.run(CURRENT.set, under)
        coroutine = _Contained(coroutine)
    return asyncio.Task(coroutine, loop=loop, context=context, **more)
