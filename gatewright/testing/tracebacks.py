"""Tracebacks of what fails in a test: the test's line and the plugin's own, without what the runner does in between."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from gatewright.errors import GatewrightError

__all__ = ["told_briefly"]

E = TypeVar("E", bound=BaseException)
_BETWEEN: Final = (str(Path(__file__).resolve().parents[1]), str(Path(asyncio.__file__).parent), "uvloop/")


def told_briefly(error: E) -> E:
    """An exception without the frames, the runner's and its loop's, that lead to the author's own code.

    What the runner complains of itself keeps none: its words say it all. Any other that has no frame of the author's
    keeps them, as it is a fault of ours.
    """
    rest = error.__traceback__
    while rest is not None and _is_between(rest):
        rest = rest.tb_next
    if rest is not None or isinstance(error, GatewrightError | ValueError | TypeError):
        return error.with_traceback(rest)
    return error


def _is_between(frame: TracebackType) -> bool:
    return frame.tb_frame.f_code.co_filename.startswith(_BETWEEN)
