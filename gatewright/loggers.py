"""The runner's own loggers: structlog's, set up once, whatever a plugin that uses structlog, too, sets up for itself.

structlog has one configuration for a whole process, and looks at it with each line. So what it was before any plugin
was imported is kept, and the runner's loggers have that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import structlog

__all__ = ["get_logger", "keep_configuration"]

_KEPT: Final = ("processors", "wrapper_class", "context_class")
_kept: dict[str, Any] = {}  # of this process; empty until plugins may change it


def keep_configuration(logger_of: Callable[[str], logging.Logger]) -> None:
    """Have loggers that are made from now on as they would be now.

    Args:
        logger_of: gives the standard logger of a name.
    """
    now = structlog.get_config()
    _kept["logger_of"] = logger_of
    _kept.update({name: now[name] for name in _KEPT})
    _kept["processors"] = list(now["processors"])


def get_logger(name: str) -> Any:
    """A logger of the runner's own."""
    if not _kept:
        return structlog.get_logger(name)
    settings = dict(_kept)
    logger = settings.pop("logger_of")(name)
    return structlog.wrap_logger(logger, cache_logger_on_first_use=False, **settings)
