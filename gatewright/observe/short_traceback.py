"""Tracebacks for who writes plugins: the frames of their own code, with its lines; the others are counted."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

from gatewright.errors import text_of
from gatewright.observe.causes import MOST_CAUSES

__all__ = ["own_frames", "short_stack", "short_traceback"]

_OURS: Final = str(Path(__file__).resolve().parents[1])
_LIBRARIES: Final = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_MOST: Final = 8
_FRAME: Final = re.compile(r'^  File "([^"]+)"', re.MULTILINE)

ExcInfo = tuple[type[BaseException], BaseException, "TracebackType | None"]


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of a traceback that are neither the runner's nor a library's, the innermost last."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]


def _is_own(filename: str) -> bool:
    return not filename.startswith((_OURS, *_LIBRARIES, "<"))


def short_stack(text: str) -> str:
    """The frames of a stack that are one's own, where it stands first; all of it, if none is.

    Args:
        text: as `traceback.format_stack` gives it.
    """
    frames = _FRAME.split(text)[1:]
    own = [(name, rest) for name, rest in zip(frames[::2], frames[1::2], strict=True) if _is_own(name)]
    return "".join(f'  File "{name}"{rest}' for name, rest in reversed(own)) or text


def short_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    """Write a traceback down: what was raised, where in one's own code, and the lines there.

    Args:
        out: where to.
        exc_info: the exception, as `sys.exc_info` has it.
    """
    seen: set[int] = set()
    error: BaseException | None = exc_info[1]
    how = "\n"  # the line before it is not ended yet
    while error is not None and id(error) not in seen and len(seen) < MOST_CAUSES:
        seen.add(id(error))
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if _is_own(frame.filename)]
        out.write(f"{how}{type(error).__qualname__}: {text_of(error)}\n")
        for frame in reversed(own[-_MOST:]):  # where it happened comes first
            out.write(f"  {frame.filename}:{frame.lineno}, in {frame.name}\n")
            if frame.line:
                out.write(f"      {frame.line}\n")
        others = len(frames) - len(own)
        if own and frames and not _is_own(frames[-1].filename):
            last = frames[-1]
            out.write(f"  raised in {last.filename}:{last.lineno}, in {last.name}\n")
        if not own and others:
            last = frames[-1]
            out.write(f"  {last.filename}:{last.lineno}, in {last.name}\n")
        how = "because of " if error.__cause__ is not None else "while handling "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
