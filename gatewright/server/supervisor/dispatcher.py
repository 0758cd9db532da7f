"""Accepting connections, and giving each to a worker."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections import deque
from collections.abc import Sequence
from time import monotonic

import structlog

from gatewright.server.host.listener import Listener
from gatewright.server.ipc import messages
from gatewright.server.supervisor.keeper import Keeper
from gatewright.server.supervisor.workers import Worker, least_loaded, to_give_back
from gatewright.settings import Address, Settings

__all__ = ["Dispatcher"]

_ACCEPTS_AT_ONCE = 64
_PAUSE_SECONDS = 0.2
_ON_THE_WAY = 1024
"""Connections that no worker has taken yet; further ones wait in the kernel, which has a bound of its own."""
_NO_FILES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Dispatcher:
    """Spreads connections over workers by their number.

    With an inherited listening socket two workers were found to share 32 connections 32:0 or 29:3, for as long as the
    connections lived, and that can be long; see `docs/decisions`.

    Attributes:
        hopeless: no worker can be started for now: connections are closed at once, so that the gateway answers 503
            rather than waits.
        unreachable: somebody else's file is where gateways look for ours.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: Listener,
        workers: Sequence[Worker],
        keeper: Keeper | None = None,
    ) -> None:
        """Make a dispatcher that doesn't accept yet.

        Args:
            loop: the supervisor's loop.
            listener: the listening socket.
            workers: all workers, a list that changes.
            keeper: keeps the sockets when all is over.
        """
        self._loop = loop
        self._keeper = keeper
        self._listeners: list[Listener] = []
        self._workers = workers
        self._homeless: deque[tuple[socket.socket, bytes]] = deque()
        self._accepting = False
        self._closed = False
        self._most_held = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self.hopeless = self.unreachable = False
        self._have(listener)

    def descriptors(self) -> set[int]:
        """The descriptors that a worker inherits and has no use for."""
        sockets = [listener.socket for listener in self._listeners]
        keepers = self._keeper.descriptors() if self._keeper is not None else set()
        return {sock.fileno() for sock in (*sockets, *(connection for connection, _ in self._homeless))} | keepers

    def _have(self, listener: Listener) -> None:
        self._listeners.append(listener)
        if self._keeper is not None:
            self._keeper.hold(listener)

    @property
    def to_keeper(self) -> socket.socket | None:
        """Takes connections when all is over."""
        return self._keeper.handover if self._keeper is not None else None

    @property
    def addresses(self) -> set[Address]:
        """Where connections are accepted."""
        return {listener.address for listener in self._listeners}

    def add(self, listener: Listener) -> None:
        """Accept connections at a further address, too."""
        if self._closed:
            listener.close()
            return
        self._have(listener)
        if self._accepting:
            self._loop.add_reader(listener.socket, self._take_connections, listener)

    @property
    def listeners(self) -> Sequence[Listener]:
        """What connections come from."""
        return self._listeners

    def renew(self, listener: Listener, settings: Settings) -> None:
        """Listen anew where a listener's file is gone.

        Raises:
            ListenError: see `Listener.bind`.
        """
        fresh = Listener.bind_as(settings, listener.address, warn=False)
        fresh.set_backlog(listener.backlog)
        if self._accepting:
            self._take_connections(listener)  # those that had come before
            self._loop.remove_reader(listener.socket)
        listener.become(fresh)
        if self._accepting:
            self._loop.add_reader(listener.socket, self._take_connections, listener)
        if self._keeper is not None:
            self._keeper.hold(listener)

    def close(self) -> None:
        """Accept no more, and close what has no worker."""
        self.accept(False)
        self._closed = True
        if self._keeper is not None:
            self._keeper.take_over()
        for listener in self._listeners:  # at once: one that can't connect says so, one that connects waits in vain
            listener.close()
        self._place_homeless()

    def accept(self, accepting: bool = True) -> None:
        """Accept from now on, or let new connections wait in the kernel."""
        if accepting == self._accepting or self._closed:
            return
        self._accepting = accepting
        for listener in self._listeners:
            if accepting:
                self._loop.add_reader(listener.socket, self._take_connections, listener)
            else:
                self._loop.remove_reader(listener.socket)

    def _take_connections(self, listener: Listener) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            if len(self._homeless) + sum(len(worker.in_transit) for worker in self._workers) >= _ON_THE_WAY:
                self._pause()
                return
            try:
                connection, _address = listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                structlog.get_logger("gatewright.server").error("can't accept connections", error=error.strerror)
                if error.errno in _NO_FILES:
                    self._pause()
                return
            self.place(connection)

    def _pause(self) -> None:
        self.accept(False)
        self._loop.call_later(_PAUSE_SECONDS, self.accept)

    def place(self, connection: socket.socket, read: bytes = b"") -> None:
        """Give a connection to the worker that has the fewest.

        Args:
            connection: which.
            read: what a worker that is dead has read of it and not begun.
        """
        worker = least_loaded(self._workers, monotonic())
        if worker is not None:
            worker.hand_over(connection, read, roomy=sum(len(other.held) for other in self._workers) < self._most_held)
        elif self._closed and self._keeper is not None and not read:
            self._keeper.adopt(connection)
        elif self._closed or self.hopeless:
            connection.close()
        else:
            self._homeless.append((connection, read))

    def place_soon(self, connection: socket.socket, read: bytes) -> None:
        """Give a connection to a worker, but not at once: the one that has just had no room for it may be the only one.

        Args:
            connection: which.
            read: see `place`.
        """
        self._homeless.append((connection, read))
        self._loop.call_later(_PAUSE_SECONDS, self._place_homeless)

    def settle(self) -> None:
        """There are new workers, or none can be had: see to the connections that wait."""
        self.accept()
        self._place_homeless()
        self.spread()

    def _place_homeless(self) -> None:
        for _ in range(len(self._homeless)):
            self.place(*self._homeless.popleft())

    def spread(self) -> None:
        """Let workers that have too many connections give some back."""
        for worker, count in to_give_back(self._workers):
            worker.send(messages.Rebalance(count))
