"""Calls that a worker has read but not begun, where the supervisor can still read them when the worker is dead.

Under load a worker reads all calls that have come before it begins the first (see `runtime.gathering`). A plugin that
ends its worker, or has it killed, still costs its own call only: the others are given to another worker, with what was
read of their connections.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

__all__ = ["ReadAhead"]

_HEAD: Final = struct.Struct("<II")  # how many calls are begun, and noted
_ENTRY: Final = struct.Struct("<II")  # a connection's slot, and the call's size
_PLACE: Final = 4096
_MOST: Final = 256


class ReadAhead:
    """Memory that a worker shares with its supervisor: a row of calls, which are begun in the order they are noted."""

    def __init__(self) -> None:
        """Make the memory; to be called before the worker is forked. What is never used takes none."""
        self._memory = mmap.mmap(-1, _PLACE * (_MOST + 1))
        self._begun = self._noted = 0

    # --- in the supervisor

    def left(self) -> dict[int, bytes]:
        """The calls that were not begun, by the slots of their connections (see `guard`)."""
        begun, noted = _HEAD.unpack_from(self._memory)
        left = {}
        for place in range(_PLACE * (begun + 1), _PLACE * (noted + 1), _PLACE):
            slot, size = _ENTRY.unpack_from(self._memory, place)
            at = place + _ENTRY.size
            left[slot] = self._memory[at : at + size]
        return left

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()

    # --- in the worker

    def note(self, slot: int, call: bytes) -> bool:
        """Note a call; `False` if there is no room for it, so that it has to be begun at once."""
        if self._begun == self._noted:
            self._begun = self._noted = 0
        end = _ENTRY.size + len(call)
        if self._noted >= _MOST or end > _PLACE:
            return False
        memory = self._memory
        self._noted += 1
        place = _PLACE * self._noted
        _ENTRY.pack_into(memory, place, slot, len(call))
        memory[place + _ENTRY.size : place + end] = call
        _HEAD.pack_into(memory, 0, self._begun, self._noted)  # last: what it counts has to be there
        return True

    def begin(self) -> None:
        """The next one is begun."""
        self._begun += 1
        _HEAD.pack_into(self._memory, 0, self._begun, self._noted)
