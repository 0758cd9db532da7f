"""A connection's note for the guard: what Kong has asked on it, written where the supervisor can answer for us.

The note is made when a request has been read, and taken back when the answer has left the process (see `ipc.guard`).
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from gatewright.gateways.kong.events import Answer, HandleEvent, KongSession
from gatewright.server.drivers.kong._which_line import Line
from gatewright.server.drivers.kong.instances import Instances
from gatewright.server.worker.service import Service

__all__ = ["HEAD", "NotedConnection"]

HEAD: Final = 64
"""Bytes of a request that are kept for its note."""


class NotedConnection(Line, asyncio.Protocol):
    """The part of a connection that keeps its note.

    Attributes:
        slot: its place in the worker's guard; -1 where there is none.
        asked: counts requests.
    """

    def __init__(self, service: Service, instances: Instances, session: KongSession) -> None:
        self.session = session
        self.slot = -1
        self.asked = 0
        self._instances: Instances = instances
        self._guard = service.guard
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._closed = False
        self._noted = False
        self._head = b""
        self._moves = session.moves
        self._begins, self._answers = HandleEvent, Answer

    def _note_part(self) -> None:
        """A part of a request has come."""
        if self.slot >= 0 and self._guard is not None:
            self.asked += 1
            self._noted = False
            self._guard.mark(self.slot, self._head, whole=False)

    def _clear_guard(self) -> None:
        """Take the note back at once: the connection is closed on purpose."""
        if self._guard is not None and self.slot >= 0:
            self._noted = False
            self._guard.clear(self.slot)
