"""What nearly all of Kong's connections carry, in Python; see `_steps.c`.

An event begins, a PDK call is made, Kong has carried it out, the event ends. What else comes or goes is for whoever
derives from these. What C has quick ways for over MessagePack, msgspec does here as for all.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from gatewright.gateways.kong.events import Answer, HandleEvent, KongEvent

__all__ = ["MsgPackSteps", "ProtoBufSteps"]

_ANSWER: Final = 1
_encode: Final = msgspec.msgpack.Encoder().encode

_length = struct.Struct("=I")
_pack_length: Final = _length.pack
_unpack_length: Final = _length.unpack_from
_PREFIX: Final = _length.size
_MOST_AHEAD: Final = 64  # calls that Kong may be behind by
_MOST_KEPT: Final = 512
_LONGEST_KNOWN: Final = 256
_EMPTY_FRAME: Final = _pack_length(0)

Parts = tuple[bytes, Callable[[bytes], Any], bool]
"""A call's frames, what reads its answer, and whether that says anything."""


class MsgPackSteps:
    """The steps of a connection over MessagePack."""

    __slots__ = ("buffered",)

    buffered: int
    """Bytes received but not yet turned into an event."""

    def __init__(
        self,
        handle_event: type[HandleEvent],
        answer: type[Answer],
        phases: tuple[str, ...],
        otherwise: frozenset[str],
        /,
    ) -> None:
        """Begin with nothing received.

        Args:
            handle_event: says that an event begins.
            answer: says that Kong has carried a call out.
            phases: that an event may begin for.
            otherwise: methods whose calls are not written as they are called.
        """
        self.buffered = 0

    def receive_data(self, data: bytes, /) -> Sequence[KongEvent]:
        """Take bytes in."""
        return self.receive_more(data)

    def call(self, ticket: int, event: int, method: str, args: Sequence[Any], /) -> bytes:
        """A PDK call."""
        return self.call_otherwise(ticket, event, method, args)

    def done(self, ticket: int, event: int, /) -> bytes:
        """The end of an event. Both are numbers that Lua can hold."""
        return _encode((_ANSWER, ticket, None, {"Data": "ret", "EventId": event}))

    def receive_more(self, data: bytes) -> Sequence[KongEvent]:
        """As `receive_data`, for whatever isn't usual."""
        raise NotImplementedError

    def call_otherwise(self, ticket: int, event: int, method: str, args: Sequence[Any]) -> bytes:
        """As `call`, for whatever isn't usual."""
        raise NotImplementedError


class ProtoBufSteps:
    """The steps of a connection over Protobuf."""

    __slots__ = (
        "_buffer", "_calls", "_expected", "_known", "_max", "_parts_of", "_sequence", "ahead", "buffered", "patient",
    )  # fmt: skip

    def __init__(
        self,
        max_payload: int,
        calls: dict[tuple[str, ...], Parts],
        parts_of: Callable[[str, Sequence[Any]], Parts],
        /,
    ) -> None:
        """Begin with nothing received.

        Args:
            max_payload: longest frame in bytes that is accepted.
            calls: keeps what `parts_of` gave: the same header with the same value, say, is set over and over.
            parts_of: makes a call of a method and its arguments; raises `PluginError` where that can't be.
        """
        self.buffered = 0
        self.ahead = False
        self.patient = False
        self._buffer = bytearray()
        self._expected: deque[Callable[[bytes], Any] | None] = deque()
        """What reads the answers to come; `None` for one that says nothing."""
        self._sequence = b""
        """The event's, as it came."""
        self._known: dict[bytes, tuple[KongEvent]] = {}
        """Events by what stands behind the sequence in what they began with."""
        self._max = max_payload
        self._calls = calls
        self._parts_of = parts_of

    def receive_data(self, data: bytes, /) -> Sequence[KongEvent]:
        """Take bytes in."""
        size = len(data) - _PREFIX
        if self._buffer or size < 0 or _unpack_length(data)[0] != size or size > self._max:
            return self.receive_more(data)
        return self._events_of(data[_PREFIX:])  # the usual case: one whole frame

    def call(self, ticket: int, event: int, method: str, args: Sequence[Any], /) -> bytes:
        """A PDK call."""
        length = 0
        for arg in args:
            length += len(arg) if type(arg) is str else _LONGEST_KNOWN  # 1 and True are one key, and not one argument
        frame, decode, gives = self._parts_of(method, args) if length >= _LONGEST_KNOWN else self._kept(method, *args)
        expected = self._expected
        self.ahead = ahead = not gives and not self.patient and len(expected) < _MOST_AHEAD
        expected.append(None if ahead else decode)
        self.buffered += 1
        return frame

    def _kept(self, *key: str) -> Parts:
        parts = self._calls.get(key)
        if parts is None:
            parts = self._parts_of(key[0], key[1:])
            if len(self._calls) >= _MOST_KEPT:
                self._calls.clear()
            self._calls[key] = parts
        return parts

    def done(self, ticket: int, event: int, /) -> bytes:
        """The end of an event. Its sequence is known: there is no other event on this connection."""
        return _EMPTY_FRAME + _pack_length(len(self._sequence)) + self._sequence

    def _events_of(self, frame: bytes) -> Sequence[KongEvent]:
        """What a frame says."""
        raise NotImplementedError

    def receive_more(self, data: bytes) -> Sequence[KongEvent]:
        """As `receive_data`, for whatever isn't usual."""
        raise NotImplementedError
