"""The runner's own loggers: a plugin's `dictConfig`, `logging.disable` and the like don't silence them.

What plugins put into logging (handlers, filters, a factory of records) may see the runner's lines, and may fail: that
costs neither the line nor the call that is under way.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from gatewright.loggers import keep_configuration

__all__ = ["OURS", "OwnLogger", "keep_loggers"]

OURS: Final = "gatewright"


class OwnLogger(logging.Logger):
    """See above."""

    handlers_of_ours: ClassVar[tuple[logging.Handler, ...]] = ()

    @property
    def disabled(self) -> bool:
        """It never is."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - its name
        """Whether a line of this level is written."""
        return level >= self.getEffectiveLevel()

    def makeRecord(  # noqa: N802 - its name and its arguments
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        extra: Mapping[str, object] | None = None,
        sinfo: str | None = None,
    ) -> logging.LogRecord:
        """A line's record."""
        try:
            return super().makeRecord(name, level, fn, lno, msg, args, exc_info, func, extra, sinfo)
        except Exception:
            record = logging.LogRecord(name, level, fn, lno, msg, args, exc_info, func, sinfo)
            record.__dict__.update(extra or {})
            return record

    def filter(self, record: logging.LogRecord) -> Any:
        """Whether a line is written: the runner's are; filters see those that a plugin writes by `self.log`."""
        if not self.name.startswith(f"{OURS}.plugin."):
            return True
        try:
            return super().filter(record)
        except Exception:
            return True

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name
        """Write a line, and let others see it who want to."""
        for ours in self.handlers_of_ours:
            ours.handle(record)
        logger: logging.Logger | None = self
        while logger is not None:
            for handler in logger.handlers:
                if handler not in self.handlers_of_ours and record.levelno >= handler.level:
                    with contextlib.suppress(Exception):  # it's the plugin's
                        handler.handle(record)
            logger = logger.parent if logger.propagate else None


class _ByName(logging.Logger):
    """Any logger; the runner's own are of the kind that is kept."""

    def __init__(self, name: str, level: int = logging.NOTSET) -> None:
        super().__init__(name, level)
        if name.partition(".")[0] == OURS:
            self.__class__ = OwnLogger  # type: ignore[assignment]


def _own(name: str) -> logging.Logger:
    logger = logging.getLogger(name)
    if not isinstance(logger, OwnLogger):
        logger.__class__ = OwnLogger
    return logger


def keep_loggers(handlers: Iterable[logging.Handler], level: int) -> None:
    """Keep the runner's lines coming, by these handlers, whatever is done to logging from now on.

    Args:
        handlers: where the lines go.
        level: from which level on.
    """
    keep_configuration(_own)
    logging.setLoggerClass(_ByName)
    ours = _own(OURS)
    for name in [name for name in ours.manager.loggerDict if name.partition(".")[0] == OURS]:
        _own(name)
    OwnLogger.handlers_of_ours = tuple(handlers)
    ours.handlers[:] = OwnLogger.handlers_of_ours
    ours.propagate = False
    ours.setLevel(level)
