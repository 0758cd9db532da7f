"""Runners' frames, read as APISIX reads them: with FlatBuffers' Lua runtime, which believes what it reads.

Nothing is verified: text that is said to go on beyond the frame ends with it, a table's fields may be anywhere in the
frame, and what nobody asks for may be anything. Only a number that is beyond the frame is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gatewright.errors import ProtocolError
from gatewright.gateways.apisix._reading import Entry
from gatewright.gateways.apisix.replies import InfoRequest, InfoType, RespReply, Rewrite, Stop

__all__ = [
    "read_action",
    "read_error",
    "read_info_request",
    "read_resp_headers",
    "read_resp_reply",
    "read_stop_headers",
    "read_token",
]

_HEADER: Final = 4
_STOP: Final = 1
_REWRITE: Final = 2


class _Table:
    """A table, read field by field; a field is named by its slot."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    @classmethod
    def root(cls, frame: bytes) -> _Table:
        """The table that a frame is."""
        return cls(frame[_HEADER:], _number(frame[_HEADER:], 0, 4))

    def _field(self, slot: int) -> int:
        """Where a field is; 0 if it's absent."""
        vtable = self._at - _number(self._data, self._at, 4, signed=True)
        place = 4 + 2 * slot
        if place >= _number(self._data, vtable, 2):
            return 0
        offset = _number(self._data, vtable + place, 2)
        return self._at + offset if offset else 0

    def number(self, slot: int, size: int) -> int:
        """A number; 0 if it's absent."""
        at = self._field(slot)
        return _number(self._data, at, size) if at else 0

    def byte(self, slot: int) -> int | None:
        """A number of one byte; `None`, which is no error, beyond the frame."""
        at = self._field(slot)
        return 0 if not at else self._data[at] if at < len(self._data) else None

    def table(self, slot: int) -> _Table | None:
        """A table below this one."""
        at = self._field(slot)
        return _Table(self._data, at + _number(self._data, at, 4)) if at else None

    def content(self, slot: int) -> bytes | None:
        """The bytes of a text or a vector."""
        at = self._field(slot)
        if not at:
            return None
        at += _number(self._data, at, 4)
        return self._data[at + 4 : at + 4 + _number(self._data, at, 4)]

    def text(self, slot: int) -> str | None:
        """A text."""
        content = self.content(slot)
        return None if content is None else content.decode("utf-8", "surrogateescape")

    def entries(self, slot: int) -> Iterator[Entry]:
        """Names and values, one after the other: whoever takes them has those before an error."""
        at = self._field(slot)
        if not at:
            return
        at += _number(self._data, at, 4)
        for number in range(_number(self._data, at, 4)):
            place = at + 4 + 4 * number
            entry = _Table(self._data, place + _number(self._data, place, 4))
            name = entry.text(0)
            if name is None:
                raise ProtocolError("an entry without a name")
            yield name, entry.text(1)


def _number(data: bytes, at: int, size: int, *, signed: bool = False) -> int:
    if at < 0 or at + size > len(data):
        raise ProtocolError(f"a number at byte {at} of {len(data)}")
    return int.from_bytes(data[at : at + size], "little", signed=signed)


def read_token(frame: bytes) -> int:
    """The token in an answer to PrepareConf."""
    return _Table.root(frame).number(0, 4)


def read_error(frame: bytes) -> int:
    """The code in an error frame."""
    return _Table.root(frame).number(0, 1)


def read_action(frame: bytes) -> Stop | Rewrite | None:
    """The action of an answer to HTTPReqCall; `None` for none, or one of unknown type."""
    root = _Table.root(frame)
    kind = root.byte(1)
    if kind not in (_STOP, _REWRITE):
        return None
    action = root.table(2)
    if action is None:
        raise ProtocolError("a type of action without an action")
    if kind == _STOP:
        return Stop(status=action.number(0, 2), headers=[*action.entries(1)], body=action.content(2) or b"")
    return Rewrite(
        path=action.text(0), headers=[*action.entries(1)], args=[*action.entries(2)],
        resp_headers=[*action.entries(3)], body=action.content(4) or b"",
    )  # fmt: skip


def read_stop_headers(frame: bytes) -> Iterator[Entry]:
    """The headers of a Stop, which APISIX sets before it reads on; of anything else, none."""
    root = _Table.root(frame)
    action = root.table(2) if root.byte(1) == _STOP else None
    return iter(()) if action is None else action.entries(1)


def read_resp_headers(frame: bytes) -> Iterator[Entry]:
    """The headers of an answer to HTTPRespCall, which APISIX sets before it reads on."""
    return _Table.root(frame).entries(2)


def read_resp_reply(frame: bytes) -> RespReply:
    """An answer to HTTPRespCall."""
    root = _Table.root(frame)
    return RespReply(status=root.number(1, 2), headers=[*root.entries(2)], body=root.content(3) or b"")


def read_info_request(frame: bytes) -> InfoRequest:
    """An ExtraInfo question."""
    root = _Table.root(frame)
    kind = root.number(0, 1)
    if kind not in (InfoType.VAR, InfoType.REQ_BODY):
        return InfoRequest(kind)
    info = root.table(1)
    if info is None:
        raise ProtocolError("a type of question without a question")
    return InfoRequest(kind, info.text(0) if kind == InfoType.VAR else None)
