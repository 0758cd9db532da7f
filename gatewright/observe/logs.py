"""Logs: structlog in front, standard logging behind, so that plugins' own loggers end in the same place and form.

Everything goes to stderr or a file. Nothing is ever written to stdout, which is the gateway's log pipe when the gateway
started us: plugins that `print` are the only ones to be seen there.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import IO, Any, cast

import structlog

from gatewright.errors import ConfigError

__all__ = ["configure_logs"]


def configure_logs(*, level: str = "info", format: str = "auto", file: str = "") -> None:
    """Send all logs of this process to stderr or a file.

    Args:
        level: debug, info, warning or error.
        format: `console`, `json`, or `auto`: console, coloured on a terminal.
        file: a path, appended to; empty for stderr.

    Raises:
        ConfigError: the file can't be opened.
    """
    stream: IO[str] = sys.stderr
    if file:
        try:
            stream = Path(file).open("a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - lives as long as we
        except OSError as error:
            raise ConfigError(f"log_file {file}: {error.strerror}") from None
    shared = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if format == "json":
        final += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colors = not file and stream.isatty()
        final.append(
            structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0, sort_keys=False
            )
        )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=cast("Any", shared), processors=cast("Any", final))
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *cast("Any", shared),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
