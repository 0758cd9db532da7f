"""Whose instances are whose: those of a Kong worker that is gone are nobody's, and are dropped.

Each of Kong's workers starts instances of its own and closes those that it no longer needs; but none when it ends, as
with every reload, or dies. So each instance's owner is noted, by the process at the other end of the connection, and
now and then it's looked whether that still exists. One in another namespace can't be seen: then nothing is noted, and
`max_configurations` has to do.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["Owners", "process_behind"]

_PEERCRED: Final = struct.Struct("3i")
_STARTED: Final = 19  # field 22 of /proc/PID/stat, counted from behind the name

Process = tuple[int, str]
"""A process's id and when it was started, since ids are given out again."""


def process_behind(transport: asyncio.BaseTransport) -> Process | None:
    """The process at the other end of a unix socket, if it can be seen from here."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    pid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))[0]
    started = _started(pid) if pid > 0 else None
    return None if started is None else (pid, started)


def _started(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[_STARTED - 1]


class Owners:
    """The instances that processes have started, and not closed."""

    INTERVAL: Final = 2.0

    def __init__(self, drop: Callable[[int], None]) -> None:
        """Begin with none.

        Args:
            drop: drops an instance, everywhere.
        """
        self._drop = drop
        self._started: dict[Process, set[int]] = {}

    def started(self, owner: Process | None, number: int) -> None:
        """A process has an instance."""
        if owner is not None:
            self._started.setdefault(owner, set()).add(number)

    def closed(self, number: int) -> None:
        """An instance is gone."""
        for owner, numbers in list(self._started.items()):
            numbers.discard(number)
            if not numbers:
                del self._started[owner]

    def look(self) -> None:
        """Drop what belongs to processes that are gone; to be called every `INTERVAL` seconds."""
        for owner in list(self._started):
            pid, started = owner
            if _started(pid) != started:
                for number in self._started.pop(owner, ()):
                    self._drop(number)
