"""Frames: a head of fixed size, the lengths of all fields, and then their bytes, all little-endian.

    u32 size | u8 kind | u8 flags | u16 n | u32 id | u32 argument | u32 length[n] | the fields' bytes

`size` counts what follows it. A length of `0xFFFFFFFF` means that there is no such field, which is not the same as an
empty one. Since all lengths stand together, one precompiled struct reads them. Both directions use this one form; a
connection begins with `PREFACE`, which no frame of another protocol that is spoken at the same socket begins with.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Final

from gatewright.built import brought
from gatewright.errors import ProtocolError

__all__ = [
    "CHUNK",
    "HEAD_SIZE",
    "MAX_SIZE",
    "PREFACE",
    "VERSION",
    "Flag",
    "Frame",
    "FrameBuffer",
    "Kind",
    "encode_frame",
]

VERSION: Final = 1
PREFACE: Final = b"GWL1"
"""The first bytes of a connection; the digit is the version."""
MAX_SIZE: Final = (1 << 24) - 1
CHUNK: Final = 1 << 16
"""Bytes of a body that one frame carries: a longer one goes in parts, so that it keeps no other call waiting."""
HEAD_SIZE: Final = 16
_LEAST: Final = HEAD_SIZE - 4
_ABSENT: Final = 0xFFFFFFFF
_head: Final = struct.Struct("<IBBHII")
_unpack_head = _head.unpack_from


class Kind(IntEnum):
    """What a frame is. An answer has the kind of what it answers."""

    ERROR = 0
    HELLO = 1
    PREPARE = 2
    REQUEST = 3
    RESPONSE = 4
    LOG = 5
    ASK = 6
    PART = 7
    LEAVE = 8


class Flag(IntFlag):
    """What else is to be known of a frame."""

    NONE = 0
    STOP = 1
    """Of an answer: it is for the client."""


Frame = tuple[int, int, int, int, list["bytes | None"]]
"""Kind, flags, id, argument, fields."""


@lru_cache(maxsize=256)
def _lengths(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")


_few: Final = tuple(struct.Struct(f"<{count}I").unpack_from for count in range(32))


def encode_frame(
    kind: int, id: int, fields: Sequence[bytes | None] = (), *, flags: int = 0, argument: int = 0
) -> bytes:
    """A whole frame."""
    lengths = [_ABSENT if field is None else len(field) for field in fields]
    content = b"".join([field for field in fields if field is not None])
    count = len(fields)
    size = _LEAST + 4 * count + len(content)
    return _head.pack(size, kind, flags, count, id, argument) + _lengths(count).pack(*lengths) + content


class FrameBuffer:
    """Takes bytes in as they come and gives frames.

    Attributes:
        buffered: bytes of a frame that has not come whole.
    """

    __slots__ = ("_max_size", "_parts", "_wanted", "buffered")

    def __init__(self, max_size: int = MAX_SIZE) -> None:
        self._max_size = max_size
        self._parts: list[bytes] = []
        self._wanted = 0
        self.buffered = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole with this data.

        Raises:
            ProtocolError: the bytes are no frames, or one is too long.
        """
        if self.buffered:
            self._parts.append(data)
            self.buffered += len(data)
            if self.buffered < self._wanted:
                return []
            data = b"".join(self._parts)
            self._parts.clear()
            self.buffered = 0
        frames: list[Frame]
        frames, at = ([], 0) if brought is None else brought.split(data, self._max_size)
        end = len(data)
        while at + HEAD_SIZE <= end:
            size, kind, flags, count, id, argument = _unpack_head(data, at)
            if size > self._max_size:
                raise ProtocolError(f"a frame of {size} bytes; the limit is {self._max_size} (max_frame)")
            here = at + HEAD_SIZE
            start = here + 4 * count
            stop = at + 4 + size
            if start > stop:
                raise ProtocolError(f"a frame of {size} bytes can't hold the lengths of {count} fields")
            if stop > end:
                break
            fields: list[bytes | None] = []
            for length in _few[count](data, here) if count < 32 else _lengths(count).unpack_from(data, here):
                if length != _ABSENT:
                    after = start + length
                    fields.append(data[start:after])
                    start = after
                else:
                    fields.append(None)
            if start != stop:
                raise ProtocolError("the lengths of a frame's fields and its size contradict each other")
            at = stop
            frames.append((kind, flags, id, argument, fields))
        if at < end:
            rest = data[at:] if at else data
            self._parts.append(rest)
            self.buffered = len(rest)
            self._wanted = 4 + _unpack_head(rest)[0] if len(rest) >= HEAD_SIZE else HEAD_SIZE
        return frames
