"""As much of FlatBuffers as reading the ext-plugin tables needs (building them: `_building`).

Nothing is copied until it is asked for. A table is its position in the buffer plus a *layout*: the offsets of its
fields, read once from its vtable and cached under the vtable's bytes, since a gateway sends the same few layouts for
ever. Offsets come from the peer, so each read is checked: whatever the bytes are, a read gives a value or raises
`ProtocolError`.

Text is `str`, in UTF-8 with *surrogateescape*: bytes that are not UTF-8 survive a round trip unchanged.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from gatewright.built import quick
from gatewright.errors import ProtocolError
from gatewright.gateways.apisix._names import NOWHERE, UNSURE, find_name

__all__ = [
    "HEADER", "Entry", "Layout", "find_entry", "has_entry", "layout_at", "most_text", "read_bytes", "read_entries",
    "read_request_head", "read_root", "read_string", "read_table", "read_u8", "read_u16", "read_u32",
]  # fmt: skip

Entry = tuple[str, "str | None"]
"""A name and a value; `None` where the value is absent on the wire."""

Layout = tuple[int, ...]
"""Offset of each field from its table's position; 0 where the field is absent, i.e. has its default."""

HEADER: Final = 4
"""Bytes of frame header in front of the payload."""

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_I32: Final = struct.Struct("<i")
_u32 = _U32.unpack_from
_i32 = _I32.unpack_from
_entry_head = struct.Struct("<iII").unpack_from
_entry_begin = struct.Struct("<iIII").unpack_from  # with what is behind the table: there is always a string
_VALUE_FIRST: Final = struct.pack("<HHHH", 8, 12, 8, 4)  # the vtables of entries that have both fields
_NAME_FIRST: Final = struct.pack("<HHHH", 8, 12, 4, 8)

# Layouts come from the peer; the bound keeps a hostile one from filling the memory.
_MAX_LAYOUTS: Final = 256
_MAX_SLOTS: Final = 8
_layouts: dict[bytes, Layout] = {}  # a pure cache: its content never changes what is read
_MOST_KEPT: Final = 1024
_LONGEST_KEPT: Final = 64
_names: dict[bytes, str] = {}  # another one


def _malformed(what: str, at: int) -> ProtocolError:
    return ProtocolError(f"malformed FlatBuffers table: {what} at byte {at}")


def read_root(buf: bytes, base: int) -> int:
    """The position of the root table of the buffer that starts at `base`."""
    try:
        root: int = base + _u32(buf, base)[0]
        return root
    except struct.error:
        raise _malformed("no root offset", base) from None


def layout_at(buf: bytes, table: int) -> Layout:
    """The layout of the table at position `table`, always `_MAX_SLOTS` long."""
    try:
        vtable = table - _i32(buf, table)[0]
        size = buf[vtable]  # the low byte of 16 bits: no table of ours comes near the other
    except (struct.error, IndexError):
        raise _malformed("table outside the buffer", table) from None
    layout = _layouts.get(buf[vtable : vtable + size])
    if layout is None or vtable < 0:
        return _new_layout(buf, table, vtable)
    return layout


def _new_layout(buf: bytes, table: int, vtable: int) -> Layout:
    if vtable < 0:
        raise _malformed("vtable before the buffer", table)
    key = buf[vtable : vtable + buf[vtable]]
    if len(key) < 4 or len(key) % 2 or len(key) != _U16.unpack_from(key)[0]:
        raise _malformed("vtable", vtable)
    slots = struct.unpack(f"<{len(key) // 2}H", key)
    fields = slots[2 : 2 + _MAX_SLOTS]
    if any(0 < offset < 4 or offset >= slots[1] for offset in fields if offset):
        raise _malformed("field outside its table", vtable)
    layout = fields + (0,) * (_MAX_SLOTS - len(fields))
    if len(_layouts) >= _MAX_LAYOUTS:
        _layouts.clear()
    _layouts[key] = layout
    return layout


def read_request_head(frame: bytes) -> tuple[int, Layout, int, int]:
    """An HTTPReqCall's table and layout, its id and its token."""
    table = read_root(frame, HEADER)
    layout = layout_at(frame, table)
    return table, layout, read_u32(frame, table, layout[0]), read_u32(frame, table, layout[6])


def read_u8(buf: bytes, table: int, offset: int) -> int:
    """An 8-bit field, 0 where absent."""
    if not offset:
        return 0
    try:
        return buf[table + offset]
    except IndexError:
        raise _malformed("field outside the buffer", table) from None


def read_u16(buf: bytes, table: int, offset: int) -> int:
    """A 16-bit field, 0 where absent."""
    if not offset:
        return 0
    try:
        return int(_U16.unpack_from(buf, table + offset)[0])
    except struct.error:
        raise _malformed("field outside the buffer", table) from None


def read_u32(buf: bytes, table: int, offset: int) -> int:
    """A 32-bit field, 0 where absent."""
    if not offset:
        return 0
    try:
        return int(_u32(buf, table + offset)[0])
    except struct.error:
        raise _malformed("field outside the buffer", table) from None


def read_bytes(buf: bytes, table: int, offset: int) -> bytes | None:
    """A string's or byte vector's bytes, `None` where absent."""
    if not offset:
        return None
    try:
        at = table + offset
        at += _u32(buf, at)[0]
        size = _u32(buf, at)[0]
    except struct.error:
        raise _malformed("vector outside the buffer", table) from None
    value = buf[at + 4 : at + 4 + size]
    if len(value) != size:
        raise _malformed("vector longer than the buffer", at)
    return value


def read_string(buf: bytes, table: int, offset: int) -> str | None:
    """A string field, `None` where absent."""
    if quick is not None and offset:
        text: str | None = quick.read_string(buf, table, offset)
        if text is not None:
            return text
    value = read_bytes(buf, table, offset)
    return None if value is None else value.decode("utf-8", "surrogateescape")


def read_table(buf: bytes, table: int, offset: int) -> int | None:
    """The position of a table that a field refers to, `None` where absent."""
    if not offset:
        return None
    try:
        return table + offset + int(_u32(buf, table + offset)[0])
    except struct.error:
        raise _malformed("field outside the buffer", table) from None


def most_text(buf: bytes) -> int:
    """How much text all entries of a vector may have together."""
    return 2 * len(buf) + 65536


def read_entries(buf: bytes, table: int, offset: int) -> list[Entry]:
    """A vector of TextEntry tables, in wire order; empty where absent.

    Entries may share strings, so a small frame could name one huge string many times: the text
    of all entries together may be at most twice the frame (plus 64 KiB), or `ProtocolError` is raised.
    """
    if not offset:
        return []
    if quick is not None:
        entries: list[Entry] | None = quick.read_entries(buf, table, offset)
        if entries is not None:
            return entries
    try:
        try:
            return _read_entries(buf, table, offset, "strict")
        except UnicodeDecodeError:
            return _read_entries(buf, table, offset, "surrogateescape")
    except struct.error:
        raise _malformed("offset outside the buffer", table) from None


def _vector_at(buf: bytes, table: int, offset: int) -> tuple[int, Sequence[int]]:
    """Where a vector of references begins, and the references."""
    vector = table + offset
    vector += _u32(buf, vector)[0]
    count = _u32(buf, vector)[0]
    if vector + 4 + 4 * count > len(buf):
        raise _malformed("vector longer than the buffer", vector)
    offsets = _OFFSETS[count] if count < _SMALL else _many(count, vector)
    return vector + 4, offsets.unpack_from(buf, vector + 4)


def _many(count: int, at: int) -> struct.Struct:
    if count > _MOST:  # four bytes each, and some hundred of ours
        raise _malformed(f"more than {_MOST} entries", at)
    return struct.Struct(f"<{count}I")


def count_entries(buf: bytes, table: int, offset: int) -> int:
    """How many entries a vector has, without decoding any; 0 where it is absent."""
    vector = read_table(buf, table, offset)
    return 0 if vector is None else read_u32(buf, vector - 4, 4)


def _read_entries(buf: bytes, table: int, offset: int, errors: str) -> list[Entry]:
    # The loop is written flat and reads as little as it can: it's most of what decoding a request costs. Values are cut
    # out of the buffer read as Latin-1, which is right where they are ASCII and cheaper than to decode each; the same
    # few names come again and again.
    limit = len(buf)
    budget = most_text(buf)
    text = buf.decode("latin-1")
    slot, references = _vector_at(buf, table, offset)
    out: list[Entry] = []
    seen = -1
    is_usual = False
    for reference in references:
        entry = slot + reference
        slot += 4
        back, first, second, size = _entry_begin(buf, entry)
        if entry - back != seen:  # entries of one kind share a vtable
            seen = entry - back
            is_usual = seen >= 0 and buf.startswith(_VALUE_FIRST, seen)
        value_start = entry + 16
        if is_usual and first == 8:  # as APISIX writes it: the value's string is right behind the table
            at = entry + 8 + second
        else:
            at, value_start, size = _strings_of(buf, entry)
        name_size = _u32(buf, at)[0]
        at += 4
        end = at + name_size
        value_end = value_start + size
        if end > limit or value_end > limit:
            raise _malformed("string longer than the buffer", at)
        budget -= name_size + size
        if budget < 0:
            raise _malformed("entries that repeat the same text too often", slot)
        raw = buf[at:end]
        try:
            name = _names[raw]
        except KeyError:
            name = _new_name(raw, errors)
        value = None
        if value_start:
            value = text[value_start:value_end]
            if not value.isascii():
                value = buf[value_start:value_end].decode("utf-8", errors)
        out.append((name, value))
    return out


def _strings_of(buf: bytes, entry: int) -> tuple[int, int, int]:
    """Where an entry's name is, where the text of its value begins (0: it has none), and how long that is."""
    name_at, value_at = layout_at(buf, entry)[:2]
    if not name_at:
        raise _malformed("entry without a name", entry)
    at = entry + name_at + _u32(buf, entry + name_at)[0]
    if not value_at:
        return at, 0, 0
    value = entry + value_at + _u32(buf, entry + value_at)[0]
    return at, value + 4, _u32(buf, value)[0]


def _new_name(raw: bytes, errors: str) -> str:
    name = raw.decode("utf-8", errors)
    if len(raw) <= _LONGEST_KEPT and raw.isascii():
        if len(_names) >= _MOST_KEPT:
            _names.clear()
        _names[raw] = name
    return name


_MOST: Final = 1 << 16
"""Entries of one vector. nginx itself takes no more than some thousand headers."""
_SMALL: Final = 64
_OFFSETS: Final = tuple(struct.Struct(f"<{count}I") for count in range(_SMALL))


def _value_of(buf: bytes, table: int, offset: int, name_at: int) -> int:
    """Where the value's string is whose entry's name is at `name_at`; 0 where that isn't seen at once.

    APISIX writes each entry's strings anew, right above its table (init.lua, `build_headers`), so a name belongs to the
    entry below it, and each entry is below the one before. That is checked of the one that is found.
    """
    slot, references = _vector_at(buf, table, offset)
    first, last, entry = 0, len(references), 0
    while first < last:
        middle = (first + last) >> 1
        at = slot + 4 * middle + references[middle]
        if at < name_at:
            entry, last = at, middle
        else:
            first = middle + 1
    if entry:
        back, one, other = _entry_head(buf, entry)
        vtable = entry - back
        if vtable >= 0:
            if entry + 8 + other == name_at and buf.startswith(_VALUE_FIRST, vtable):
                return int(entry + 4 + one)
            if entry + 4 + one == name_at and buf.startswith(_NAME_FIRST, vtable):
                return int(entry + 8 + other)
    return 0


def has_entry(buf: bytes, table: int, offset: int, name: str) -> bool | None:
    """Whether a vector of TextEntry has this name (in lower case, there in any), without decoding any.

    `None`: it can't be told so. A plugin that only looks whether a header is there is the common case; this costs a
    sixth of decoding all.
    """
    at = find_name(buf, name)
    if at == NOWHERE or not offset:
        return False
    if at == UNSURE:
        return None
    try:
        return True if _value_of(buf, table, offset, at) else None
    except struct.error:
        raise _malformed("offset outside the buffer", table) from None


def find_entry(buf: bytes, table: int, offset: int, name: str) -> list[str | None] | None:
    """The value of the one TextEntry of this name (in lower case), in a list; an empty one where there surely is none.

    `None` says that all are to be decoded: there may be several, or in other letters.

    Args:
        buf: the frame.
        table: the position of the table that has the vector.
        offset: the vector's.
        name: the name.
    """
    at = find_name(buf, name)
    if at == NOWHERE or not offset:
        return []
    if at == UNSURE:
        return None
    try:
        value_start = _value_of(buf, table, offset, at)
        if not value_start:
            return None
        size = _u32(buf, value_start)[0]
        value = buf[value_start + 4 : value_start + 4 + size]
    except struct.error:
        raise _malformed("offset outside the buffer", table) from None
    if len(value) != size:
        raise _malformed("string longer than the buffer", value_start)
    return [value.decode("utf-8", "surrogateescape")]
