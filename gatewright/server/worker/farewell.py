"""What a process does before it ends as it has to: without waiting for threads that plugins left running.

`os._exit` is the only end that no thread can hold up, but it leaves out what plugins have registered with `atexit`, and
the children of `multiprocessing`. That is made up for here, within some time.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, cast

__all__ = ["begin_anew", "end_when_orphaned", "say_farewell"]

_LOOK_SECONDS: Final = 0.25


def begin_anew() -> None:
    """Forget what was registered to be done at the end, in a process that was forked from one that goes on."""
    atexit._clear()


def say_farewell(seconds: float, code: int) -> None:
    """Do what was registered to be done at the end; if it takes too long, end right in its middle.

    Args:
        seconds: how long that may take.
        code: the exit code, then.
    """
    sleep = _unpatched("time", "sleep")

    def end() -> None:
        sleep(max(seconds, 0.01))
        os._exit(code)

    _unpatched("_thread", "start_new_thread")(end, ())
    pools: Any = sys.modules.get("concurrent.futures.process")
    first: Callable[[], None] = getattr(pools, "_python_exit", lambda: None)
    for each in (first, atexit._run_exitfuncs):  # the former would be a thread's affair; `multiprocessing` waits for it
        with contextlib.suppress(BaseException):  # each one's failure is told, the last one is raised, too
            each()


def end_when_orphaned(seconds: float) -> None:
    """See that this process ends some time after its parent, where the kernel's word (`host.orphans`) isn't heard.

    A plugin may have a handler for SIGALRM, or have blocked all signals, and then hold the loop. A thread sees to that,
    as long as the interpreter lets any run.

    Args:
        seconds: how long after its parent.
    """
    parent, sleep = os.getppid(), _unpatched("time", "sleep")

    def watch() -> None:
        while os.getppid() == parent:
            sleep(_LOOK_SECONDS)
        sleep(max(seconds - _LOOK_SECONDS, 0.0))
        os.kill(os.getpid(), signal.SIGKILL)

    _unpatched("_thread", "start_new_thread")(watch, ())


def _unpatched(module: str, name: str) -> Callable[..., Any]:
    """What it is without gevent: a greenlet would not have its turn any more."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function
    return cast("Callable[..., Any]", monkey.get_original(module, name))
