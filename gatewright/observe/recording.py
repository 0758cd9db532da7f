"""Telling a development gateway of every call: records (see `runtime.records`) go over a unix socket as MessagePack.

Messages are maps: `{"pid": ...}` says who speaks, `{"clock": ..., "calls": [...]}` has records, and what is to be added
to their moments to have `time.time`'s; `{"lost": n}` tells how many are lost.

Nobody waits for whoever reads: while much waits for him, calls are not recorded, only counted. Records are packed and
sent many at once: a write costs as much as several records, and packing one alone several times its share of many.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from time import perf_counter, time
from typing import Any, Final

import msgpack
import msgspec

from gatewright.loggers import get_logger
from gatewright.observe.outlet import Printed
from gatewright.runtime.recorded import current_record
from gatewright.runtime.records import CallRecord

__all__ = ["LogTap", "Recorder"]

_MOST_WAITING: Final = 1 << 22
"""Bytes that may wait for the reader."""
_FLUSH_SECONDS: Final = 0.01
"""How long a record may wait for others to be sent with."""


class Recorder:
    """Packs the records of calls, and sends them.

    Attributes:
        at_rest: nothing is recorded, or it may be too much: see `wake`, before each call that is to be recorded.
        end: a call has ended, and nothing more will be written down in its record. (A list's method: this is called for
            each call, and a function in Python would cost more than packing the record does.)
        lost: calls that were left out, and that the reader hasn't been told of.
    """

    def __init__(self, transport: asyncio.WriteTransport, loop: asyncio.AbstractEventLoop) -> None:
        """See `connect`."""
        self._transport = transport
        self._loop = loop
        self._queue: list[CallRecord] = []
        self.end = self._queue.append
        self._encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
        self._tap = LogTap()
        self._is_full = False
        self.at_rest = True
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

    def wake(self) -> bool:
        """A call begins; tells whether to record it. If not, it's counted: the reader is behind."""
        if self._is_full:
            self.lost += 1
            return False
        self.flush_soon()
        return True

    def flush_soon(self) -> None:
        """A call has ended, and `at_rest` is so again: it took longer than others may wait."""
        if not self._is_full:  # or that is to be done anyhow
            self.at_rest = False
            self._loop.call_later(_FLUSH_SECONDS, self.flush)

    def close(self) -> None:
        """Send what waits, and no more."""
        self._tap.detach()
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Pack and send what waits."""
        self.at_rest = True
        packed = self._packed()
        if self._transport.is_closing():
            self._is_full = True  # nobody listens any more
            return
        if self.lost:
            lost, self.lost = self.lost, 0
            self._send({"lost": lost})
        if packed:
            self._transport.write(packed)
        self._is_full = self._transport.get_write_buffer_size() > _MOST_WAITING
        if self._is_full:
            self._loop.call_later(_FLUSH_SECONDS, self.flush)  # to see whether it still is

    def _packed(self) -> bytes:
        if not self._queue:
            return b""
        message = {"clock": time() - perf_counter(), "calls": self._queue}
        try:
            return self._encode(message)
        except UnicodeEncodeError:  # bytes that are no UTF-8; msgspec is three times as fast, but doesn't know how
            plain = msgspec.to_builtins(message, builtin_types=(bytes,), enc_hook=_plain)
            packed: bytes = msgpack.packb(plain, unicode_errors="surrogateescape")
            return packed
        finally:
            self._queue.clear()

    def _send(self, message: dict[str, Any]) -> None:
        self._transport.write(self._encode(message))


def _plain(value: object) -> str:
    """What is no plain value: a plugin's own kind of text, say, that does anything when it's asked for its text."""
    return str.__str__(value) if isinstance(value, str) else object.__repr__(value)


class LogTap(logging.Handler):
    """Writes down what plugins log and, where they run in a worker, print, besides where it goes."""

    def attach(self) -> None:
        """Begin to."""
        # Ours and plugins' own lead to the root no more, where `logs.keep_own` was called.
        ours = logging.getLogger("gatewright")
        self._tapped = [logging.getLogger(), *(() if ours.propagate else (ours,))]
        for logger in self._tapped:
            logger.addHandler(self)
        self._begun = threading.local()
        self._streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Printed)]
        for stream in self._streams:
            stream.told = self._printed

    def detach(self) -> None:
        """End it."""
        for logger in self._tapped:
            logger.removeHandler(self)
        for stream in self._streams:
            stream.told = None

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
                extra = {name: str(record.__dict__[name]) for name in record.__dict__.keys() - _OF_ANY_LINE}
                fields, text = {"logger": record.name, **extra}, record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                fields["exception"] = repr(record.exc_info[1])
        except Exception:  # what a plugin logs may do anything when it's made into text
            self.handleError(record)
            return
        call.log(record.levelname.lower(), text, fields)

    def _printed(self, text: str) -> None:
        """Add whole lines to the record of the plugin that runs: `print` writes its arguments one after another."""
        call = current_record()
        before, begun = getattr(self._begun, "line", (None, ""))
        *lines, rest = ((begun if before is call else "") + text).split("\n")
        self._begun.line = call, rest
        if call is not None:
            for line in lines:
                call.log("print", line, {})


_OF_ANY_LINE: Final = frozenset(
    (*logging.makeLogRecord({}).__dict__, "message", "asctime", "_record", "_from_structlog")
)
_OURS: Final = ("gatewright.runtime", "gatewright.server", "gatewright.observe", "gatewright.logs")
"""Loggers of the runner's own: what they say of a plugin is told as its outcome."""
_NOT_FIELDS: Final = frozenset(
    ("event", "level", "logger", "timestamp", "plugin", "route", "call", "request_id", "exc_info", "worker")
)
