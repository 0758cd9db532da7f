"""What requests that look alike have in common: where in the frame each header is.

Clients send the same headers again and again, of much the same lengths, so the references to them, some fifty bytes,
are often bytes that were there before. What was learnt then, where each name is and where its value begins, holds again
if all that it was read from is the same now: each entry's table and name, and the vtable. That is compared each time,
in one go, so whatever the peer sends, what is read here is what decoding all would give. It costs a fourth of looking a
name up (see `_names`).

Values are not part of it: neither their text nor their length, as long as it takes as much room.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Final

from gatewright.gateways.apisix._names import form_of
from gatewright.gateways.apisix._reading import Entry, most_text

__all__ = ["Shape", "Shapes"]

_u32 = struct.Struct("<I").unpack_from
_entry_head = struct.Struct("<iII").unpack_from
_USUAL: Final = struct.pack("<HHHH", 8, 12, 8, 4)
"""The vtable of an entry as APISIX writes it: the value's string is right behind the table, the name's behind that."""
_HEAD: Final = 12  # bytes of such a table
_LEAST: Final = 8  # bytes of a vector with a reference
_MOST_BYTES: Final = 4 + 4 * 48
_MOST_ALIKE: Final = 64
_MOST: Final = 1024
_MANY_MISSED: Final = 64 * _MOST


class Shape:
    """Where the headers of a kind of request are, from the position of their references on.

    Attributes:
        names: all names, in order and as they came.
        places: where the string of a header's value is, by its name in lower case; 0: there are several.
        read: takes all that it was learnt from out of a frame, from `begin` on; it has to be as `expected`.
    """

    __slots__ = ("_alike", "_in_order", "_read_sizes", "_texts", "begin", "expected", "names", "places", "read")

    def __init__(self, frame: bytes, vector: int, entries: Sequence[tuple[str, int, int, int]], vtable: int) -> None:
        """Learn from a frame.

        Args:
            frame: the frame.
            vector: where the references are.
            entries: of each header its name, and where its table, its name's string and the end of that are.
            vtable: where the vtable of all entries is.
        """
        spans = [(vtable, vtable + len(_USUAL))]
        spans += [(entry, entry + _HEAD) for _, entry, _, _ in entries]
        spans += [(at, end) for _, _, at, end in entries]
        merged: list[tuple[int, int]] = []
        for begin, end in sorted(spans):
            if merged and begin - merged[-1][1] < 4:  # what is between them fills up to the next multiple of four
                begin = merged.pop()[0]
            merged.append((begin, end))
        self.begin = merged[0][0] - vector
        self.read = _pieces(merged)
        self.expected = self.read(frame, vector + self.begin)
        self.names = [name for name, _, _, _ in entries]
        self.places: dict[str, int] = {}
        for name, entry, _, _ in entries:
            key = name.lower()
            self.places[key] = 0 if key in self.places else entry + _HEAD - vector
        self._alike: dict[tuple[str, ...], bool] = {}
        self._texts = [entry + _HEAD + 4 - vector for _, entry, _, _ in entries]
        rising = sorted({entry + _HEAD for _, entry, _, _ in entries})
        self._read_sizes: Callable[[bytes, int], tuple[int, ...]] | None = None
        if 1 < len(rising) == len(entries) and rising[0] >= vector:
            gaps = [begin - end - 4 for end, begin in pairwise(rising)]
            if min(gaps) >= 0:
                self._read_sizes = struct.Struct(
                    f"<{rising[0] - vector}xI" + "".join(f"{gap}xI" for gap in gaps)
                ).unpack_from
        self._in_order = itemgetter(*(rising.index(entry + _HEAD) for _, entry, _, _ in entries))

    def read_entries(self, frame: bytes, vector: int) -> list[Entry] | None:
        """All headers of a frame of this shape; `None` where they are to be read one by one."""
        if self._read_sizes is None:
            return None
        sizes = self._in_order(self._read_sizes(frame, vector))
        text = frame[vector:].decode("latin-1")  # right where it's ASCII
        values = [text[at : at + size] for at, size in zip(self._texts, sizes, strict=True)]
        joined = "".join(values)
        if len(joined) != sum(sizes) or len(joined) > most_text(frame) or not joined.isascii():
            return None
        return list(zip(self.names, values, strict=True))

    def has_alike(self, names: tuple[str, ...]) -> bool:
        """Whether an upstream could take a header for one of these names (in lower case)."""
        found = self._alike.get(names)
        if found is None:
            found = not {form_of(name) for name in names}.isdisjoint(map(form_of, self.names))
            if len(self._alike) < _MOST_ALIKE:
                self._alike[names] = found
        return found


def _pieces(spans: Sequence[tuple[int, int]]) -> Callable[[bytes, int], tuple[bytes, ...]]:
    """What takes these out of a frame, from the first one's position on."""
    parts, at = ["<"], spans[0][0]
    for begin, end in spans:
        parts.append(f"{begin - at}x{end - begin}s")
        at = end
    return struct.Struct("".join(parts)).unpack_from


class Shapes:
    """What was learnt. There is room for some; a request that is seen once teaches nothing.

    Attributes:
        known: shapes by the references to the headers, with their number before.
    """

    __slots__ = ("_missed", "_seen", "known")

    def __init__(self) -> None:
        self.known: dict[bytes, Shape] = {}
        self._seen: set[bytes] = set()
        self._missed = 0

    def note(self, references: bytes, frame: bytes, vector: int) -> None:
        """Tell of one that is not known: the second time it is learnt, while there is room."""
        if not _LEAST <= len(references) <= _MOST_BYTES:
            return
        if references not in self._seen:
            if len(self._seen) >= _MOST:
                self._seen.clear()
            self._seen.add(references)
        elif len(self.known) < _MOST:
            self._seen.discard(references)
            shape = _learnt(frame, vector, len(references) // 4 - 1)
            if shape is not None:
                self.known[references] = shape
        else:
            self._missed += 1
            if self._missed > _MANY_MISSED:  # what is known has become old
                self._missed = 0
                self.known.clear()


def _learnt(frame: bytes, vector: int, count: int) -> Shape | None:
    """What a frame teaches; `None` where it is not laid out as usual."""
    entries: list[tuple[str, int, int, int]] = []
    vtables = set()
    try:
        if _u32(frame, vector)[0] != count:  # the frame ends before
            return None
        references = struct.unpack_from(f"<{count}I", frame, vector + 4)
        for number, reference in enumerate(references):
            entry = vector + 4 + 4 * number + reference
            back, first, second = _entry_head(frame, entry)
            at = entry + 8 + second
            (size,) = _u32(frame, at)
            end = at + 4 + size
            if first != 8 or at < entry + 16 or end > len(frame):
                return None
            name = frame[at + 4 : end].decode("ascii")
            entries.append((name, entry, at, end))
            vtables.add(entry - back)
    except (struct.error, UnicodeDecodeError):
        return None
    (vtable, *others) = vtables
    if others or vtable < 0 or not frame.startswith(_USUAL, vtable):
        return None
    return Shape(frame, vector, entries, vtable)
