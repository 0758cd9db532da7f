"""The usual turn of a connection with Kong, and what an event is made of, in Python; see `_line.c`.

What comes is taken in as everything is, by whoever derives from `Line`; C has a quick way for what is whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from gatewright.gateways.kong.events import Answer, HandleEvent, KongEvent, KongSession
from gatewright.runtime.chain import Chain
from gatewright.runtime.strands import Strand
from gatewright.server.ipc.guard import Guard
from gatewright.server.worker.service import Service

__all__ = ["EventParts", "Line"]


class EventParts:
    """What an event is made of."""

    __slots__ = (
        "_asked", "_bridge", "_home", "_known", "_queue", "_service", "_since", "_waiter", "chain",
        "connection", "number", "outlives", "over", "phase", "record", "rest", "strand", "ticket", "trace", "verdict",
    )  # fmt: skip

    record: Any
    """What is written down about it, where that is done (see `runtime.recorded`); otherwise there is none."""

    def __init__(
        self, home: Any, chain: Chain, phase: str, connection: Any, ticket: int, strand: Strand | None, /
    ) -> None:
        self._home = home
        self._service: Service = home.service
        self._bridge = self._service.bridge
        self.chain = chain
        self.phase = phase
        self.connection: Any = connection
        self.ticket = ticket
        self.strand = strand
        self.over = False
        self.verdict = ""
        """How it ended while Kong was still at work (`refuse` or `done`): said as soon as Kong answers."""
        self._asked = ""
        """The method that Kong is at work on, and since which second."""
        self._since = 0
        self.outlives = False
        """Its handler has ended, but Kong is still told what that wants: it counts as under way."""
        self.rest: list[tuple[str, tuple[Any, ...]]] | None = None
        """What is still to be said, the next thing last."""
        self.trace: Any = None
        self.number = 0
        """Its id, where one was asked for (see `id`)."""
        self._known: dict[tuple[Any, ...], Any] | None = None
        self._waiter: Any = None
        self._queue: deque[tuple[str, Any, Any]] | None = None

    def _put(self, method: str, args: Sequence[Any], waiter: Any, /) -> bool:
        """Send a call; tells whether an answer comes for the waiter."""
        return self.put_otherwise(method, args, waiter)

    def finish(self) -> None:
        """Say that the handler has ended well: Kong waits for what comes next, and nothing is still to be said."""
        self.finish_otherwise()

    def finish_otherwise(self) -> None:
        """As `finish`, for whatever isn't usual."""
        raise NotImplementedError

    def put_otherwise(self, method: str, args: Sequence[Any], waiter: Any) -> bool:
        """As `_put`, for whatever isn't usual."""
        raise NotImplementedError


class Line:
    """The usual turn of a connection: something whole comes and goes to a handler, and what that wants goes out.

    Attributes:
        slot: its place in the worker's guard; -1 where there is none.
        asked: counts requests.
        event: of a protocol whose events stay on their connection.
        last: of a protocol whose events move: whose call was the last thing said here.
    """

    __slots__ = (
        "_ahead", "_answers", "_begins", "_blocked", "_closed", "_discards", "_guard", "_head", "_held", "_instances",
        "_moves", "_noted", "_owed", "_put_off", "_receiving", "_service", "_start", "_taken_in", "_transport",
        "_unread", "asked", "event", "last", "session", "slot",
    )  # fmt: skip

    session: KongSession
    slot: int
    asked: int
    event: Any
    last: Any
    _service: Service
    _instances: Any
    _transport: asyncio.Transport
    _start: Callable[[Callable[[Strand, Any], None], object], None]
    _begins: type[HandleEvent]
    _answers: type[Answer]
    _moves: bool
    _guard: Guard | None
    _noted: bool  # for a protocol in which what was asked makes no difference
    _head: bytes  # the first bytes of what was asked
    _closed: bool
    _discards: bool
    _taken_in: bool
    _receiving: bool
    _blocked: bool  # Kong doesn't take its answers
    _put_off: list[KongEvent]  # what Kong has asked while it doesn't take its answers
    _held: int  # bytes of input that were noted
    _owed: int  # answers
    _unread: int  # bytes sent since Kong has last read all
    _ahead: bytes  # what Kong is to do before the answer: sent together with it if that comes at once

    def data_received(self, data: bytes, /) -> None:
        """Take bytes in."""
        self.receive_otherwise(data)

    def write(self, data: bytes, /) -> None:
        """Send an answer."""
        transport = self._transport
        if transport.is_closing():
            return
        if self._ahead:
            data, self._ahead = self._ahead + data, b""
        size = len(data)
        self._unread += size
        self._service.bytes_out += size
        transport.write(data)
        if self._blocked:
            self._note_untaken()
        if self.event is None:
            self._answered()
        self._owed -= 1
        if self._service.leaving:
            self._leave_if_idle()

    def _answered(self) -> None:
        """An answer was written: take the note back as soon as it has left."""
        if self._guard is not None and self.slot >= 0:
            self._instances.clear_soon(self)

    def clear_guard(self) -> bool:
        """Take the note back of what was asked, if nothing is still to be sent or to come; tells whether that is so."""
        if self._closed or self.slot < 0 or self._guard is None:
            return True
        if self._transport.get_write_buffer_size():
            self._noted = False
            self._guard.sending(self.slot)
            return False
        if self._moves or not self.session.buffered:
            self._noted = False
            self._guard.clear(self.slot)
        return True

    def receive_otherwise(self, data: bytes) -> None:
        """As `data_received`, for whatever isn't usual."""
        raise NotImplementedError

    def _note_untaken(self) -> None:
        raise NotImplementedError

    def _leave_if_idle(self) -> None:
        raise NotImplementedError
