"""What can be used only in the thread that made it: connections of sqlite3, loops, `threading.local`, greenlets.

An instance of a plugin that holds such things, or that fails in words that speak of threads, runs in its own thread
only, one call after another. Any other may have several threads at once.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final

from greenlet import greenlet

from gatewright.errors import words_of

__all__ = ["holds_what_is_thread_bound", "speaks_of_threads"]

_DEEPEST: Final = 4
_MOST_LOOKED_AT: Final = 500
_BOUND: Final = (threading.local, asyncio.AbstractEventLoop, asyncio.Runner, greenlet)


def holds_what_is_thread_bound(plugin: object) -> bool:
    """Whether something that an instance holds can be used in one thread only. Not to be called in that thread."""
    return any(isinstance(each, _BOUND) or _is_bound_connection(each) for each in _held_by(plugin))


def speaks_of_threads(error: BaseException) -> bool:
    """Whether an error may come of being in another thread than the one before."""
    return "thread" in words_of(error).lower()


def _is_bound_connection(thing: object) -> bool:
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is None or not isinstance(thing, sqlite3.Connection):
        return False
    try:
        thing.cursor()  # touches nothing
    except sqlite3.ProgrammingError as error:
        return speaks_of_threads(error)
    return False


def _held_by(thing: object) -> Iterator[object]:
    """What an object holds, and what that holds: containers and attributes, for a few levels, of a bounded number."""
    seen: set[int] = {id(thing)}
    level = [thing]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _parts_of(outer)]
        fresh = []
        for each in level:
            if id(each) in seen:
                continue
            if len(seen) >= _MOST_LOOKED_AT:
                return
            seen.add(id(each))
            fresh.append(each)
            yield each
        level = fresh


def _parts_of(thing: Any) -> Iterable[object]:
    if isinstance(thing, dict):
        return list(thing.values())[:_MOST_LOOKED_AT]
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)[:_MOST_LOOKED_AT]
    if isinstance(thing, type) or type(thing).__module__ == "builtins":
        return ()
    own = getattr(thing, "__dict__", None)
    return list(own.values()) if isinstance(own, dict) else ()
