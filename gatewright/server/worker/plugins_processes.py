"""What plugins may do to the process that they run in: fork it, and take its signals.

A child (`multiprocessing`) is a copy of the worker. Left as it is it would keep the gateway's connections open when the
worker is gone, and tell the worker's loop of signals that only the child got. So it lets go of both, first of all.

Signals of the runner's life are the runner's: a handler that a plugin puts in their place would end the worker where it
should retire. It's put back, and that is told.
"""

from __future__ import annotations

import _thread
import asyncio
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from threading import get_ident
from types import BuiltinFunctionType
from typing import Final

from gatewright.errors import ConfigError
from gatewright.loggers import get_logger
from gatewright.observe import logs
from gatewright.runtime.failures import FailureLog

__all__ = [
    "SignalKeeper",
    "beyond_standard_descriptors",
    "forget_in_children",
    "identity_of",
    "keep_standard_descriptors",
    "see_that_threads_are_threads",
]

_Socket: Final = socket.socket  # plugins put other classes in its place (a proxy's, say)
_IGNORED: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_STANDARD: Final = range(3)
_KEPT: Final = (*_IGNORED, signal.SIGPIPE)
"""SIGPIPE would end the worker whenever a gateway goes that waits for an answer."""


def forget_in_children(loop: asyncio.AbstractEventLoop, sockets: Callable[[], Iterable[socket.socket]]) -> None:
    """See that children that are forked from now on have no part in this process's connections, signals and loop.

    Args:
        loop: that of this thread.
        sockets: gives those that are this process's alone.
    """
    own_thread = get_ident()

    def forget() -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, *_IGNORED):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for each in sockets():
            if each.fileno() >= 0:
                os.dup2(nothing, each.fileno(), inheritable=False)  # the number stays taken: objects here still have it
        os.close(nothing)
        if get_ident() == own_thread:  # then it may come back to the loop: before anything else there
            loop.call_soon(_end_copy)

    os.register_at_fork(after_in_child=forget)


def _end_copy() -> None:
    """End a child that a handler has forked and let return: it would be the same worker once more.

    It has the loop's descriptors in common with the worker, and would tear plugins down that the worker still has.
    """
    get_logger("gatewright.server").error(
        "a plugin has forked its worker, and the child went on in the plugin's place: it's ended",
        child=os.getpid(),
        cure="`os._exit` in the child, or `subprocess`, or `multiprocessing`",
    )
    logs.flush()
    os._exit(1)


def keep_standard_descriptors() -> None:
    """Put nothing in the place of standard input, output and errors, where a plugin has closed them.

    Otherwise a connection would get their numbers, and what is printed.
    """
    for fd in _STANDARD:
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)  # opened, it has the lowest number that is free: this one


def beyond_standard_descriptors(sock: socket.socket) -> socket.socket:
    """The same socket, but under no number of standard input, output or errors, which a plugin may have closed.

    What is printed would go to the gateway, and the next plugin that closes them would close the connection.
    """
    if sock.fileno() not in _STANDARD:
        return sock
    moved = _Socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, len(_STANDARD)))
    sock.close()
    keep_standard_descriptors()
    return moved


def identity_of(fd: int) -> tuple[int, int] | None:
    """Which file a descriptor is of; `None` if it's of none."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def see_that_threads_are_threads() -> None:
    """See that no plugin has put something else in the place of the system's threads, on which the loop relies.

    Raises:
        ConfigError: one has.
    """
    if not isinstance(_thread.start_new_thread, BuiltinFunctionType):
        raise ConfigError(
            "a plugin has replaced the threads of the standard library (gevent's `monkey.patch_all()`, say), and the "
            "event loop can't run on greenlets: leave that out; on Kong, start the plugin server with `-g`"
        )


class SignalKeeper:
    """Keeps a worker's signal handlers."""

    INTERVAL = 0.5

    def __init__(self, loop: asyncio.AbstractEventLoop, on_term: Callable[[], None], failures: FailureLog) -> None:
        """Take the signals.

        Args:
            loop: the worker's loop.
            on_term: what SIGTERM means.
            failures: where it's told that a plugin has taken one.
        """
        self._loop = loop
        self._on_term = on_term
        self._failures = failures
        self._switch_interval = sys.getswitchinterval()
        self._take()
        self._handler = signal.getsignal(signal.SIGTERM)

    def _take(self) -> None:
        self._loop.add_signal_handler(signal.SIGTERM, self._on_term)
        for number in _KEPT:
            signal.signal(number, signal.SIG_IGN)

    def look(self) -> None:
        """See whether they are still ours; to be called every `INTERVAL` seconds."""
        if sys.getswitchinterval() > self._switch_interval:  # the loop would wait so long for each thread of a plugin's
            sys.setswitchinterval(self._switch_interval)
        expected = {signal.SIGTERM: self._handler, **dict.fromkeys(_KEPT, signal.SIG_IGN)}
        taken = [number.name for number, handler in expected.items() if signal.getsignal(number) != handler]
        self._take()  # also what a plugin has told the loop itself
        if taken:
            self._failures.report(
                "a plugin's handler for a signal is not kept: workers are told by their supervisor what to do",
                kind="signals",
                signals=taken,
                cure="teardown() is called before a worker ends, and `atexit` works",
            )
