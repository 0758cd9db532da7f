"""Frames: one type byte, three bytes of big-endian length, a FlatBuffers payload of up to 2^24 - 1 bytes.

The same framing goes both ways (init.lua, `send` and `receive`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from gatewright.errors import ProtocolError

__all__ = ["MAX_PAYLOAD", "FrameBuffer", "FrameType", "encode_frame"]

MAX_PAYLOAD: Final = (1 << 24) - 1
"""The longest payload, in bytes, that three bytes of length can announce."""


class FrameType(IntEnum):
    """The type byte (constants.lua)."""

    ERROR = 0
    PREPARE_CONF = 1
    HTTP_REQ_CALL = 2
    EXTRA_INFO = 3
    HTTP_RESP_CALL = 4


def encode_frame(kind: int, payload: bytes) -> bytes:
    """One whole frame.

    Raises:
        ProtocolError: the payload is longer than `MAX_PAYLOAD`, or empty. (On an empty one APISIX aborts with a
            500 page, and in PrepareConf it stalls all routes for 30 seconds.)
    """
    size = len(payload)
    if size > MAX_PAYLOAD:
        raise ProtocolError(f"a frame holds at most {MAX_PAYLOAD} bytes, this payload has {size}")
    if not size:
        raise ProtocolError("a frame with an empty payload must never be sent to APISIX")
    return (kind << 24 | size).to_bytes(4, "big") + payload


class FrameBuffer:
    """Cuts a byte stream into frames, however it was split on the way.

    Bytes are appended to one bytearray and taken from its front: a frame that came in one piece never passes through
    it (see `Session.receive_data`), and a 16 MiB one is copied twice, not once a chunk.
    """

    __slots__ = ("_data", "_max_payload")

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._data = bytearray()
        self._max_payload = max_payload

    def __len__(self) -> int:
        return len(self._data)

    @property
    def next_type(self) -> int | None:
        """The type byte of the frame in front, `None` while the buffer is empty."""
        return self._data[0] if self._data else None

    def feed(self, data: bytes) -> None:
        """Append bytes as they came from the socket."""
        self._data += data

    def next_frame(self) -> bytes | None:
        """The next whole frame, header included, or `None` until more bytes have come.

        Raises:
            ProtocolError: the frame announces more than the allowed payload; nothing of it needs to be read.
        """
        data = self._data
        if len(data) < 4:
            return None
        size = int.from_bytes(data[1:4], "big")
        if size > self._max_payload:
            raise ProtocolError(
                f"a frame of type {data[0]} announces {size} bytes, the limit (max_frame) is {self._max_payload}"
            )
        if len(data) < size + 4:
            return None
        frame = bytes(data[: size + 4])
        del data[: size + 4]
        return frame
