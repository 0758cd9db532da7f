"""What waits, received or to be sent: one total for the process, and when a connection is not read from.

A session keeps what comes while a call is under way, and frames that have not come whole; a transport keeps answers
that are not taken. Each connection has bounds of its own (`max_frame`, `_AHEAD` during a call, no further calls while
answers lie untaken); this keeps many of them together within `max_buffered`.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from gatewright.runtime.failures import FailureLog

__all__ = ["BufferedInput", "Inflow"]

_AHEAD: Final = 1 << 16
"""Bytes that a gateway may send ahead while its call is under way; what is more stays in the kernel."""


class Holder(Protocol):
    """A connection that keeps something."""

    def end_for_room(self, held: int) -> None:
        """Close the connection: it holds more than all others while there is no room for more."""


class BufferedInput:
    """How much all connections of a process keep.

    Attributes:
        total: bytes, of input and of output that is not taken.
    """

    def __init__(self, most: int, failures: FailureLog) -> None:
        """Begin with nothing.

        Args:
            most: bytes; beyond them the connections that hold most are closed.
            failures: where that is told.
        """
        self._most = most
        self._failures = failures
        self._held: dict[Holder, int] = {}
        self._untaken: dict[Holder, int] = {}
        self._ending: set[Holder] = set()
        self.total = 0

    def set(self, holder: Holder, size: int) -> None:
        """A connection keeps so many bytes of input now."""
        self._set(self._held, holder, size)

    def set_untaken(self, holder: Holder, size: int) -> None:
        """So many bytes of its answers lie untaken, of a connection that is not read from for that."""
        self._set(self._untaken, holder, size)

    def _set(self, kept: dict[Holder, int], holder: Holder, size: int) -> None:
        self.total += size - kept.pop(holder, 0)
        if size:
            kept[holder] = size
        if self.total > self._most:
            self._make_room()

    def _of(self, holder: Holder) -> int:
        return self._held.get(holder, 0) + self._untaken.get(holder, 0)

    def _make_room(self) -> None:
        rest = sorted({*self._held, *self._untaken} - self._ending, key=self._of)
        stays = self.total - sum(map(self._of, self._ending))  # these are about to go
        while stays > self._most and rest:
            holder = rest.pop()
            held = self._of(holder)
            stays -= held
            what = "input" if self._held.get(holder, 0) * 2 >= held else "output"
            self._failures.report(
                f"connection closed: too much {what} waits in this process, and most of it on this connection",
                kind="max_buffered", held=held, in_all=self.total, limit=self._most,
            )  # fmt: skip
            self._ending.add(holder)
            holder.end_for_room(held)

    def gone(self, holder: Holder) -> None:
        """A connection is gone, and what it kept with it."""
        self.total -= self._held.pop(holder, 0) + self._untaken.pop(holder, 0)
        self._ending.discard(holder)


class Inflow:
    """Reads from one connection, or doesn't: while too much was sent ahead, or an answer is not taken."""

    def __init__(self) -> None:
        self._ahead = self._paused = False
        self.blocked = False
        """Answers lie untaken: there should be no more of them for now."""

    def sent_ahead(self, transport: asyncio.Transport, size: int, *, wanted: bool) -> None:
        """The gateway has sent so much that can't be used yet.

        Args:
            transport: the connection's.
            size: bytes kept.
            wanted: what stands in front is what a call waits for.
        """
        self._ahead = size > _AHEAD and not wanted
        self._settle(transport)

    def untaken(self, transport: asyncio.Transport, *, much: bool) -> None:
        """The gateway leaves (`much`), or no longer leaves, more answers lying than the system keeps for it."""
        self.blocked = much
        self._settle(transport)

    def _settle(self, transport: asyncio.Transport) -> None:
        pause = self._ahead or self.blocked
        if pause == self._paused or transport.is_closing():
            return
        self._paused = pause
        if pause and transport.is_reading():
            transport.pause_reading()
        elif not pause and not transport.is_reading():
            transport.resume_reading()
