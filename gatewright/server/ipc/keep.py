"""What request phases leave for response phases, in memory that all workers share.

A worker writes to a region of its own, so nobody has to wait for anybody, and reads all regions. A region is a ring of
records with an index over it:

- the index has slots by the name's digest; a slot tells where in the ring the record is, and when it was written;
- the ring's positions only grow. A record is there as long as the ring's head is less than the ring's size beyond it.

A reader may come while its record is overwritten: the record's own digest and checksum tell. A worker that dies leaves
its region as it is, and the one that gets it goes on at the head: what was left is found all the same.
"""

from __future__ import annotations

import mmap
import struct
from hashlib import blake2b
from time import monotonic
from typing import Final
from zlib import crc32

__all__ = ["LASTS_SECONDS", "Keep", "LostError", "Region"]

LASTS_SECONDS: Final = 300.0
"""How long something is kept."""
_RING: Final = 16 << 20
_SLOTS: Final = 1 << 17
_PROBES: Final = 32
_SMALLEST: Final = 256
"""Bytes that a record takes up at least: so that there are twice as many slots as records."""
_slot = struct.Struct("<16sdQI4x")
_record = struct.Struct("<16sII")
_head = struct.Struct("<Q")
_HEADER: Final = 4096
_INDEX: Final = (_SLOTS + _PROBES) * _slot.size  # a row of probes may begin with the last
_SIZE: Final = _HEADER + _INDEX + _RING
_NOTHING: Final = bytes(16)


class LostError(Exception):
    """It was kept, but is no longer there."""


class Keep:
    """The regions. Memory is used for what was written only."""

    def __init__(self, regions: int) -> None:
        """Make the memory; to be called before workers are forked.

        Args:
            regions: most workers at once, successors included.
        """
        self._memory = mmap.mmap(-1, _HEADER + regions * _SIZE)
        self._regions = regions
        self._free = list(range(regions))

    def lease(self) -> int:
        """A region for a new worker, the one that was free for longest; -1 if there is none."""
        return self._free.pop(0) if self._free else -1

    def release(self, region: int) -> None:
        """A region's worker has ended."""
        if region >= 0:
            self._free.append(region)

    def region(self, number: int) -> Region:
        """What a worker uses."""
        return Region(self._memory, self._regions, number)


class Region:
    """A worker's part, and its view of the others'."""

    def __init__(self, memory: mmap.mmap, regions: int, own: int) -> None:
        self._memory = memory
        self._regions = regions
        self._own = own

    @property
    def wanted(self) -> bool:
        """Some handler looks for what is kept."""
        return self._memory[0] != 0

    def want(self) -> None:
        """From now on, in all workers, keep it."""
        self._memory[0] = 1

    @property
    def writable(self) -> bool:
        """There is a region for this worker."""
        return self._own >= 0

    def put(self, name: bytes, content: bytes) -> None:
        """Keep something; what has the same name here is replaced."""
        memory, base = self._memory, _HEADER + self._own * _SIZE
        digest, now = _digest(name), monotonic()
        size = max(_record.size + len(content), _SMALLEST)
        (head,) = _head.unpack_from(memory, base)
        at = head % _RING
        if at + size > _RING:
            head += _RING - at
            at = 0
        _head.pack_into(memory, base, head + size)  # first: readers must not trust what is overwritten now
        start = base + _HEADER + _INDEX + at
        _record.pack_into(memory, start, digest, len(content), crc32(content))
        memory[start + _record.size : start + _record.size + len(content)] = content
        _slot.pack_into(memory, self._slot_for(base, digest, now), digest, now, head, size)

    def _slot_for(self, base: int, digest: bytes, now: float) -> int:
        """Where in the index a record goes: its own place, a free one, or the oldest."""
        start = base + _row_of(digest)
        present = self._find(start, digest)
        if present >= 0:
            return present
        best, oldest = 0, float("inf")
        for offset in range(start, start + _PROBES * _slot.size, _slot.size):
            there, written, _, _ = _slot.unpack_from(self._memory, offset)
            if there == _NOTHING or now - written > 2 * LASTS_SECONDS:
                written = float("-inf")
            if written < oldest:
                best, oldest = offset, written
            if there == _NOTHING:
                break
        return best

    def get(self, name: bytes) -> list[bytes]:
        """All that is kept under a name, the oldest first.

        Raises:
            LostError: there was something, but too much came after it, or too much time has passed.
        """
        digest, now = _digest(name), monotonic()
        found: list[tuple[float, bytes]] = []
        row = _row_of(digest)
        for region in range(self._regions):
            base = _HEADER + region * _SIZE
            if not _head.unpack_from(self._memory, base)[0]:
                continue  # nobody has written: to look would take memory
            offset = self._find(base + row, digest)
            if offset >= 0:
                _, written, position, size = _slot.unpack_from(self._memory, offset)
                if now - written > LASTS_SECONDS:
                    raise LostError(f"it was kept for {LASTS_SECONDS:g} s, and no longer")
                found.append((written, self._read(base, digest, position, size)))
        return [content for _, content in sorted(found)]

    def _find(self, row: int, digest: bytes) -> int:
        """Where in a row the digest stands; -1 if it doesn't. A search in C: 0.3 us a region."""
        at = self._memory[row : row + _PROBES * _slot.size].find(digest)
        return row + at if at >= 0 and at % _slot.size == 0 else -1

    def _read(self, base: int, digest: bytes, position: int, size: int) -> bytes:
        memory, start = self._memory, base + _HEADER + _INDEX + position % _RING
        own, length, checksum = _record.unpack_from(memory, start)
        content = memory[start + _record.size : start + _record.size + min(length, size)]
        (head,) = _head.unpack_from(memory, base)
        if head - position > _RING or own != digest or crc32(content) != checksum:
            raise LostError("too much was kept since")
        return content


def _digest(name: bytes) -> bytes:
    return blake2b(name, digest_size=16).digest()


def _row_of(digest: bytes) -> int:
    """Where in a region the row begins that has a digest's slot."""
    return _HEADER + int.from_bytes(digest[:4], "little") % _SLOTS * _slot.size
