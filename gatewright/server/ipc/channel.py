"""The socket pair between supervisor and worker: messages, and connections beside them."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from gatewright.loggers import get_logger
from gatewright.server.ipc.messages import Return

__all__ = ["Channel"]

_READ = 1 << 18
_MAX_FDS = 64
_LOST = -1
_LATER = frozenset((errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS))
_PAUSE_SECONDS = 0.05

M = TypeVar("M")


class Channel(Generic[M]):
    """One end. Messages are written at once or, where the other end is slow, kept in order until they can be."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        incoming: Any,
        on_message: Callable[[M, socket.socket | None], None],
        on_close: Callable[[], None],
    ) -> None:
        """Start to read.

        Args:
            loop: the loop to read and write on.
            sock: a connected stream socket.
            incoming: the union of messages that come in.
            on_message: told of each message, and the connection that came with it.
            on_close: told once that the other end is gone.
        """
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._on_message = on_message
        self._on_close = on_close
        self._received = bytearray()
        self._fds: deque[int] = deque()
        self._outbox: deque[tuple[memoryview, socket.socket | None, bool]] = deque()
        self.closed = False
        loop.add_reader(sock, self.read)

    @property
    def unsent(self) -> int:
        """Messages that wait because the other end doesn't read."""
        return len(self._outbox)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    # --- out

    def send(self, message: object, connection: socket.socket | None = None, *, keep: bool = False) -> None:
        """Send a message, with a connection; ours is closed once it's on its way, unless it's to be kept."""
        if self.closed:
            if connection is not None and not keep:
                connection.close()
            return
        try:
            body = self._encoder.encode(message)
        except UnicodeEncodeError:  # text of a client's that is not UTF-8, in a report
            body = self._encoder.encode(_clean(msgspec.to_builtins(message)))
        self._outbox.append((memoryview(len(body).to_bytes(4, "big") + body), connection, keep))
        if len(self._outbox) == 1:
            self._write()

    def _write(self) -> None:
        outbox = self._outbox
        while outbox:
            data, connection, keep = outbox[0]
            try:
                if connection is None:
                    sent = self._sock.send(data)
                else:
                    sent = socket.send_fds(self._sock, [data], [connection.fileno()])
                    if not keep:
                        connection.close()
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock, self._write)
                return
            except OSError as error:
                if error.errno in _LATER:
                    self._loop.call_later(_PAUSE_SECONDS, self._write)
                else:
                    self.close()
                return
            if sent == len(data):
                outbox.popleft()
            else:
                outbox[0] = data[sent:], None, False
        self._loop.remove_writer(self._sock)

    # --- in

    def read(self) -> None:
        """Take in what is there, without waiting."""
        while not self.closed:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    _READ, socket.CMSG_LEN(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, ancillary, flags = b"", [], 0
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                    self._fds.extend(fds)
            if flags & socket.MSG_CTRUNC and not ancillary:
                self._fds.append(_LOST)  # we have no room for another descriptor; there is one with each read at most
            if not data:
                self.close()
                return
            self._received += data
            self._handle_received()

    def _handle_received(self) -> None:
        received = self._received
        start = 0
        messages = []
        while len(received) - start >= 4:
            end = start + 4 + int.from_bytes(received[start : start + 4], "big")
            if end > len(received):
                break
            raw = bytes(memoryview(received)[start + 4 : end])
            start = end
            try:
                messages.append(self._decoder.decode(raw))
            except msgspec.MsgspecError as error:  # something of a plugin's in it, say: it must not cost the others
                get_logger("gatewright.server").error(
                    "a message between supervisor and worker can't be read", error=str(error), bytes=len(raw)
                )
        del received[:start]
        for message in messages:
            connection = None
            if isinstance(message, Return):
                fd = self._fds.popleft() if self._fds else _LOST
                connection = None if fd == _LOST else socket.socket(fileno=fd)
            if self.closed:
                if connection is not None:
                    connection.close()
                continue
            try:
                self._on_message(message, connection)
            except Exception as error:  # one message's trouble must not cost the others
                get_logger("gatewright.server").error(
                    "a message between supervisor and worker failed", message=type(message).__name__, exc_info=error
                )

    def close(self) -> None:
        """Close this end; connections that were not sent are closed, too."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        for _, connection, keep in self._outbox:
            if connection is not None and not keep:
                connection.close()
        self._outbox.clear()
        for fd in self._fds:
            if fd == _LOST:
                continue
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()
        with contextlib.suppress(OSError):  # somebody has closed its descriptor
            self._sock.close()
        self._on_close()


def _clean(value: Any) -> Any:
    """The same with every text fit for UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value
