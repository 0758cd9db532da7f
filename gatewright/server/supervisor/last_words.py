"""What the supervisor says for workers that have died, on the connections that they had (see `guard`)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Final

from gatewright.server.supervisor.dispatcher import Dispatcher
from gatewright.server.supervisor.workers import Worker

__all__ = ["LastWords"]

_LINGER_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 0.2
_READ: Final = 1 << 16


class LastWords:
    """Answers what workers were asked and can answer no more. Does nothing for workers without a guard."""

    def __init__(self, loop: asyncio.AbstractEventLoop, dispatcher: Dispatcher) -> None:
        """Make one.

        Args:
            loop: the supervisor's loop.
            dispatcher: finds other workers for connections that can be used further.
        """
        self._loop = loop
        self._dispatcher = dispatcher
        self._lingering: set[socket.socket] = set()

    def descriptors(self) -> set[int]:
        """The descriptors that a worker inherits and has no use for."""
        return {connection.fileno() for connection in self._lingering}

    def worker_ended(self, worker: Worker, *, stopping: bool) -> None:
        """Answer for a worker that is gone; its other connections go to others, unless all is about to stop."""
        if worker.guard is None:
            return
        ahead = {} if stopping else worker.guard.ahead.left()
        for slot in list(worker.held):
            connection = worker.held.pop(slot)
            if slot in ahead:
                self._dispatcher.place(connection, ahead[slot])
                continue
            asked, whole = worker.guard.asked(slot)
            said = bool(asked) and self._say(worker, connection, asked)
            if worker.plan.begins_anew is not None:
                usable = not asked and whole and worker.plan.begins_anew(_unread(connection))
            else:
                usable = whole and (not asked or (said and worker.plan.goes_on))
            if usable and (not stopping or self._dispatcher.to_keeper is not None):
                self._dispatcher.place(connection)
            elif worker.plan.begins_anew is not None and not asked and whole and not stopping:
                self._wait_for_call(connection, worker.plan.begins_anew)
            elif said or worker.plan.begins_anew is None:
                self._let_linger(connection, at_once=worker.plan.begins_anew is not None)
            else:  # no more than that: it may be the keeper's already
                connection.close()
        worker.guard.close()

    def closed_by(self, worker: Worker, slots: Iterable[int]) -> None:
        """A worker has closed connections, or the gateway has; it may have owed an answer."""
        for slot in slots:
            if worker.guard is not None and slot in worker.held:
                asked, _ = worker.guard.asked(slot)
                if asked:
                    self._say(worker, worker.held[slot], asked)
            worker.let_go(slot)

    @staticmethod
    def _say(worker: Worker, connection: socket.socket, asked: bytes) -> bool:
        words = worker.plan.last_words(asked) if worker.plan.last_words is not None else b""
        with contextlib.suppress(OSError):  # the gateway is gone, too
            return bool(words) and connection.send(words) == len(words)
        return False

    def _wait_for_call(self, connection: socket.socket, begins_anew: Callable[[bytes], bool]) -> None:
        """Give a connection to another worker if the gateway sends a call on it, or else close it soon.

        It may be idle, and then the gateway may take it out of its pool at any moment: what it sends on a connection
        that was closed meanwhile is lost, and in APISIX's response phase the upstream's body is shown. Or it is in the
        middle of a request phase, whose client shall not wait for long.
        """
        self._lingering.add(connection)

        def end(*, place: bool) -> None:
            if connection in self._lingering:
                self._lingering.discard(connection)
                self._loop.remove_reader(connection)
                if place:
                    self._dispatcher.place(connection)
                else:
                    connection.close()

        self._loop.add_reader(connection, lambda: end(place=begins_anew(_unread(connection))))
        self._loop.call_later(_PATIENCE_SECONDS, lambda: end(place=False))

    def _let_linger(self, connection: socket.socket, *, at_once: bool) -> None:
        """Close a connection soon: the gateway may still want to send something, and has to read what it was sent.

        Args:
            connection: which.
            at_once: let the gateway see now that nothing more will come.
        """
        if at_once:
            with contextlib.suppress(OSError):  # it is gone
                connection.shutdown(socket.SHUT_WR)
        self._lingering.add(connection)

        def close() -> None:
            if connection in self._lingering:
                self._lingering.discard(connection)
                self._loop.remove_reader(connection)
                connection.close()

        def read_away() -> None:
            try:
                over = not connection.recv(_READ)
            except BlockingIOError:
                return
            except OSError:
                over = True
            if over:
                close()

        self._loop.add_reader(connection, read_away)
        self._loop.call_later(_LINGER_SECONDS, close)


def _unread(connection: socket.socket) -> bytes:
    """The first bytes that wait there."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:  # nothing does, or the gateway is gone
        return b""
