"""Writing lines to a descriptor that may not take them, without ever waiting for it.

Whoever reads our stderr (the gateway, a container's runtime, a pager) may stop to, and a disk may be full. Requests go
on all the same: what can't be written now waits, up to a bound; what comes beyond that is lost, and counted.

No thread does this, since the supervisor forks. The descriptor itself stays as it is: it is shared with whoever started
us, so it must not be made non-blocking for all. A pipe or terminal is opened a second time through `/proc`, which gives
a description of our own; a socket has a flag for each write; on a file no write waits.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["Outlet", "Printed", "Stream", "never_wait_for"]

_MOST_WAITING: Final = 1 << 20
_SURE: Final = select.PIPE_BUF
"""Bytes that a pipe takes without waiting, where `poll` says that it takes any."""
_STANDARD: Final = 3
"""Descriptors below are input, output and errors."""
_LATER: Final = frozenset((errno.EAGAIN, errno.EINTR, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOBUFS))


class Outlet:
    """One descriptor to write lines to.

    Attributes:
        lost: lines that could not be kept since this was last asked for.
        why: what stood in the way.
    """

    def __init__(self, fd: int, *, own: bool = False, most: int = _MOST_WAITING) -> None:
        """Write to a descriptor.

        Args:
            fd: the descriptor.
            own: it's ours: to be closed, and to be written to as it is.
            most: bytes that may wait.
        """
        self._own = own
        self._most = most
        self._pid = os.getpid()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._socket: socket.socket | None = None
        self._careful = False
        self._fd = fd if own else self._second(fd)
        self.lost = 0
        self.why = ""

    @classmethod
    def to_file(cls, path: str, mode: int = 0o666) -> Outlet:
        """Append to a file, but not to what a link leads to that somebody else may have put in its place.

        Args:
            path: the file's.
            mode: what it's made with, if it's made.

        Raises:
            OSError: it can't be opened.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        if _others_may_write(Path(path).parent):
            flags |= os.O_NOFOLLOW
        try:
            return cls(os.open(path, flags, mode), own=True)
        except OSError as error:
            if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
                why = "it's a symbolic link, in a directory that others may write; name the file itself"
                raise OSError(errno.ELOOP, why) from None
            raise

    @property
    def mode(self) -> int:
        """That of the file: another one in its place is to have the same, whatever a plugin's umask is."""
        return stat.S_IMODE(os.fstat(self._fd).st_mode)

    def _second(self, fd: int) -> int:
        """Another descriptor for the same thing, on which writing doesn't wait.

        In any case one of our own: what gets the number of a descriptor that a plugin closes is not the log.
        """
        try:
            kind = os.fstat(fd).st_mode
        except OSError:
            return fd  # closed: each write will say so
        if stat.S_ISSOCK(kind):
            self._socket = socket.socket(fileno=_duplicate(fd))
            return self._socket.fileno()
        self._own = True
        if stat.S_ISREG(kind):
            return _duplicate(fd)
        try:
            again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:  # somebody else's pipe, no /proc: then only as much as is sure not to wait
            self._careful = True
            return _duplicate(fd)
        return again

    def write(self, line: bytes) -> None:
        """Write a line, or keep it for later, or lose it."""
        if self._waiting or os.getpid() != self._pid:
            self.flush()
        if self._bytes + len(line) > self._most:
            self.lost += 1
            return
        self._waiting.append(line)
        self._bytes += len(line)
        self.flush()

    def flush(self) -> bool:
        """Write what waits, as far as that's possible now; tells whether nothing is left."""
        if os.getpid() != self._pid:  # a fork: these are our parent's lines
            self._waiting.clear()
            self._bytes, self._pid = 0, os.getpid()
        while self._waiting:
            line = self._waiting[0]
            try:
                sent = self._write(line)
            except OSError as error:
                self.why = error.strerror or str(error)
                if error.errno in _LATER:
                    return False
                self.lost += len(self._waiting)  # nobody will ever read them
                self._waiting.clear()
                self._bytes = 0
                return True
            self._bytes -= sent
            if sent == len(line):
                self._waiting.popleft()
            else:
                self._waiting[0] = line[sent:]
        return True

    def _write(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._careful:
            ready = select.poll()
            ready.register(self._fd, select.POLLOUT)
            if not ready.poll(0):
                raise BlockingIOError(errno.EAGAIN, "nobody reads it")
            data = data[:_SURE]
        return os.write(self._fd, data)

    def drain(self, seconds: float) -> None:
        """Write what waits, for as long as `seconds`: the end is near."""
        deadline = time.monotonic() + seconds
        while not self.flush() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.01))

    def take_lost(self) -> int:
        """How many lines were lost since this was last asked, if there is room to tell."""
        if not self.lost or self._waiting:
            return 0
        lost, self.lost = self.lost, 0
        return lost

    def close(self) -> None:
        """Close what is ours; what waits is lost."""
        self._waiting.clear()
        self._bytes = 0
        if self._socket is not None:
            self._socket.close()
        elif self._own:
            os.close(self._fd)
        self._own, self._socket, self._fd = False, None, -1


def never_wait_for(fd: int) -> None:
    """Have what writes to a descriptor itself, such as libraries in C, lose what nobody reads rather than wait.

    That is so for pipes, with a description of our own in the place of the one that we share.
    """
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.dup2(own, fd)
            os.close(own)
    except OSError:  # closed; somebody else's pipe, or no /proc: it stays as it is
        return


def _duplicate(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STANDARD)


def _others_may_write(directory: Path) -> bool:
    found = directory.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and found.st_gid not in (0, os.getegid())


class Stream(io.RawIOBase):
    """An outlet as a file, for `sys.stdout`: what plugins print must not make them wait, either."""

    def __init__(self, outlet: Outlet, fd: int) -> None:
        super().__init__()
        self._outlet = outlet
        self._number = fd

    def fileno(self) -> int:
        """The descriptor that this stands for."""
        return self._number

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether it's a terminal."""
        try:
            return os.isatty(self._number)
        except OSError:
            return False

    def write(self, data: object) -> int:
        """Take all of it."""
        raw = bytes(data)  # type: ignore[call-overload]
        self._outlet.write(raw)
        return len(raw)


class Printed(io.TextIOWrapper):
    """Text on its way to a stream.

    Attributes:
        told: is given what is written, too, where somebody wants to know.
    """

    told: Callable[[str], None] | None = None

    def write(self, text: str, /) -> int:
        """Write it."""
        written = super().write(text)
        if self.told is not None:
            self.told(text)
        return written
