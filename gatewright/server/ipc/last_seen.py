"""What blocks a worker's loop, written where the supervisor can read it when the worker has been killed for that."""

from __future__ import annotations

import mmap
from typing import Final

__all__ = ["LastSeen"]

_MOST: Final = 1024  # a plugin's name has 200 characters at most, of up to four bytes


class LastSeen:
    """A plugin's name in memory that a worker shares with its supervisor."""

    def __init__(self) -> None:
        """Make the memory; to be called before the worker is forked."""
        self._memory = mmap.mmap(-1, 2 + _MOST)

    def blocking(self, name: str) -> None:
        """This plugin blocks the loop, right now; to be called in the worker, in any one thread."""
        raw = name.encode("utf-8", "backslashreplace")[:_MOST]
        self._memory[2 : 2 + len(raw)] = raw
        self._memory[:2] = len(raw).to_bytes(2, "big")  # last: what it counts has to be there

    def nothing(self) -> None:
        """The loop goes on."""
        self._memory[:2] = b"\0\0"

    @property
    def name(self) -> str:
        """The plugin that blocks, or blocked when the worker ended; empty if none does."""
        return self._memory[2 : 2 + int.from_bytes(self._memory[:2], "big")].decode("utf-8", "replace")

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
