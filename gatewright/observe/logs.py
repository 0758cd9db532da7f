"""Logs: structlog in front, standard logging behind, so that plugins' own loggers end in the same place and form.

Everything goes to stderr or a file. Nothing is ever written to stdout, which is the gateway's log pipe when the gateway
started us: plugins that `print` are the only ones to be seen there.

What is logged while a plugin handles a call carries the plugin, the route and the request's id by itself. Secrets are
blacked out, by the name of the field and by their look in text. Nobody ever waits for whoever reads the log (`outlet`).
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final, TextIO, cast

import structlog

from gatewright.errors import ConfigError, words_of
from gatewright.http import RequestCall
from gatewright.loggers import get_logger
from gatewright.observe.causes import is_wide, only_the_last
from gatewright.observe.outlet import Outlet, Printed, Stream, never_wait_for
from gatewright.observe.own_loggers import OURS, OwnLogger, keep_loggers
from gatewright.observe.short_traceback import short_stack, short_traceback
from gatewright.redaction import redact, redact_fields
from gatewright.runtime.strands import current_work

__all__ = ["configure_logs", "finish", "flush", "keep_own", "level", "never_wait_for_output", "reopen", "set_level"]

_STDERR: Final = 2
_LAST_SECONDS: Final = 0.1
_Record: Final = logging.LogRecord
_streams: list[Outlet] = []  # of this process; there is one of each

_LONGEST_ID = 256
"""Characters of a client's request id; an honest one has 36."""
_OF_PRODUCTION: Final = ("worker", "call")
_SAID_AGAIN: Final = frozenset((
    "plugin configuration is invalid",
    "configuration names an unknown plugin", "configuration names an unusable plugin",
))  # fmt: skip
"""What a chain that is being prepared says, and a request that it refuses."""
_OWN = frozenset(("event", "exc_info", "stack_info", "_record", "_from_structlog"))


class _Handler(logging.Handler):
    """Writes to stderr or a file, never waiting for either, and opens the file anew when asked to."""

    def __init__(self, file: str) -> None:
        self._file = str(Path(file).absolute()) if file else ""  # a plugin may go to another directory
        self._telling = False
        self.outlet = _open(file) if file else Outlet(_STDERR)
        super().__init__()

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802 - its name
        """Set the form of the lines, once: it's what blacks secrets out, and not for plugins to change."""
        if self.formatter is None:
            super().setFormatter(fmt)

    def filter(self, record: logging.LogRecord) -> Any:
        """Whether a record is written; the runner's own are."""
        return record.name.partition(".")[0] == OURS or super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, and before it, if there is room again, how many were lost."""
        try:
            line = self.format(record) + "\n"
        except Exception as error:  # what a plugin logs may do anything when it's made into text
            words = f"a line can't be told: {words_of(error)}"
            line = (
                self.format(_Record(record.name, record.levelno, record.pathname, record.lineno, words, (), None))
                + "\n"
            )
        self.outlet.write(line.encode("utf-8", "backslashreplace"))
        self.tell_lost()

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line. structlog makes a record for it, but not as a plugin wants its own to be made."""
        factory = logging.getLogRecordFactory()
        if factory is logging.LogRecord:
            return super().format(record)
        logging.setLogRecordFactory(logging.LogRecord)
        try:
            return super().format(record)
        finally:
            logging.setLogRecordFactory(factory)

    def tell_lost(self) -> None:
        """Say how many lines could not be written, once they can."""
        if self._telling or not self.outlet.lost:
            return
        why, lost = self.outlet.why, self.outlet.take_lost()
        if lost:
            self._telling = True
            try:
                get_logger("gatewright.logs").warning("log lines were lost", lines=lost, because=why)
            finally:
                self._telling = False

    def flush(self) -> None:
        """Write what waits, if it can be written now."""
        if self.outlet.flush():
            self.tell_lost()

    def close(self) -> None:
        """Write what waits, for a moment. It stays open: a plugin's `dictConfig` closes all handlers that there are."""
        self.outlet.drain(_LAST_SECONDS)

    def reopen(self) -> None:
        if self._file:
            fresh = _open(self._file, self.outlet.mode)
            self.acquire()
            try:
                old, self.outlet = self.outlet, fresh
                old.flush()
                fresh.lost, fresh.why = old.lost, old.why
                old.close()
            finally:
                self.release()


class _ConsoleFormatter(structlog.stdlib.ProcessorFormatter):
    """Blacks secrets out of the finished line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure_logs(
    *,
    level: str = "info",
    format: str = "auto",
    file: str = "",
    fields: Mapping[str, Any] | None = None,
    must_open: bool = True,
) -> None:
    """Send all logs of this process to stderr or a file.

    Args:
        level: debug, info, warning or error.
        format: `console`, `json`, `short`, or `auto`: console, coloured on a terminal.
        file: a path, appended to; empty for stderr.
        fields: what every line of this process carries.
        must_open: the file has to be opened; otherwise, if it can't be, stderr is good enough.

    Raises:
        ConfigError: the file can't be opened, and has to be.
    """
    failed: ConfigError | None = None
    try:
        handler = _Handler(file)
    except ConfigError as error:
        if must_open:
            raise
        failed, handler = error, _Handler("")

    def add_fields(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in (fields or {}).items():
            event.setdefault(name, value)
        return event

    shared = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(*(("%H:%M:%S", False) if format == "short" else ("iso", True))),
        _add_call,
        add_fields,
        _redact_fields,
    ]
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if format == "json":
        formatter = structlog.stdlib.ProcessorFormatter
        final += [
            structlog.processors.ExceptionRenderer(_traceback),
            _redact_texts,
            structlog.processors.JSONRenderer(default=lambda value: redact(str(value))),
        ]
    else:
        formatter = _ConsoleFormatter
        colors = not file and os.isatty(_STDERR)
        if format == "short":
            final.append(_calm)
        final.append(
            structlog.dev.ConsoleRenderer(
                colors=colors,
                exception_formatter=short_traceback if format == "short" else _write_traceback,
                pad_event_to=0,
                sort_keys=False,
            )
        )
    extra = [structlog.stdlib.ExtraAdder(), *shared]
    handler.setFormatter(formatter(foreign_pre_chain=cast("Any", extra), processors=cast("Any", final)))
    root = logging.getLogger()
    for old in root.handlers:
        if isinstance(old, _Handler):
            old.outlet.flush()
            old.outlet.close()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Of the runner's own affairs only what is wrong: what is told of plugins is looked for.
    logging.getLogger(f"{OURS}.server").setLevel("WARNING" if format == "short" else logging.NOTSET)
    # What can't be loaded is told by whoever asked for it: `gatewright dev`.
    logging.getLogger(f"{OURS}.server.loaded").setLevel("CRITICAL" if format == "short" else logging.NOTSET)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *([_only_once] if format == "short" else []),
            *cast("Any", shared),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    if failed is not None:
        get_logger("gatewright.logs").error("the log goes to stderr", error=str(failed))


def keep_own() -> None:
    """Keep the runner's lines coming, whatever plugins do to logging. To be called before any plugin is imported.

    Plugins' own lines (`Plugin.log`) are among them. Those of other loggers go where the plugin that sets logging up
    wants to have them.
    """
    root = logging.getLogger()
    keep_loggers((handler for handler in root.handlers if isinstance(handler, _Handler)), root.level)


def _own_handlers() -> set[_Handler]:
    both = (*OwnLogger.handlers_of_ours, *logging.getLogger().handlers)
    return {handler for handler in both if isinstance(handler, _Handler)}


def finish() -> None:
    """Write what waits, for a moment, before the process ends."""
    logging.shutdown()
    for handler in _own_handlers():
        handler.close()


def flush() -> None:
    """Write what could not be written before; to be called now and then."""
    for handler in _own_handlers():
        handler.flush()
    for stream in _streams:
        stream.flush()


def never_wait_for_output() -> None:
    """Let `print` and the like in this process lose what nobody reads, rather than wait for a reader."""
    _streams.clear()
    for name, fd in (("stdout", 1), ("stderr", _STDERR)):
        outlet = Outlet(fd)
        _streams.append(outlet)
        never_wait_for(fd)
        raw = io.BufferedWriter(Stream(outlet, fd))
        stream = Printed(raw, "utf-8", "backslashreplace", line_buffering=True)
        for spelled in (name, f"__{name}__"):
            setattr(sys, spelled, stream)


def level() -> str:
    """The level in force, in lower case."""
    return logging.getLevelName(logging.getLogger().level).lower()


def set_level(level: str) -> None:
    """Log at another level from now on."""
    ours = logging.getLogger(OURS)
    for logger in (logging.getLogger(), ours) if ours.handlers else (logging.getLogger(),):
        logger.setLevel(level.upper())
    get_logger("gatewright.logs").info("log level set", level=level)


def reopen() -> None:
    """Open the log file anew, after somebody moved it away. If that fails, the old one stays in use."""
    for handler in _own_handlers():
        try:
            handler.reopen()
        except ConfigError as error:
            get_logger("gatewright.logs").error("the log file stays as it is", error=str(error))


def _open(file: str, mode: int = 0o666) -> Outlet:
    try:
        return Outlet.to_file(file, mode)
    except OSError as error:
        raise ConfigError(f"log_file {file}: {error.strerror}") from None


def _add_call(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    under = current_work()
    if under is None:
        return event
    call, work = under
    if work is not None:
        event.setdefault("plugin", work.name)
        event.setdefault("route", work.route)
    if call is not None:
        event.setdefault("call", call.source.id)
        # A line must not ask the gateway: the call may just have ended, or its deadline passed.
        if isinstance(call, RequestCall) and call.source.headers_at_hand:
            request_id = call.headers.get("x-request-id")
            if request_id:
                event.setdefault("request_id", request_id[:_LONGEST_ID])
    return event


def _traceback(exc_info: Any) -> str:
    error = exc_info[1]
    try:
        with only_the_last(error) as left_out:
            if is_wide(error):  # Python would go through all of them, to show fifteen
                lines = [*traceback.format_tb(exc_info[2]), words_of(error)]
            else:
                lines = traceback.format_exception(*exc_info)
    except Exception:  # its class does as it likes when it's looked at
        left_out, lines = 0, [*traceback.format_tb(exc_info[2]), words_of(error)]
    before = f"({left_out} exceptions before these are left out)\n" if left_out else ""
    return before + "".join(lines).removesuffix("\n")


def _write_traceback(out: TextIO, exc_info: Any) -> None:
    out.write(f"\n{_traceback(exc_info)}")


def _only_once(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out what the refusal of the request says once more, in the next line."""
    if event.get("event") in _SAID_AGAIN and not event.get("exc_info"):
        raise structlog.DropEvent
    return event


def _calm(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out what means nothing to an author before a development gateway."""
    for name in _OF_PRODUCTION:
        event.pop(name, None)
    if isinstance(event.get("stack"), str):
        event["stack"] = short_stack(event["stack"])
    return event


def _redact_fields(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if name not in _OWN:
            event[name] = redact_fields(value, name)
    return event


def _redact_texts(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = redact(value)
    return event
