"""Caches of finished frames: bounded in number by `lru_cache`, and here in size.

What goes into a frame may be a client's text, as long as its gateway lets it be. So a long result is not kept: the
function raises it instead. A caller on the hot path catches that itself, which costs nothing where it doesn't happen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Final, TypeVar

__all__ = ["LONGEST_KEPT", "NotKeptError", "keep_short"]

LONGEST_KEPT: Final = 4096
"""Bytes of one result."""

F = TypeVar("F", bound=Callable[..., tuple[bytes, bytes]])


class NotKeptError(Exception):
    """The result is too long to be kept."""

    def __init__(self, parts: tuple[bytes, bytes]) -> None:
        super().__init__()
        self.parts = parts


def keep_short(most: int) -> Callable[[F], F]:
    """Keep so many results of a function that gives the two parts of a frame.

    It raises `NotKeptError`, with the result, where that is longer than `LONGEST_KEPT`.
    """

    def decorate(function: F) -> F:
        @lru_cache(maxsize=most)
        @wraps(function)
        def kept(*arguments: Any) -> tuple[bytes, bytes]:
            parts = function(*arguments)
            if len(parts[0]) + len(parts[1]) > LONGEST_KEPT:
                raise NotKeptError(parts)
            return parts

        return kept  # type: ignore[return-value]  # what it gives is the same

    return decorate
