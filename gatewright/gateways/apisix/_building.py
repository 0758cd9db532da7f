"""As much of FlatBuffers as building the ext-plugin tables needs: from position-free pieces (reading: `_reading`).

In FlatBuffers every reference but one points forward, relative to where it stands. If each table carries its own
vtable in front of it, a finished piece (string, vector, table with all it refers to) has no absolute position in it at
all and can be joined to others, or cached, as plain bytes. All pieces are padded to 4 bytes, the strictest alignment
that the tables need.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from gatewright.gateways.apisix._reading import Entry

__all__ = ["Piece", "build_bytes", "build_entries", "build_root", "build_string", "build_table"]

_U32: Final = struct.Struct("<I")
_I32: Final = struct.Struct("<i")
_ENTRY_FIELDS: Final = struct.Struct("<II")
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


def build_bytes(value: bytes) -> bytes:
    """A byte vector."""
    return _U32.pack(len(value)) + value + _PADDING[len(value) & 3]


def build_string(value: str) -> bytes:
    """A string: a byte vector with a NUL after it."""
    raw = value.encode("utf-8", "surrogateescape")
    return _U32.pack(len(raw)) + raw + b"\0" + _PADDING[(len(raw) + 1) & 3]


_ENTRY_BOTH: Final = struct.pack("<HHHHi", 8, 12, 4, 8, 8)
_ENTRY_NAME: Final = struct.pack("<HHHHi", 6, 8, 4, 0, 8)


@lru_cache(maxsize=512)
def _build_short_entry(name: str, value: str | None) -> bytes:
    return _build_entry(name, value)


def _build_entry(name: str, value: str | None) -> bytes:
    text = build_string(name)
    if value is None:
        return _ENTRY_NAME + _U32.pack(4) + text
    return _ENTRY_BOTH + _ENTRY_FIELDS.pack(8, 4 + len(text)) + text + build_string(value)


def build_entries(entries: Sequence[Entry]) -> bytes:
    """A vector of TextEntry tables."""
    pieces = []
    offsets = []
    at = 4 * len(entries) + 8  # an entry's table stands 8 bytes into its piece, behind its vtable
    for name, value in entries:
        # Plugins set the same few headers again and again; long texts would only fill the cache.
        if len(name) < 256 and (value is None or len(value) < 256):
            piece = _build_short_entry(name, value)
        else:
            piece = _build_entry(name, value)
        offsets.append(at)
        pieces.append(piece)
        at += len(piece) - 4
    # `at` fell by 4 for each slot passed, since an offset counts from its own slot.
    return struct.pack(f"<{len(offsets) + 1}I", len(offsets), *offsets) + b"".join(pieces)


class Piece(NamedTuple):
    """Finished bytes, and where in them a reference has to point (a table stands behind its vtable)."""

    data: bytes
    entry: int = 0


_SIZES: Final = {"B": 1, "H": 2, "I": 4, "O": 4}


@lru_cache(maxsize=64)
def _table_plan(kinds: str) -> tuple[bytes, struct.Struct, tuple[int, ...]]:
    """Lay a table out: its vtable with the table's own first field, its fields' Struct, the slots in packing order."""
    order = sorted((i for i, kind in enumerate(kinds) if kind != "-"), key=lambda i: -_SIZES[kinds[i]])
    slots = [0] * len(kinds)
    at = 4
    for i in order:
        slots[i] = at
        at += _SIZES[kinds[i]]
    size = (at + 3) & ~3
    vtable_size = 4 + 2 * len(slots)
    vtable = struct.pack(f"<HH{len(slots)}H", vtable_size, size, *slots)
    head = b"\0" * (-vtable_size & 3) + vtable + _I32.pack(vtable_size)
    codes = "".join("I" if kinds[i] == "O" else kinds[i] for i in order)
    return head, struct.Struct(f"<{codes}{size - at}x"), tuple(order)


def build_table(kinds: str, *values: int | Piece) -> Piece:
    """A table with everything that it refers to.

    Args:
        kinds: a letter a slot: `B`, `H`, `I` for scalars of 1, 2, 4 bytes, `O` for a reference, `-` for absent.
        values: one for each slot that is not `-`, in slot order.
    """
    head, fields, order = _table_plan(kinds)
    given = iter(values)
    by_slot = [next(given) if kind != "-" else 0 for kind in kinds]
    packed: list[int] = []
    pieces: list[bytes] = []
    field_at = 0
    piece_at = fields.size
    for i in order:
        value = by_slot[i]
        if isinstance(value, Piece):
            packed.append(piece_at - field_at + value.entry)
            pieces.append(value.data)
            piece_at += len(value.data)
        else:
            packed.append(value)
        field_at += _SIZES[kinds[i]]
    return Piece(head + fields.pack(*packed) + b"".join(pieces), len(head) - 4)


def build_root(table: Piece) -> bytes:
    """The whole buffer, with `table` as its root."""
    return _U32.pack(4 + table.entry) + table.data
