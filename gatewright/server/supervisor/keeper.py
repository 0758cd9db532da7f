"""The keeper: a small process that keeps the sockets when the runner is gone, and refuses what is asked there.

Over some protocols a gateway lets requests pass if it can't reach its runner. So where a gateway starts the runner, and
starts it again when it ends, a fork of the supervisor holds the listening sockets, too, and does nothing with them
until the supervisor ends, however it does. From then on it accepts connections and says no, until a new runner's
sockets have taken the place of its own, or the gateway is gone.

Workers that end with their supervisor leave their idle connections to it: whoever closes one may do so in the moment in
which the gateway asks something there. What is asked on these later is passed on to the new runner. A connection ends
after one answer, so that all are soon the new runner's.

It runs no plugin and has no log and none of the supervisor's descriptors: the gateway would take an open one for a
runner that has not ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from gatewright.server.host.gateway_user import KEEPER_NAME
from gatewright.server.host.listener import Listener
from gatewright.server.ipc.plan import StandIn
from gatewright.server.supervisor.keeping import Held, keep

__all__ = ["Keeper"]

_TAKE: Final = b"take"
_MAX_MESSAGE: Final = 4096
_PR_SET_NAME: Final = 15


class Keeper:
    """The supervisor's side: tells the keeper what to hold, and when to begin."""

    def __init__(self, stand_in: Callable[[], StandIn], gateway: int) -> None:
        """Fork it. To be called in a process that has one thread and no loop at work.

        Args:
            stand_in: answers in the runner's place.
            gateway: the process that starts the runner anew.

        Raises:
            OSError: there can be no more processes.
        """
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.handover, kept = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        """Takes connections, as descriptors with any message; workers have it, too."""
        self._held: list[Listener] = []
        try:
            if not os.fork():
                _become(theirs, kept, stand_in, gateway)
        finally:
            theirs.close()
            kept.close()

    def descriptors(self) -> set[int]:
        """The descriptors that a worker inherits, and must not have."""
        return {self._channel.fileno()}

    def hold(self, listener: Listener) -> None:
        """Have a socket's file kept, if it is ours."""
        if listener.file is None:
            return
        held = Held(listener.address.path, listener.file.file, listener.file.directory, listener.backlog)
        with contextlib.suppress(OSError):  # it was killed: `take_over` will tell
            socket.send_fds(self._channel, [msgspec.json.encode(held)], [listener.socket.fileno()])
            if listener not in self._held:
                self._held.append(listener)

    def remember(self, listener: Listener) -> None:
        """Have a socket's file removed in the end: the gateway may kill this process before that could do it."""
        if listener.file is not None:
            held = Held(listener.address.path, listener.file.file, listener.file.directory, 0)
            with contextlib.suppress(OSError):  # it was killed
                self._channel.send(msgspec.json.encode(held))

    def adopt(self, connection: socket.socket) -> None:
        """Leave a connection to it."""
        with connection, contextlib.suppress(OSError):
            socket.send_fds(self.handover, [b"kept"], [connection.fileno()])

    def take_over(self) -> None:
        """Let it accept from now on; the files are its own then."""
        try:
            self._channel.send(_TAKE)
        except OSError:
            return  # it was killed: the files are still ours to remove
        for listener in self._held:
            listener.leave_file()


def _become(channel: socket.socket, handover: socket.socket, stand_in: Callable[[], StandIn], gateway: int) -> NoReturn:
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)  # it ends when it's not needed any more
        ctypes.CDLL(None).prctl(_PR_SET_NAME, KEEPER_NAME.encode(), 0, 0, 0)
        try:
            gone = os.pidfd_open(gateway)
        except ProcessLookupError:
            os._exit(0)
        _close_all_but({channel.fileno(), handover.fileno(), gone})
        held, files = _told(channel)
        keep(held, files, handover, stand_in, gone, channel)
    finally:
        os._exit(0)


def _close_all_but(needed: set[int]) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if fd > 2 and fd not in needed:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(fd)


def _told(channel: socket.socket) -> tuple[list[tuple[Held, socket.socket]], list[Held]]:
    """Wait until the supervisor says to begin, or is gone; gives what it said to hold, and further files."""
    held: list[tuple[Held, socket.socket]] = []
    files: list[Held] = []
    while True:
        try:
            message, fds, _, _ = socket.recv_fds(channel, _MAX_MESSAGE, 1)
        except ConnectionError:
            return held, files
        if not message or message == _TAKE:
            return held, files
        told = msgspec.json.decode(message, type=Held)
        if fds:
            held.append((told, socket.socket(fileno=fds[0])))
        else:
            files.append(told)
