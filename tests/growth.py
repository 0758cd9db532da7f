"""How much memory stays in use after something was done once more."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

__all__ = ["growth"]


def growth(do: Callable[[str], object]) -> int:
    """Bytes that are left by the third time; the first two fill caches. Each time it is told another word."""
    do("a")
    gc.collect()
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
