"""Protocol Buffers' wire format, driven by tables: all that Kong's plugin protocol needs of it, and no more.

A message is a dict of its fields by name. Absent fields are absent; those of proto3 with their default value are not
written. Decoding skips unknown fields. `google.protobuf.Value`, `Struct` and `ListValue` are plain Python values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gatewright.errors import PluginError, ProtocolError

__all__ = ["Field", "Message", "read_varint", "write_value", "write_varint"]

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_MAX_DEPTH: Final = 64

_double = struct.Struct("<d")
_WHOLE = 1 << 63
"""Whole numbers below it are `int`, as they are over MessagePack; Lua has one kind of number."""


def write_varint(value: int) -> bytes:
    """A number as a varint; negative ones as 64 bits."""
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint and the place after it.

    Raises:
        ProtocolError: it is cut off or too long.
    """
    result = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ProtocolError("a protobuf number is cut off or too long")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & ((1 << 64) - 1), at
        shift += 7


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


@dataclass(frozen=True, slots=True)
class Field:
    """A field: its number, kind, and whether it repeats.

    `kind` is one of bool, int32, int64, double, string, bytes, value, struct, list, or a `Message`.
    """

    number: int
    kind: Any
    repeated: bool = False
    mapping: bool = False
    """A map with string keys and values of this kind."""


class Message:
    """A message type."""

    def __init__(self, **fields: Field) -> None:
        """Describe a message.

        Args:
            fields: its fields by name.
        """
        self.fields = fields
        self._by_number = {field.number: (name, field) for name, field in fields.items()}

    def encode(self, values: Mapping[str, Any]) -> bytes:
        """The bytes of a message.

        Raises:
            PluginError: a value does not suit its field.
        """
        out = []
        for name, field in self.fields.items():
            value = values.get(name)
            if value is None:
                continue
            try:
                if field.mapping:
                    for key, item in value.items():
                        entry = _write(1, "string", key) + _write(2, field.kind, item)
                        out.append(_tag(field.number, _BYTES) + write_varint(len(entry)) + entry)
                elif field.repeated:
                    out.extend(_write(field.number, field.kind, item, keep_default=True) for item in value)
                else:
                    out.append(_write(field.number, field.kind, value, keep_default=isinstance(field.kind, Message)))
            except (TypeError, AttributeError, ValueError, OverflowError, struct.error) as error:
                raise PluginError(f"{name} can't be {value!r}: {error}") from None
        return b"".join(out)

    def decode(self, data: bytes, depth: int = 0) -> dict[str, Any]:
        """The fields of a message.

        Raises:
            ProtocolError: the bytes are not such a message.
        """
        if depth > _MAX_DEPTH:
            raise ProtocolError("protobuf messages are nested too deeply")
        values: dict[str, Any] = {}
        at = 0
        while at < len(data):
            tag, at = read_varint(data, at)
            raw, at = _read_raw(data, at, tag & 7)
            known = self._by_number.get(tag >> 3)
            if known is None:
                continue
            name, field = known
            if field.mapping:
                entry = Message(key=Field(1, "string"), value=Field(2, field.kind)).decode(_as_bytes(raw), depth + 1)
                values.setdefault(name, {})[entry.get("key", "")] = entry.get("value", _default(field.kind))
            elif field.repeated:
                values.setdefault(name, []).append(_read(field.kind, raw, depth))
            else:
                values[name] = _read(field.kind, raw, depth)
        return values


def _tag(number: int, wire: int) -> bytes:
    return write_varint(number << 3 | wire)


def _write(number: int, kind: Any, value: Any, *, keep_default: bool = False) -> bytes:
    if kind in ("string", "bytes"):
        if not isinstance(value, str | bytes | bytearray | memoryview):
            raise TypeError("text or bytes are expected")
        raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
        return _tag(number, _BYTES) + write_varint(len(raw)) + raw if raw or keep_default else b""
    if kind in ("int32", "int64", "bool"):
        if kind != "bool" and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError("a whole number is expected")
        return _tag(number, _VARINT) + write_varint(int(value)) if value or keep_default else b""
    if kind == "double":
        return _tag(number, _FIXED64) + _double.pack(value) if value or keep_default else b""
    raw = kind.encode(value) if isinstance(kind, Message) else _ENCODERS[kind](value)
    return _tag(number, _BYTES) + write_varint(len(raw)) + raw


def _read_raw(data: bytes, at: int, wire: int) -> tuple[int | bytes, int]:
    if wire == _VARINT:
        return read_varint(data, at)
    if wire == _BYTES:
        size, at = read_varint(data, at)
    elif wire in (_FIXED64, _FIXED32):
        size = 8 if wire == _FIXED64 else 4
    else:
        raise ProtocolError(f"unknown protobuf wire type {wire}")
    if at + size > len(data):
        raise ProtocolError("a protobuf field is cut off")
    return data[at : at + size], at + size


def _as_bytes(raw: int | bytes) -> bytes:
    if isinstance(raw, int):
        raise ProtocolError("a protobuf number stands where bytes are expected")
    return raw


def _read(kind: Any, raw: int | bytes, depth: int) -> Any:
    if kind in ("bool", "int32", "int64"):
        if not isinstance(raw, int):
            raise ProtocolError("protobuf bytes stand where a number is expected")
        return bool(raw) if kind == "bool" else _signed(raw, 32 if kind == "int32" else 64)
    data = _as_bytes(raw)
    if kind == "string":
        return data.decode("utf-8", "surrogateescape")
    if kind == "bytes":
        return data
    if kind == "double":
        if len(data) != _double.size:
            raise ProtocolError("a protobuf double has 8 bytes")
        return _double.unpack(data)[0]
    if isinstance(kind, Message):
        return kind.decode(data, depth + 1)
    return _DECODERS[kind](data, depth + 1)


def _default(kind: Any) -> Any:
    return {"string": "", "bytes": b"", "bool": False, "double": 0.0, "int32": 0, "int64": 0}.get(kind)


# --- google.protobuf.Value, Struct, ListValue (struct.proto)


def write_value(value: Any) -> bytes:
    """A google.protobuf.Value.

    Raises:
        TypeError: it has no place for such a value.
    """
    if value is None:
        return _tag(1, _VARINT) + b"\0"
    if isinstance(value, bool):
        return _tag(4, _VARINT) + write_varint(int(value))
    if isinstance(value, int | float):
        return _tag(2, _FIXED64) + _double.pack(value)
    if isinstance(value, str | bytes):
        return _write(3, "bytes", value, keep_default=True)
    if isinstance(value, Mapping):
        return _write(5, "struct", value)
    if isinstance(value, list | tuple):
        return _write(6, "list", value)
    raise TypeError(f"{type(value).__name__} can't be sent")


def _encode_struct(value: Any) -> bytes:
    out = []
    for key, item in value.items():
        entry = _write(1, "string", str(key), keep_default=True) + _write(2, "value", item)
        out.append(_tag(1, _BYTES) + write_varint(len(entry)) + entry)
    return b"".join(out)


def _encode_list(value: Any) -> bytes:
    return b"".join(_write(1, "value", item) for item in value)


def _decode_value(data: bytes, depth: int) -> Any:
    for name, value in _VALUE.decode(data, depth).items():
        if name == "number" and value.is_integer() and abs(value) < _WHOLE:
            return int(value)
        return None if name == "null" else value
    return None


def _decode_struct(data: bytes, depth: int) -> dict[str, Any]:
    fields: dict[str, Any] = _STRUCT.decode(data, depth).get("fields", {})
    return fields


def _decode_list(data: bytes, depth: int) -> list[Any]:
    values: list[Any] = _LIST.decode(data, depth).get("values", [])
    return values


_VALUE = Message(
    null=Field(1, "int32"),
    number=Field(2, "double"),
    string=Field(3, "string"),
    boolean=Field(4, "bool"),
    struct=Field(5, "struct"),
    list=Field(6, "list"),
)
_STRUCT = Message(fields=Field(1, "value", mapping=True))
_LIST = Message(values=Field(1, "value", repeated=True))
_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "value": write_value,
    "struct": _encode_struct,
    "list": _encode_list,
}
_DECODERS: dict[str, Callable[[bytes, int], Any]] = {
    "value": _decode_value,
    "struct": _decode_struct,
    "list": _decode_list,
}
