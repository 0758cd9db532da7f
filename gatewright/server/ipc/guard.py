"""What a gateway waits for on each connection, written where the supervisor can still read it when the worker is dead.

Some gateways let a request pass when a connection closes in the middle of a call (Kong over MessagePack). So the
supervisor keeps a descriptor of every connection, and answers for a worker that has died.
"""

from __future__ import annotations

import mmap
from typing import Final

from gatewright.server.ipc.read_ahead import ReadAhead

__all__ = ["Guard"]

_SLOT: Final = 32
_KEPT: Final = _SLOT - 1
_PART: Final = 0x80  # beside the size: the request has not come whole


class Guard:
    """Memory that a worker shares with its supervisor: a slot for each connection, with the beginning of a request.

    Attributes:
        ahead: whole requests that were read and are not begun yet.
        memory: what is shared; a slot has the number of bytes that are kept, and these.
    """

    def __init__(self, slots: int) -> None:
        """Make the memory; to be called before the worker is forked.

        Args:
            slots: most connections at once. Memory is used only for slots that were.
        """
        self.memory = mmap.mmap(-1, slots * _SLOT)
        self.ahead = ReadAhead()
        self._free = list(range(slots - 1, -1, -1))

    # --- in the supervisor

    def take_slot(self) -> int | None:
        """A free slot, or `None`."""
        if not self._free:
            return None
        slot = self._free.pop()
        self.clear(slot)
        return slot

    def free(self, slot: int) -> None:
        """The slot's connection is gone."""
        self._free.append(slot)

    def asked(self, slot: int) -> tuple[bytes, bool]:
        """The first bytes of what was asked and not answered, none if nothing was; and whether it had come whole."""
        at = slot * _SLOT
        size = self.memory[at]
        return self.memory[at + 1 : at + 1 + (size & ~_PART)], not size & _PART

    def close(self) -> None:
        """Give the memory back."""
        self.memory.close()
        self.ahead.close()

    # --- in the worker

    def mark(self, slot: int, data: bytes, *, whole: bool = True) -> None:
        """A request has come, or has begun to."""
        at = slot * _SLOT
        kept = data[:_KEPT]
        size = len(kept)
        # The size last: what it counts has to be there.
        self.memory[at + 1 : at + 1 + size] = kept
        self.memory[at] = size if whole else size | _PART

    def sending(self, slot: int) -> None:
        """The answer is on its way, in parts: there is nothing that somebody else could add."""
        self.memory[slot * _SLOT] = _PART

    def clear(self, slot: int) -> None:
        """It was answered."""
        self.memory[slot * _SLOT] = 0
