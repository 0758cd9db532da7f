"""Telling a development gateway of every call: records (see `runtime.records`) go over a unix socket as MessagePack.

Messages are maps: `{"pid": ...}` says who speaks, `{"clock": ..., "calls": [...]}` has records, and what is to be added
to their moments to have `time.time`'s; `{"lost": n}` tells how many are lost.

Nobody waits for whoever reads: while much waits for him, calls are not recorded, only counted. Records are packed some
at once, since that costs half as much, and sent together, since each write costs as much as several records.
"""

from __future__ import annotations

import asyncio
import logging
import os
from time import perf_counter, time
from typing import Any, Final

import msgpack
import msgspec

from gatewright.loggers import get_logger
from gatewright.runtime.recorded import current_record
from gatewright.runtime.records import CallRecord

__all__ = ["LogTap", "Recorder"]

_MOST_WAITING: Final = 1 << 22
"""Bytes that may wait for the reader."""
_MOST_PACKED: Final = 1 << 20
"""Bytes that are sent at once, however short the time."""
_MOST_TOGETHER: Final = 64
"""Records that wait to be packed: more would keep the garbage collector busy."""
_FLUSH_SECONDS: Final = 0.01
"""How long a record may wait for others to be sent with."""


class Recorder:
    """Packs the records of calls, and sends them.

    Attributes:
        is_full: calls are to be left out, and that to be told (`leave_out`).
        lost: calls that were left out, and that the reader hasn't been told of.
    """

    def __init__(self, transport: asyncio.WriteTransport, loop: asyncio.AbstractEventLoop) -> None:
        """See `connect`."""
        self._transport = transport
        self._loop = loop
        self._queue: list[CallRecord] = []
        self._packed: list[bytes] = []
        self._size = 0
        self._scheduled = False
        self._encode = msgspec.msgpack.Encoder(enc_hook=str).encode
        self._tap = LogTap()
        self.is_full = False
        self.lost = 0
        self._send({"pid": os.getpid()})
        self._tap.attach()

    @classmethod
    async def connect(cls, path: str) -> Recorder | None:
        """Connect to whoever wants to know; `None` if nobody listens, which the log says."""
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_unix_connection(asyncio.Protocol, path)
        except OSError as error:
            get_logger("gatewright.observe").warning(
                "calls are not recorded: nobody listens", record=path, error=error.strerror or str(error)
            )
            return None
        return cls(transport, loop)

    def leave_out(self) -> None:
        """A call is not recorded, since the reader is behind."""
        self.lost += 1
        self._flush_soon()

    def end(self, record: CallRecord) -> None:
        """A call has ended; nothing more is written down about it."""
        queue = self._queue
        queue.append(record)
        if len(queue) >= _MOST_TOGETHER:
            self._pack()
        elif not self._scheduled:
            self._flush_soon()

    def close(self) -> None:
        """Send what waits, and no more."""
        self._tap.detach()
        self._flush()
        self._transport.close()

    def _pack(self) -> None:
        queue, self._queue = self._queue, []
        message = {"clock": time() - perf_counter(), "calls": queue}
        try:
            data = self._encode(message)
        except UnicodeEncodeError:  # bytes that are no UTF-8; msgspec is three times as fast, but doesn't know how
            plain = msgspec.to_builtins(message, builtin_types=(bytes,), enc_hook=str)
            data = msgpack.packb(plain, unicode_errors="surrogateescape")
        self._packed.append(data)
        self._size += len(data)
        if self._size > _MOST_PACKED:
            self._flush()

    def _flush_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_later(_FLUSH_SECONDS, self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        if self._queue:
            self._pack()
        packed, self._packed, self._size = self._packed, [], 0
        if self._transport.is_closing():
            self.is_full = True  # nobody listens any more
            return
        if self.lost:
            lost, self.lost = self.lost, 0
            self._send({"lost": lost})
        if packed:
            self._transport.write(b"".join(packed))
        self.is_full = self._transport.get_write_buffer_size() > _MOST_WAITING
        if self.is_full:
            self._flush_soon()  # to see whether it still is

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
