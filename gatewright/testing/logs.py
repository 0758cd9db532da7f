"""What the runner logs in a test: in short, and through Python's own logging, where pytest captures it."""

from __future__ import annotations

import structlog

from gatewright.observe.short_traceback import short_traceback
from gatewright.redaction import redact

__all__ = ["log_in_short"]


def log_in_short() -> None:
    """See to it, unless the test has set structlog up for itself: its own way shows all variables of all frames."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.dev.ConsoleRenderer(
                colors=False, exception_formatter=short_traceback, pad_event_to=0, sort_keys=False
            ),
            lambda _logger, _method, text: redact(str(text)),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
