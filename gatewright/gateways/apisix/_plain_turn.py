"""The turn that nearly all of a connection is made of, in Python; see `_turn.c`.

A request's whole frame comes while nothing else is under way, and the answer changes nothing or the same few headers as
many answers before. What else comes or goes is for whoever derives from this.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from gatewright.gateways.apisix.frames import MAX_PAYLOAD, FrameType
from gatewright.gateways.events import Event
from gatewright.http import Call, RequestCall, Response

__all__ = ["Turn"]

_SHORTEST: Final = 8  # bytes: a header and a root offset
_head_word = struct.Struct(">I").unpack_from
_HTTP_REQ_CALL: Final = int(FrameType.HTTP_REQ_CALL)  # a plain int compares four times as fast


class Turn:
    """A connection's usual turn."""

    __slots__ = ("_call_class", "_max_payload", "_no_action", "_parts_of", "_request_class", "buffered", "busy")

    busy: bool
    """An RPC is open."""
    buffered: int
    """Bytes received but not yet turned into an event."""

    def __init__(
        self,
        request_class: Callable[[bytes], Any],
        call_class: type[RequestCall],
        max_payload: int,
        no_action: bytes,
        parts_of: Callable[..., tuple[bytes, bytes] | None],
    ) -> None:
        """Begin with nothing under way.

        Args:
            request_class: reads a frame.
            call_class: makes a call of that.
            max_payload: longest payload in bytes that is accepted.
            no_action: what stands before the id in the answer that changes nothing.
            parts_of: gives what stands before and behind the id in the one that makes these changes of headers, or
                `None` where that is long.
        """
        self._request_class = request_class
        self._call_class = call_class
        self._max_payload = max_payload
        self._no_action = no_action
        self._parts_of = parts_of
        self.busy = False
        self.buffered = 0

    def receive_data(self, data: bytes) -> Sequence[Event]:
        """Take bytes in; `b""` looks again at what waits in the buffer."""
        size = len(data)
        if size >= _SHORTEST and not self.busy and not self.buffered:
            word = _head_word(data)[0]  # the type byte and three bytes of length
            if word & MAX_PAYLOAD == size - 4 <= self._max_payload and word >> 24 == _HTTP_REQ_CALL:
                self.busy = True
                request = self._request_class(data)
                return (self._call_class(request, request.conf_token),)
        return self.receive_more(data)

    def reply(self, call: Call, response: Response | None) -> bytes:
        """The answer to a call."""
        if response is None and type(call) is self._call_class:
            changes = call.header_changes()
            if changes is not None:
                parts = (self._no_action, b"") if not changes else self._parts_of(changes)
                if parts is not None:
                    self.busy = False
                    return parts[0] + call.source.id.to_bytes(4, "little") + parts[1]
        return self.reply_otherwise(call, response)

    def receive_more(self, data: bytes) -> Sequence[Event]:
        """As `receive_data`, for whatever isn't usual."""
        raise NotImplementedError

    def reply_otherwise(self, call: Call, response: Response | None) -> bytes:
        """As `reply`, for whatever isn't usual."""
        raise NotImplementedError
