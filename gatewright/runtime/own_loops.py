"""Event loops of a `def` handler's own: `asyncio.run(…)`, `new_event_loop().run_until_complete(…)`.

Under runners that have a thread for each connection these just work. A `def` handler of ours runs in the loop's thread,
where asyncio refuses to run a second loop. So what would run one there is done in a thread, while the handler's strand
waits; the runner's own loop goes on. In an `async def` handler it stays an error: it would have to be awaited.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.runners
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from greenlet import getcurrent

from gatewright.runtime.bridge import Bridge
from gatewright.runtime.strands import Strand

__all__ = ["allow_own_loops"]

P = ParamSpec("P")
R = TypeVar("R")

_MARK = "__gatewright_wrapped__"


def allow_own_loops() -> None:
    """Let `def` handlers run loops. To be called before any plugin is imported; a second time does nothing."""
    if hasattr(asyncio.run, _MARK):
        return
    asyncio.run = asyncio.runners.run = _in_a_thread(asyncio.run)
    asyncio.Runner.run = _in_a_thread(asyncio.Runner.run)  # type: ignore[method-assign]
    for name in ("run_until_complete", "run_forever"):
        setattr(asyncio.BaseEventLoop, name, _in_a_thread(getattr(asyncio.BaseEventLoop, name)))


def _in_a_thread(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        strand: Any = getcurrent()
        if not isinstance(strand, Strand):
            return function(*args, **kwargs)
        bridge = cast("Bridge", strand.bridge)
        if bridge.in_coroutine:
            return function(*args, **kwargs)
        return bridge.run_apart(functools.partial(function, *args, **kwargs))

    setattr(run, _MARK, True)
    return run
