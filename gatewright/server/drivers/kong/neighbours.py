"""Other processes that run events whose steps come here, and the steps of our events that come to them.

Over MessagePack Kong takes any connection for a step: one of another worker's; or, while it reloads, one of the plugin
server's that follows this one or was before it. An event's id names the process that runs it. So each worker listens at
an address that is made from its number, besides the sockets where Kong finds it, and whoever gets a step that is not
its own (another worker, of whichever server, or a keeper) passes it on to there: in Kong's own words, one at a time on
a connection, and the answer back as it comes.

The addresses are abstract ones: there is no file to be left behind, and no right to be given. Instead both ends see to
it who the other one is: the kernel tells its user and its number, which nobody else can have.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol, cast

import msgpack

from gatewright.errors import ProtocolError
from gatewright.gateways.kong.events import Answer, KongSession
from gatewright.gateways.kong.msgpack_session import MsgPackSession
from gatewright.loggers import get_logger
from gatewright.runtime.spare_tasks import hide
from gatewright.server.drivers.kong.event import REFUSAL, Event
from gatewright.server.host.listener import BACKLOG
from gatewright.server.worker.service import Service

__all__ = ["PID_BITS", "Neighbours", "address_of", "dial"]

PID_BITS: Final = 24
"""Of an event's id, the lowest: with a counter of 28 bits above them, it's what Lua's numbers hold exactly."""
_PID_MASK: Final = (1 << PID_BITS) - 1
_PEERCRED: Final = struct.Struct("iII")
_MOST_IDLE: Final = 32


def address_of(event: int) -> str:
    """Where the process listens that runs an event; an address in the abstract namespace."""
    namespace = Path("/proc/self/ns/pid").stat().st_ino  # containers of a pod may share a network, and not numbers
    return f"\0gatewright-steps-{namespace}-{event & _PID_MASK}"


def dial(event: int) -> socket.socket | None:
    """A connection with the process that runs an event, which does not block; `None` if there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(address_of(event))
        if _is_kin(sock, event & _PID_MASK):
            return sock
    except OSError:  # it is gone, or has more than it can take
        pass
    sock.close()
    return None


def _is_kin(sock: socket.socket, pid: int | None = None) -> bool:
    """Whether the process at the other end is one of the same user's, and the one that it should be."""
    their_pid, uid, _ = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return uid == os.geteuid() and pid in (None, their_pid)


class Connection(Protocol):
    """A connection with Kong, as steps that are passed on see it."""

    def write(self, data: bytes) -> None:
        """Send an answer."""

    def refuse_number(self, ticket: int, event: int) -> None:
        """Answer a request with 500 whose event is gone."""


class Neighbours:
    """What a process has to do with the others that run events. Events and connections are those of its `Instances`."""

    def __init__(self, service: Service, events: dict[int, Event], connections: Mapping[int, Connection]) -> None:
        """Make it.

        Args:
            service: the process's service.
            events: those under way here, by their id.
            connections: those with Kong, by their number.
        """
        self._loop = service.loop
        self._events = events
        self._connections = connections
        self._own = service.sockets
        self._listener: socket.socket | None = None
        self._pid = os.getpid() & _PID_MASK
        self._idle: dict[int, list[_Line]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def listen(self) -> None:
        """Take steps from others."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(address_of(self._pid))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            get_logger("gatewright.server").error(
                "steps that come to other workers are refused: their way here is taken", error=error.strerror
            )
            return
        self._listener = sock
        self._own.add(sock)
        self._loop.add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Take no more."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:  # it has gone again; or there is no descriptor for it, and it is refused there
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._loop.remove_reader(listener)
                self._loop.call_later(1.0, self._loop.add_reader, listener, self._accept, listener)
            return
        if _is_kin(sock):
            self._have(sock, _Elsewhere(self._events))
        else:
            sock.close()

    def _have(self, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        sock.setblocking(False)
        self._own.add(sock)
        task = asyncio.Task(self._loop.connect_accepted_socket(lambda: protocol, sock), loop=self._loop)
        hide(task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def is_elsewhere(self, event: int) -> bool:
        """Whether another process runs an event."""
        return event & _PID_MASK != self._pid

    def pass_on(self, connection: int, answer: Answer) -> None:
        """Let the process have an answer of Kong's whose event it's for; its own answer goes to a connection of ours.

        If that process is gone, or goes before it has answered, the request is refused.
        """
        event = cast("int", answer.event)
        idle = self._idle.get(event & _PID_MASK)
        if idle:
            line = idle.pop()
        else:
            sock = dial(event)
            if sock is None:
                self._connections[connection].refuse_number(answer.ticket, event)
                return
            line = _Line(self, event & _PID_MASK)
            self._have(sock, line)
        line.ask(connection, answer)

    def answered(self, line: _Line, connection: int, reply: bytes) -> None:
        """A step that was passed on has its answer."""
        idle = self._idle.setdefault(line.pid, [])
        if len(idle) < _MOST_IDLE:
            idle.append(line)
        else:
            line.close()
        asked_on = self._connections.get(connection)
        if asked_on is not None:
            asked_on.write(reply)

    def lost(self, line: _Line, asked: tuple[int, Answer] | None) -> None:
        """A neighbour's connection has ended."""
        idle = self._idle.get(line.pid)
        if idle is not None and line in idle:
            idle.remove(line)
        if idle is not None and not idle:
            del self._idle[line.pid]
        connection = self._connections.get(asked[0]) if asked is not None else None
        if connection is not None and asked is not None:
            connection.refuse_number(asked[1].ticket, asked[1].event or 0)


class _Line(asyncio.Protocol):
    """A connection with another process, for one step after another."""

    def __init__(self, neighbours: Neighbours, pid: int) -> None:
        self.pid = pid
        self._neighbours = neighbours
        self._transport: asyncio.Transport | None = None
        self._asked: tuple[int, Answer] | None = None
        self._reply = b""
        self._unpacker = msgpack.Unpacker(raw=True)

    def ask(self, connection: int, answer: Answer) -> None:
        """Pass a step on that came on a connection of Kong's."""
        self._asked = connection, answer
        if self._transport is not None:
            self._transport.write(MsgPackSession.step(answer))

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what waits to be said."""
        self._transport = cast("asyncio.Transport", transport)
        if self._asked is not None:
            self._transport.write(MsgPackSession.step(self._asked[1]))

    def data_received(self, data: bytes) -> None:
        """Let Kong have the answer once it is whole."""
        self._reply += data
        self._unpacker.feed(data)
        try:
            self._unpacker.skip()
        except msgpack.OutOfData:
            return
        asked, self._asked = self._asked, None
        reply, self._reply = self._reply, b""
        if asked is not None:
            self._neighbours.answered(self, asked[0], reply)

    def connection_lost(self, _: Exception | None) -> None:
        """The other process has ended."""
        asked, self._asked = self._asked, None
        self._neighbours.lost(self, asked)


class _Elsewhere(asyncio.Protocol):
    """Where a step came from: another process, to which Kong has sent it."""

    def __init__(self, events: dict[int, Event]) -> None:
        self.session: KongSession = MsgPackSession()
        self._events = events
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)

    @property
    def last(self) -> Event | None:
        """What Kong does next, it does on its own connection; here it says nothing about an event."""
        return None

    @last.setter
    def last(self, _: Event | None) -> None: ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it in."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take steps."""
        try:
            for answer in self.session.receive_data(data):
                if not isinstance(answer, Answer):
                    raise ProtocolError(f"not a step: {type(answer).__name__}")
                event = self._events.get(answer.event or 0)
                if event is None:
                    self.write(self.session.call(answer.ticket, answer.event or 0, "kong.response.exit", REFUSAL))
                else:
                    event.take_answer(self, answer)
        except ProtocolError:
            self._transport.close()  # and what was asked is refused there

    def write(self, data: bytes) -> None:
        """Send an answer."""
        if not self._transport.is_closing():
            self._transport.write(data)

    write_ahead = write

    def event_over(self, event: Event, *, exited: bool) -> None:
        """An event has ended."""
        self._events.pop(event.number, None)
