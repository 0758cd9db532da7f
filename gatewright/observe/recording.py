"""Telling a development gateway of every call: records (see `runtime.recorded`) go over a unix socket as MessagePack.

Nobody waits for whoever reads: while much waits for him, calls are not recorded, only counted. A record is an array
(see `CallRecord.packed`). A map is about the records: `{"pid": ...}` says who speaks, `{"lost": n}` how many are lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, Final

import msgpack
import msgspec
import structlog

from gatewright.runtime.recorded import CallRecord, current_record

__all__ = ["LogTap", "Recorder"]

_MOST_WAITING: Final = 1 << 22
"""Bytes that may wait for the reader."""
_MOST_A_SECOND: Final = 1000
"""Calls that are recorded; a development gateway carries no more, and nobody could read them."""
_MOST_AT_ONCE: Final = 2000
_FLUSH_SECONDS: Final = 0.01
"""How long a record may wait for others to be sent with: each write costs as much as several records."""


class Recorder:
    """Records calls, and sends the records."""

    def __init__(self, transport: asyncio.WriteTransport, loop: asyncio.AbstractEventLoop) -> None:
        """See `connect`."""
        self._transport = transport
        self._loop = loop
        self._queue: list[bytes] = []
        self._scheduled = False
        self._left = float(_MOST_AT_ONCE)
        self._flushed = loop.time()
        self._encode = msgspec.msgpack.Encoder(enc_hook=str).encode
        self._tap = LogTap()
        self.lost = 0
        """Records that were dropped and that the reader hasn't been told of."""
        self._send({"pid": os.getpid()})
        self._tap.attach()

    @classmethod
    async def connect(cls, path: str) -> Recorder | None:
        """Connect to whoever wants to know; `None` if nobody listens, which the log says."""
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_unix_connection(asyncio.Protocol, path)
        except OSError as error:
            structlog.get_logger("gatewright.observe").warning(
                "calls are not recorded: nobody listens", record=path, error=error.strerror or str(error)
            )
            return None
        return cls(transport, loop)

    def begin(self, key: int, phase: str) -> CallRecord | None:
        """Begin the record of a call; `None` if it's left out, because there are too many or the reader is behind."""
        if self._left < 1:
            self.lost += 1
            self._flush_soon()
            return None
        self._left -= 1
        return CallRecord(key, phase)

    def end(self, record: CallRecord) -> None:
        """A call has ended."""
        record.seconds = record.now()
        # Packed at once, since so many objects that wait would keep the garbage collector busy.
        packed = record.packed()
        try:
            data = self._encode(packed)
        except UnicodeEncodeError:  # bytes that are no UTF-8; msgspec is three times as fast, but doesn't know how
            data = msgpack.packb(packed, unicode_errors="surrogateescape", default=str)
        self._queue.append(data)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_later(_FLUSH_SECONDS, self._flush)

    def close(self) -> None:
        """Send what waits, and no more."""
        self._tap.detach()
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        queue, self._queue, self._scheduled = self._queue, [], False
        now, before = self._loop.time(), self._flushed
        self._flushed, self._left = now, min(self._left + (now - before) * _MOST_A_SECOND, _MOST_AT_ONCE)
        if self._transport.is_closing():
            self._left = -float("inf")  # nobody listens any more
            return
        if self.lost:
            lost, self.lost = self.lost, 0
            self._send({"lost": lost})
        if queue:
            self._transport.write(b"".join(queue))
        if self._transport.get_write_buffer_size() > _MOST_WAITING:
            self._left = 0.0  # as long as so much waits, what comes is only counted
            self._flush_soon()

    def _send(self, message: dict[str, Any]) -> None:
        self._transport.write(self._encode(message))


class LogTap(logging.Handler):
    """Writes down what plugins log, besides where it goes."""

    def attach(self) -> None:
        """Begin to."""
        # Ours and plugins' own lead to the root no more, where `logs.keep_own` was called.
        ours = logging.getLogger("gatewright")
        self._tapped = [logging.getLogger(), *(() if ours.propagate else (ours,))]
        for logger in self._tapped:
            logger.addHandler(self)

    def detach(self) -> None:
        """End it."""
        for logger in self._tapped:
            logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line to the record of the plugin that runs, if one does."""
        call = current_record()
        if call is None or record.name.startswith(_OURS):
            return
        try:
            if isinstance(record.msg, dict):  # structlog's
                fields = {name: str(value) for name, value in record.msg.items() if name not in _NOT_FIELDS}
                text = str(record.msg.get("event", ""))
            else:
                fields, text = {"logger": record.name}, record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                fields["exception"] = repr(record.exc_info[1])
        except Exception:  # what a plugin logs may do anything when it's made into text
            self.handleError(record)
            return
        call.log(record.levelname.lower(), text, fields)


_OURS: Final = ("gatewright.runtime", "gatewright.server", "gatewright.observe", "gatewright.logs")
"""Loggers of the runner's own: what they say of a plugin is told as its outcome."""
_NOT_FIELDS: Final = frozenset(
    ("event", "level", "logger", "timestamp", "plugin", "route", "call", "request_id", "exc_info", "worker")
)
