"""An exception as plain values: its type, its text, and the frames with the lines of source around each."""

from __future__ import annotations

import linecache
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from gatewright.errors import text_of

__all__ = ["describe"]

_PACKAGE: Final = str(Path(__file__).resolve().parents[1])
_LIBRARIES: Final = tuple(
    {path for name in ("stdlib", "platstdlib", "purelib", "platlib") if (path := sysconfig.get_paths().get(name))}
)
_MOST_FRAMES: Final = 50
_AROUND: Final = 4
"""Lines of source before and after the one that raised."""
_LONGEST_LINE: Final = 300
_LONGEST_TEXT: Final = 1 << 13
_MOST_CAUSES: Final = 5


def describe(error: BaseException) -> dict[str, Any]:
    """An exception and what caused it.

    Gives `type`, `text`, `frames` (the outermost first), and under `cause` the same of another one, with `because`
    telling how it led to this one. A frame has `file`, `line`, `function`, `source`, `first` (the number of its first
    line) and `own`: it's neither Gatewright's nor a library's, so it is the plugin author's.
    """
    return _describe(error, _MOST_CAUSES)


def _describe(error: BaseException, causes: int) -> dict[str, Any]:
    frames = [_frame(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    out: dict[str, Any] = {"type": _name_of(type(error)), "text": _text_of(error), "frames": frames[-_MOST_FRAMES:]}
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        out["frames"].append(_place(error.filename, error.lineno, ""))
    if causes:
        if error.__cause__ is not None:
            out["cause"] = {**_describe(error.__cause__, causes - 1), "because": "raised from"}
        elif error.__context__ is not None and not error.__suppress_context__:
            out["cause"] = {**_describe(error.__context__, causes - 1), "because": "while handling"}
    return out


def _frame(frame: FrameType, line: int) -> dict[str, Any]:
    code = frame.f_code
    return _place(code.co_filename, line, code.co_qualname)


def _place(file: str, line: int, function: str) -> dict[str, Any]:
    first, source = _source(file, line)
    own = not file.startswith((_PACKAGE, "<", *_LIBRARIES))
    return {"file": file, "line": line, "function": function, "first": first, "source": source, "own": own}


def _source(file: str, line: int) -> tuple[int, list[str]]:
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    first = max(line - _AROUND, 1)
    return first, list(_cut(lines[first - 1 : line + _AROUND]))


def _cut(lines: list[str]) -> Iterator[str]:
    for line in lines:
        yield line.rstrip("\r\n")[:_LONGEST_LINE]


def _name_of(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text_of(error: BaseException) -> str:
    return text_of(error)[:_LONGEST_TEXT]
