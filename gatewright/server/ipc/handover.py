"""Connections on their way to a worker, which its supervisor can take back while the worker doesn't come for them.

A worker whose loop is blocked, or that somebody has stopped, may still have been given connections: it was heard of a
moment ago. Whoever speaks on them would wait until that worker goes on or is replaced. So connections travel apart from
the other messages, each as one datagram, and the supervisor keeps the worker's end of this way, too: what it reads from
there itself the worker can't have read any more, and another one gets it.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import select
import socket
import struct
from collections import deque
from typing import Final, NamedTuple

__all__ = ["Arrival", "Handover"]

_HEAD: Final = struct.Struct("<Iq")  # its number, and its slot
_READ: Final = 1 << 16  # what another worker has read of a connection is a page at most (see `read_ahead`)
_LATER: Final = frozenset((errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS))
_PAUSE_SECONDS: Final = 0.05
_SEEN_SECONDS: Final = 0.02
_Socket: Final = socket.socket  # plugins put other classes in its place (a proxy's, say)


class Arrival(NamedTuple):
    """A connection that a worker was given.

    Attributes:
        number: says which, of all that this worker is given.
        slot: its place in the worker's guard; -1 if it has none.
        read: what another worker, which is dead, has read of it and not begun.
        connection: `None` where there was no room for its descriptor.
    """

    number: int
    slot: int
    read: bytes
    connection: socket.socket | None


class Handover:
    """The way of connections to one worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make it; to be called before the worker is forked.

        Args:
            loop: the supervisor's.
        """
        self._loop = loop
        self._sends, self.arrives = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sends.setblocking(False)
        self.arrives.setblocking(False)
        self._numbers = 0
        self._waiting: deque[tuple[bytes, socket.socket]] = deque()

    def descriptors(self) -> set[int]:
        """Both ends' descriptors, of which other workers have no use."""
        return {self._sends.fileno(), self.arrives.fileno()} - {-1}

    def close(self) -> None:
        """Close it; what was not sent is the caller's still."""
        self._loop.remove_writer(self._sends)
        self._sends.close()
        self.arrives.close()
        self._waiting.clear()

    # --- in the supervisor

    def give(self, slot: int, read: bytes, connection: socket.socket) -> int:
        """Send a connection, which stays open here; gives its number."""
        self._numbers += 1
        self._waiting.append((_HEAD.pack(self._numbers, slot) + read, connection))
        if len(self._waiting) == 1:
            self._send()
        return self._numbers

    def _send(self) -> None:
        if self._sends.fileno() < 0:
            return
        while self._waiting:
            letter, connection = self._waiting[0]
            try:
                socket.send_fds(self._sends, [letter], [connection.fileno()])
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sends, self._send)
                return
            except OSError as error:
                if error.errno not in _LATER:
                    raise
                self._loop.remove_writer(self._sends)
                self._loop.call_later(_PAUSE_SECONDS, self._send)
                return
            self._waiting.popleft()
        self._loop.remove_writer(self._sends)

    def take_back(self) -> set[int]:
        """Take back what the worker has not come for: the numbers."""
        numbers = {_HEAD.unpack_from(letter)[0] for letter, _ in self._waiting}
        self._waiting.clear()
        while (arrival := self.receive()) is not None:
            numbers.add(arrival.number)
            if arrival.connection is not None:
                arrival.connection.close()  # the one that was sent is still here
        return numbers

    # --- in the worker

    def belongs_to_worker(self) -> None:
        """This is the worker's process: the other end is not its."""
        self._sends.close()

    @property
    def is_left(self) -> bool:
        """Whether the supervisor is gone. Of a process that ends one descriptor is closed after the other."""
        poll = select.poll()
        poll.register(self.arrives, 0)
        return any(seen & select.POLLHUP for _, seen in poll.poll(_SEEN_SECONDS * 1000))

    def receive(self) -> Arrival | None:
        """The next connection, if there is one, without waiting."""
        try:
            letter, ancillary, _, _ = self.arrives.recvmsg(_READ, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC)
        except OSError:  # nothing is there; or this is a plugin's child, which has no part in it
            return None
        if not letter:  # the supervisor is gone
            return None
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        for extra in fds[1:]:
            os.close(extra)
        number, slot = _HEAD.unpack_from(letter)
        return Arrival(number, slot, letter[_HEAD.size :], _Socket(fileno=fds[0]) if fds else None)
