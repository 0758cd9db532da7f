"""What stays in use after something was done once more: memory, and references to what all of it shares."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable

__all__ = ["growth"]

_OF_OTHERS = 100
"""References that may come and go meanwhile: what is looked for is thousands."""


def growth(do: Callable[[str], object], *shared: object) -> int:
    """Bytes that are left by the third time; the first two fill caches. Each time it is told another word.

    Raises:
        AssertionError: more refers to what is shared than before.
    """
    do("a")
    gc.collect()
    references = [sys.getrefcount(each) for each in shared]
    tracemalloc.start()
    try:
        do("b")
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        do("c")
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        for each, before_all in zip(shared, references, strict=True):
            assert sys.getrefcount(each) < before_all + _OF_OTHERS, each
