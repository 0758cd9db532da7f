"""The same messages through the official `flatbuffers` runtime, which shares no line with our codec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
from flatbuffers import encode, number_types, packer
from flatbuffers.table import Table

Entries = Sequence[tuple[str, "str | None"]]


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# --- building


def _string(builder: flatbuffers.Builder, value: str) -> int:
    return builder.CreateString(raw(value))


def _entries(builder: flatbuffers.Builder, entries: Entries) -> int:
    tables = []
    for name, value in entries:
        name_at = _string(builder, name)
        value_at = None if value is None else _string(builder, value)
        builder.StartObject(2)
        builder.PrependUOffsetTRelativeSlot(0, name_at, 0)
        if value_at is not None:
            builder.PrependUOffsetTRelativeSlot(1, value_at, 0)
        tables.append(builder.EndObject())
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()


def _finish(builder: flatbuffers.Builder, kind: int) -> bytes:
    builder.Finish(builder.EndObject())
    payload = bytes(builder.Output())
    return bytes([kind]) + len(payload).to_bytes(3, "big") + payload


def prepare_conf(key: str, conf: Entries) -> bytes:
    builder = flatbuffers.Builder(64)
    key_at, conf_at = _string(builder, key), _entries(builder, conf)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, conf_at, 0)
    builder.PrependUOffsetTRelativeSlot(1, key_at, 0)
    return _finish(builder, 1)


def http_req_call(
    *, id: int, conf_token: int, src_ip: bytes, method: int, path: str, args: Entries, headers: Entries
) -> bytes:
    builder = flatbuffers.Builder(64)
    path_at, ip_at = _string(builder, path), builder.CreateByteVector(src_ip)
    args_at, headers_at = _entries(builder, args), _entries(builder, headers)
    builder.StartObject(7)
    builder.PrependUint32Slot(0, id, 0)
    builder.PrependUint32Slot(6, conf_token, 0)
    builder.PrependUOffsetTRelativeSlot(1, ip_at, 0)
    builder.PrependUOffsetTRelativeSlot(3, path_at, 0)
    builder.PrependUOffsetTRelativeSlot(4, args_at, 0)
    builder.PrependUOffsetTRelativeSlot(5, headers_at, 0)
    builder.PrependUint8Slot(2, method, 0)
    return _finish(builder, 2)


def http_resp_call(*, id: int, conf_token: int, status: int, headers: Entries) -> bytes:
    builder = flatbuffers.Builder(64)
    headers_at = _entries(builder, headers)
    builder.StartObject(4)
    builder.PrependUint32Slot(0, id, 0)
    builder.PrependUint16Slot(1, status, 0)
    builder.PrependUOffsetTRelativeSlot(2, headers_at, 0)
    builder.PrependUint32Slot(3, conf_token, 0)
    return _finish(builder, 4)


def extra_info_result(result: bytes | None) -> bytes:
    builder = flatbuffers.Builder(64)
    result_at = None if result is None else builder.CreateByteVector(result)
    builder.StartObject(1)
    if result_at is not None:
        builder.PrependUOffsetTRelativeSlot(0, result_at, 0)
    return _finish(builder, 3)


# --- reading


class Reader:
    """A table by slot numbers."""

    def __init__(self, frame: bytes, at: int | None = None) -> None:
        self._buf = frame[4:] if at is None else frame
        pos = encode.Get(packer.uoffset, self._buf, 0) if at is None else at
        self._table = Table(self._buf, pos)

    def _at(self, slot: int) -> int:
        return self._table.Offset(4 + 2 * slot)

    def number(self, slot: int, flags: Any) -> int:
        at = self._at(slot)
        return self._table.Get(flags, at + self._table.Pos) if at else 0

    def u8(self, slot: int) -> int:
        return self.number(slot, number_types.Uint8Flags)

    def u16(self, slot: int) -> int:
        return self.number(slot, number_types.Uint16Flags)

    def u32(self, slot: int) -> int:
        return self.number(slot, number_types.Uint32Flags)

    def data(self, slot: int) -> bytes | None:
        at = self._at(slot)
        return self._table.String(at + self._table.Pos) if at else None

    def string(self, slot: int) -> str | None:
        value = self.data(slot)
        return None if value is None else text(value)

    def entries(self, slot: int) -> list[tuple[str, str | None]]:
        at = self._at(slot)
        if not at:
            return []
        start = self._table.Vector(at)
        found = []
        for number in range(self._table.VectorLen(at)):
            entry = Reader(self._buf, self._table.Indirect(start + 4 * number))
            found.append((entry.string(0) or "", entry.string(1)))
        return found

    def union(self, slot: int) -> Reader | None:
        at = self._at(slot)
        return Reader(self._buf, self._table.Indirect(at + self._table.Pos)) if at else None
