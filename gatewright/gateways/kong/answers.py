"""What comes back of a PDK call: the values that handlers get, and how they are read from Protobuf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gatewright.errors import PluginError
from gatewright.gateways.kong._which_steps import texts_of
from gatewright.gateways.kong.messages import (
    BOOL,
    BYTE_STRING,
    CONSUMER,
    CREDENTIAL,
    INT,
    MEMORY_STATS,
    NUMBER,
    RAW_BODY,
    ROUTE,
    SERVICE,
    STRING,
    STRUCT,
    URI_CAPTURES,
)  # fmt: skip
from gatewright.gateways.kong.protobuf import Field, Message, write_varint

__all__ = ["OUTPUTS", "captures_of", "fold_headers", "read_body_file"]

_SHORT = 0x80  # lengths below are one byte


def fold_headers(headers: Any) -> Any:
    """Names to lists, as Kong itself gives them over MessagePack (mp_rpc.lua, `fix_mmap`)."""
    if not isinstance(headers, dict):
        return headers
    return {
        name: [] if value is True else [value] if isinstance(value, str) else value for name, value in headers.items()
    }


def captures_of(found: Any) -> Any:
    """URI captures in one form: what is `unnamed` is a list with the whole match first, as Lua numbers them.

    Lua's table comes as a map over MessagePack, if it has the whole match, else as a list. Over Protobuf Kong never
    gives the whole match: then it is "".
    """
    if not isinstance(found, dict):
        return found
    unnamed = found.get("unnamed") or []
    if isinstance(unnamed, dict):
        numbered = {int(number): text for number, text in unnamed.items()}
        unnamed = [numbered.get(number, "") for number in range(max(numbered) + 1)]
    elif unnamed:
        unnamed = ["", *unnamed]
    return {"unnamed": unnamed, "named": found.get("named") or {}}


def _unwrapped(message: Message, default: Any) -> Callable[[bytes], Any]:
    return lambda data: message.decode(data).get("v", default)


def _text(data: bytes) -> str | None:
    if len(data) > 2 and data[0] == 0x0A and data[1] < _SHORT and data[1] == len(data) - 2:
        return data[2:].decode("utf-8", "surrogateescape")
    # Kong wraps a missing value as {v = nil}, which is no field at all; an empty string can't be told from it.
    value: str | None = STRING.decode(data).get("v")
    return value


def _sure_text(data: bytes) -> str:
    """Of a method that always gives text."""
    return _text(data) or ""


def _whole(message: Message) -> Callable[[bytes], Any]:
    return lambda data: message.decode(data) or None


def _nothing(_: bytes) -> None:
    return None


def _struct(data: bytes) -> Any:
    texts = texts_of(data) if texts_of is not None else None
    if texts is not None:
        return texts
    try:
        return _texts(data)
    except (IndexError, ValueError):  # not written as Kong does, or broken: then the tables will say what is wrong
        return fold_headers(STRUCT.decode(data).get("fields", {}))


def _texts(data: bytes) -> dict[str, Any]:
    """Headers or arguments, most of which have one value, in an eighth of the time that the tables take.

    Raises:
        ValueError: it's for the tables.
    """
    texts: dict[str, Any] = {}
    at, end = 0, len(data)
    while at < end:  # {key = 1: text, value = 2: {string = 3: text}}
        size, at = _size_after(_ENTRY, data, at)
        stop = at + size
        size, at = _size_after(_KEY, data, at)
        key = data[at : at + size].decode("utf-8", "surrogateescape")
        size, at = _size_after(_VALUE, data, at + size)
        if stop > end or at + size != stop:
            raise ValueError
        if data[at] == _TEXT:
            size, at = _size_after(_TEXT, data, at)
            if at + size != stop:
                raise ValueError
            texts[key] = [data[at:stop].decode("utf-8", "surrogateescape")]
        else:
            texts.update(fold_headers({key: _value(data[at:stop])}))
        at = stop
    return texts


_ENTRY, _KEY, _VALUE, _TEXT = 0x0A, 0x0A, 0x12, 0x1A


def _size_after(tag: int, data: bytes, at: int) -> tuple[int, int]:
    if data[at] != tag:
        raise ValueError
    size = data[at + 1]
    if size < _SHORT:
        return size, at + 2
    if data[at + 2] >= _SHORT:
        raise ValueError
    return size & 0x7F | data[at + 2] << 7, at + 3


def _value(data: bytes) -> Any:
    return _STRUCT_OF_VALUE.decode(b"\x0a" + write_varint(len(data)) + data).get("v")


def _captures(data: bytes) -> Any:
    found = URI_CAPTURES.decode(data)  # bytes on this wire, text over MessagePack
    return {
        "unnamed": [item.decode("utf-8", "surrogateescape") for item in found.get("unnamed", [])],
        "named": {name: item.decode("utf-8", "surrogateescape") for name, item in found.get("named", {}).items()},
    }


def read_body_file(path: str) -> bytes:
    """A long body, which nginx keeps in a file on the machine that both run on (pb_rpc.lua, RawBodyResult).

    Raises:
        PluginError: it can't be read.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - no Path: this is the only file read
            return file.read()
    except OSError as error:
        raise PluginError(f"the request's body, {path}: {error.strerror}") from None


def _raw_body(data: bytes) -> Any:
    result = RAW_BODY.decode(data)
    if "body_filepath" in result:
        return read_body_file(result["body_filepath"])
    if "error" in result:
        raise PluginError(f"the request's body can't be read: {result['error']}")
    return result.get("content", b"")


_STRUCT_OF_VALUE = Message(v=Field(1, "value"))

OUTPUTS: dict[str, Callable[[bytes], Any]] = {
    "": _nothing,
    "string": _text,
    "text": _sure_text,
    "int": _unwrapped(INT, 0),
    "number": _unwrapped(NUMBER, 0.0),
    "bool": _unwrapped(BOOL, False),
    "bytes": _unwrapped(BYTE_STRING, b""),
    "struct": _struct,
    "value": _value,
    "raw_body": _raw_body,
    "uri_captures": _captures,
    "route": _whole(ROUTE),
    "service": _whole(SERVICE),
    "consumer": _whole(CONSUMER),
    "credential": _whole(CREDENTIAL),
    "memory_stats": _whole(MEMORY_STATS),
}
"""Makes values of the bytes of answers, by what they are."""
