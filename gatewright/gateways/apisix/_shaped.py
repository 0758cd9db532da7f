"""The reader of requests in Python, which finds headers by the shape of what came before (see `_shapes`)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import _reading as reading
from gatewright.gateways.apisix._names import has_alike
from gatewright.gateways.apisix._reading import HEADER, Entry
from gatewright.gateways.apisix._shapes import Shape, Shapes

__all__ = ["ShapedRequest"]

_VTABLE: Final = 18  # bytes: two sizes and seven slots
_MAX_HEADS: Final = 64
_heads: dict[bytes, tuple[reading.Layout, Callable[[bytes, int], tuple[int, ...]], bool]] = {}  # a pure cache
_shapes = Shapes()  # another one
_known_shapes = _shapes.known
_UNSEEN: Final = Shape.__new__(Shape)
"""Stands for the shape of a request that hasn't been looked for."""
_u32 = struct.Struct("<I").unpack_from
_i32 = struct.Struct("<i").unpack_from


class ShapedRequest:
    """A request's frame, of which only the head is read.

    Attributes:
        id: the gateway's number for this call.
        conf_token: what the gateway got for the route's configuration.

    Raises:
        ProtocolError: the frame is malformed, here or where more of it is looked at.
    """

    __slots__ = ("_frame", "_layout", "_shape", "_table", "_vector", "conf_token", "id")

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._shape: Shape | None = _UNSEEN
        try:
            # As `read_head`, but in one go and for the layouts that nearly all requests have: 1 us less.
            self._table = table = HEADER + _u32(frame, HEADER)[0]
            vtable = table - _i32(frame, table)[0]
            self._layout, read, id_first = _heads[frame[vtable : vtable + _VTABLE]]
            if id_first:
                self.id, self.conf_token = read(frame, table)
            else:
                self.conf_token, self.id = read(frame, table)
        except (KeyError, struct.error):
            self._table, self._layout, self.id, self.conf_token = reading.read_request_head(frame)
            self._remember_layout()

    def _remember_layout(self) -> None:
        vtable = self._table - _i32(self._frame, self._table)[0]
        key = self._frame[vtable : vtable + _VTABLE]
        first, second = sorted((self._layout[0], self._layout[6]))
        if 0 < first <= second - 4 and key[0] == _VTABLE and len(_heads) < _MAX_HEADS:
            head = struct.Struct(f"<{first}xI{second - first - 4}xI")
            _heads[key] = self._layout, head.unpack_from, first == self._layout[0]

    def header_entries(self) -> list[Entry]:
        """The headers, in order and as they came."""
        shape = self._shape
        if shape is _UNSEEN:
            shape = self._look_at_shape()
        if shape is not None:
            known = shape.read_entries(self._frame, self._vector)
            if known is not None:
                return known
        return reading.read_entries(self._frame, self._table, self._layout[5])

    def has_entry(self, name: str) -> bool | None:
        """Whether there is a header of this name, in lower case; `None`: all are to be decoded."""
        shape = self._shape
        if shape is _UNSEEN:
            shape = self._look_at_shape()
        if shape is not None:
            return name in shape.places
        return reading.has_entry(self._frame, self._table, self._layout[5], name)

    def find_entry(self, name: str) -> list[str | None] | None:
        """All values of one header, its name in lower case; `None`: all are to be decoded."""
        shape = self._shape
        if shape is _UNSEEN:
            shape = self._look_at_shape()
        if shape is not None:
            place = shape.places.get(name, -1)
            if place <= 0:
                return None if place == 0 else []
            frame, at = self._frame, self._vector + place
            size = _u32(frame, at)[0]
            value = frame[at + 4 : at + 4 + size]
            if len(value) != size:
                raise ProtocolError(f"malformed FlatBuffers table: string longer than the buffer at byte {at}")
            return [value.decode("utf-8", "surrogateescape")]
        return reading.find_entry(self._frame, self._table, self._layout[5], name)

    def has_header(self, name: str) -> bool | None:
        """See `HttpReqCall.look_for`."""
        return self.look_for(name)

    def header_values(self, name: str) -> list[str | None] | None:
        """See `HttpReqCall.look_up`."""
        return self.look_up(name)

    def look_for(self, name: str) -> bool | None:
        """Whether there is a header of this name, in lower case; `None` where that isn't known."""
        raise NotImplementedError

    def look_up(self, name: str) -> list[str | None] | None:
        """All values of one header, its name in lower case; `None`: all are to be decoded."""
        raise NotImplementedError

    def has_alike(self, names: tuple[str, ...]) -> bool:
        """Whether there may be a header that an upstream takes for one of these."""
        shape = self._shape
        if shape is _UNSEEN:
            shape = self._look_at_shape()
        return shape.has_alike(names) if shape is not None else has_alike(self._frame, names)

    def _look_at_shape(self) -> Shape | None:
        self._shape = None
        frame, offset = self._frame, self._layout[5]
        if offset:
            vector = self._table + offset
            try:
                vector += _u32(frame, vector)[0]
                references = frame[vector : vector + 4 + 4 * _u32(frame, vector)[0]]
                shape = _known_shapes.get(references)
                if shape is None:
                    _shapes.note(references, frame, vector)
                elif shape.read(frame, vector + shape.begin) == shape.expected:
                    self._vector, self._shape = vector, shape
            except struct.error:  # said by whoever decodes
                return None
        return self._shape
