"""What the keeper does once the runner is gone (see `keeper`)."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from gatewright.server.host.socket_file import Found, remove_file
from gatewright.server.ipc.plan import StandIn

__all__ = ["Held", "keep"]

_LOOK_SECONDS: Final = 0.1
_LONGEST_SECONDS: Final = 120.0
"""For connections of before; the gateway closes those that it has not used for a minute."""
_LAST_SECONDS: Final = 6.0
"""For a supervisor that still drains, and then ends or is killed."""
_READ: Final = 1 << 16
_SEND_SECONDS: Final = 5.0
_MOST_WAITING: Final = 1024


class Held(msgspec.Struct):
    """A listening socket, as the keeper is told of it; or its file alone."""

    path: str
    file: tuple[int, int]
    directory: tuple[int, int]
    backlog: int


def keep(
    held: list[tuple[Held, socket.socket]],
    files: list[Held],
    handover: socket.socket,
    stand_in: Callable[[], StandIn],
    gateway: int,
    supervisor: socket.socket,
) -> None:
    """Say no, until there is nobody to say it to.

    Args:
        held: the sockets, listening.
        files: those of other sockets of the runner's, to be removed in the end.
        handover: gives connections, as descriptors.
        stand_in: makes what answers on a connection.
        gateway: readable when it is gone.
        supervisor: at its end when the runner's supervisor is gone.
    """
    _Keeping(held, handover, stand_in, gateway).serve()
    supervisor.settimeout(_LAST_SECONDS)
    with contextlib.suppress(OSError):
        while supervisor.recv(_READ):  # it listens on these for as long as calls under way have
            pass
    for file in files:
        if not _listens(file.path):  # a runner that came later may have the very number of the file
            _remove(file)


class _Connection:
    """A connection of the gateway's, and one to the new runner for what is passed on."""

    def __init__(self, sock: socket.socket, stand_in: StandIn) -> None:
        self.sock = sock
        self.stand_in = stand_in
        self.asked = b""
        self.refusal = b""
        self.there: socket.socket | None = None
        self.reply = b""


class _Keeping:
    """The sockets, the connections, and what comes on them."""

    def __init__(
        self,
        held: list[tuple[Held, socket.socket]],
        handover: socket.socket,
        stand_in: Callable[[], StandIn],
        gateway: int,
    ) -> None:
        self._held = held
        self._path = held[0][0].path if held else ""
        self._stand_in = stand_in
        self._handover = handover
        self._connections: set[_Connection] = set()
        self._waiting: set[_Connection] = set()
        self._began = time.monotonic()
        self._left_since = 0.0
        self._gateway_is_gone = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(gateway, selectors.EVENT_READ, self._gateway_gone)
        handover.setblocking(False)
        self._selector.register(handover, selectors.EVENT_READ, self._adopt)
        for kept, sock in held:
            sock.setblocking(False)
            sock.listen(kept.backlog)  # so that who dials is told this process (see `gateway_user.may_follow`)
            self._selector.register(sock, selectors.EVENT_READ, lambda sock=sock: self._accept(sock))

    def serve(self) -> None:
        """See `keep`."""
        while not self._gateway_is_gone and (self._held or self._connections or self._workers_are_there):
            for key, _ in self._selector.select(_LOOK_SECONDS):
                key.data()
            self._look()
        for kept, _ in self._held:
            _remove(kept)

    @property
    def _workers_are_there(self) -> bool:
        return self._handover.fileno() >= 0

    def _gateway_gone(self) -> None:
        self._gateway_is_gone = True

    def _adopt(self) -> None:
        try:
            message, fds, _, _ = socket.recv_fds(self._handover, _READ, 1)
        except BlockingIOError:
            return
        except ConnectionError:
            message, fds = b"", []
        if message:
            for fd in fds:
                self._begin(socket.socket(fileno=fd))
        else:
            self._selector.unregister(self._handover)
            self._handover.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    time.sleep(_LOOK_SECONDS)
                return
            self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        connection = _Connection(sock, self._stand_in())
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._read(connection))
        self._read(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(_READ)
            connection.asked += data
            connection.refusal = connection.stand_in.refusal(data) if data else b""
        except BlockingIOError:
            return
        except Exception:
            data = b""
        if not data:
            self._end(connection)
        elif connection.refusal:
            self._leave_replaced()  # a new runner may have come since the last time
            self._decide(connection)

    def _decide(self, connection: _Connection) -> None:
        """Pass on what was asked, have it wait, or say no."""
        there = connection.stand_in.elsewhere()
        if there is not None:
            if not self._ask(connection, there):
                self._say(connection, connection.refusal)
            return
        if self._held and time.monotonic() - self._began < connection.stand_in.patience:
            if connection not in self._waiting and len(self._waiting) < _MOST_WAITING:
                self._waiting.add(connection)
                self._selector.unregister(connection.sock)
            if connection in self._waiting:
                return
        if connection in self._waiting:
            self._waiting.discard(connection)
            self._selector.register(connection.sock, selectors.EVENT_READ, lambda: self._read(connection))
        if not self._held and connection.stand_in.asks_anew:
            self._end(connection)
        elif self._held or not self._pass_on(connection):
            self._say(connection, connection.refusal)

    def _pass_on(self, connection: _Connection) -> bool:
        """Ask the new runner; tells whether it can be asked."""
        there = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        there.settimeout(1.0)
        try:
            there.connect(self._path)
        except OSError:
            there.close()
            return False
        return self._ask(connection, there)

    def _ask(self, connection: _Connection, there: socket.socket) -> bool:
        """Pass on what was asked; tells whether that was possible."""
        try:
            _send(there, connection.asked)
        except OSError:
            there.close()
            return False
        connection.there = there
        if connection.stand_in.relays:
            self._selector.modify(connection.sock, selectors.EVENT_READ, lambda: self._relay(connection, there))
        else:
            self._selector.unregister(connection.sock)
        self._selector.register(there, selectors.EVENT_READ, lambda: self._read_reply(connection, there))
        return True

    def _relay(self, connection: _Connection, there: socket.socket) -> None:
        """What the gateway says in answer to the new runner's questions."""
        try:
            data = connection.sock.recv(_READ)
            if data:
                _send(there, data)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(connection)

    def _read_reply(self, connection: _Connection, there: socket.socket) -> None:
        answer = connection.refusal
        try:
            data = there.recv(_READ)
            if data:
                if connection.stand_in.relays:
                    _send(connection.sock, data)
                else:
                    connection.reply += data
                answer = connection.stand_in.passed_on(connection.reply, data)
        except BlockingIOError:
            return
        except Exception:  # noqa: S110 - then the refusal it is
            pass
        if answer:
            self._say(connection, answer)

    def _say(self, connection: _Connection, answer: bytes) -> None:
        with contextlib.suppress(OSError):  # the gateway is gone, or does not read
            connection.sock.settimeout(1.0)
            connection.sock.sendall(answer)
        self._end(connection)

    def _end(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):  # the gateway has closed it
            connection.sock.shutdown(socket.SHUT_RDWR)  # of a worker that was killed it may have come to us twice
        for sock in (connection.sock, connection.there):
            if sock is not None:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(sock)
                sock.close()
        self._connections.discard(connection)
        self._waiting.discard(connection)

    def _look(self) -> None:
        """Leave sockets that nobody can dial any more, and in the end what is left on them."""
        self._leave_replaced()
        for connection in list(self._waiting):
            self._decide(connection)
        if self._held:
            return
        self._left_since = self._left_since or time.monotonic()
        if time.monotonic() - self._left_since > _LONGEST_SECONDS:
            for connection in list(self._connections):
                self._end(connection)

    def _leave_replaced(self) -> None:
        replaced = [entry for entry in self._held if not _is_ours(entry[0])]
        self._held = [entry for entry in self._held if entry not in replaced]
        for _, sock in replaced:
            self._accept(sock)  # what has dialled before
            self._selector.unregister(sock)
            sock.close()


def _send(sock: socket.socket, data: bytes) -> None:
    """Send all, to somebody who may be slow to read."""
    sock.settimeout(_SEND_SECONDS)
    try:
        sock.sendall(data)
    finally:
        sock.setblocking(False)


def _remove(kept: Held) -> None:
    with contextlib.suppress(OSError):
        remove_file(Path(kept.path), Found(kept.file, kept.directory))


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _is_ours(kept: Held) -> bool:
    try:
        there = os.lstat(kept.path)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == kept.file
