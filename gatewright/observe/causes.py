"""What caused an exception, and what caused that: no more of it than somebody would read.

Python goes through all of it before the first line is written. A plugin that tries again within its `except` makes a
chain of thousands, whose traceback would hold the loop for seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["MOST_CAUSES", "is_wide", "only_the_last"]

MOST_CAUSES: Final = 20
"""Exceptions of one chain that a traceback tells of."""

_MOST_IN_GROUPS: Final = 1000


def is_wide(error: BaseException | None) -> bool:
    """Whether it's a group of more exceptions than a traceback can be made of in no time, or one comes of such a group.

    Args:
        error: what was raised in the end.
    """
    seen: set[int] = set()
    to_see = [error]
    while to_see:
        each = to_see.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, BaseExceptionGroup):
            if len(each.exceptions) + len(seen) > _MOST_IN_GROUPS:
                return True
            to_see.extend(each.exceptions)
        if len(seen) <= MOST_CAUSES:
            to_see += each.__cause__, each.__context__
    return False


@contextmanager
def only_the_last(error: BaseException | None) -> Iterator[int]:
    """Leave out, within the block, all but the last exceptions of a chain; gives how many are left out.

    Args:
        error: what was raised in the end.
    """
    seen: set[int] = set()
    last: BaseException | None = None  # the oldest that stays
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if len(seen) == MOST_CAUSES:
            last = error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if last is None or len(seen) == MOST_CAUSES:
        yield 0
        return
    cause, context, suppressed = last.__cause__, last.__context__, last.__suppress_context__
    last.__cause__ = last.__context__ = None
    try:
        yield len(seen) - MOST_CAUSES
    finally:
        last.__cause__, last.__context__, last.__suppress_context__ = cause, context, suppressed
