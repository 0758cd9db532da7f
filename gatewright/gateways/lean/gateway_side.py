"""The gateway's side of the protocol, as the Lua files have it: for development gateways, and to test runners.

The session is fed what the runner sends and gives events; what is to be sent it returns as bytes. Who owns the socket
chooses ids, and uses one again only when its call has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gatewright.errors import ProtocolError
from gatewright.gateways.lean.frames import CHUNK, PREFACE, VERSION, Flag, FrameBuffer, Kind, encode_frame
from gatewright.gateways.lean.replies import Op

__all__ = ["Answered", "Asked", "Event", "GatewaySession", "Greeted", "Left", "Operation", "Refused", "Token"]

Operation = tuple[Op, tuple[bytes, ...]]
"""What is to be done, and with what."""
_OPS: Final = {op.byte: op for op in Op}
_BODIES: Final = (Op.BODY, Op.RESPONSE_BODY)
_KINDS_OF_ANSWERS: Final = (Kind.REQUEST, Kind.RESPONSE)


@dataclass(frozen=True, slots=True)
class Greeted:
    """The runner says how many workers it has."""

    workers: int


@dataclass(frozen=True, slots=True)
class Token:
    """A configuration was taken; plans of request, response and log, `None` where there is nothing to do."""

    id: int
    token: int
    plans: tuple[bytes | None, bytes | None, bytes | None]
    seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """A call's answer; with `stop` it's for the client."""

    id: int
    operations: Sequence[Operation]
    stop: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A call, a configuration or (with id 0) the connection is refused."""

    id: int
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The runner wants to be told something more of a call."""

    id: int
    number: int
    name: str


@dataclass(frozen=True, slots=True)
class Left:
    """No further call is to be put on this connection."""


Event = Greeted | Token | Answered | Refused | Asked | Left


class GatewaySession:
    """One connection's state."""

    def __init__(self) -> None:
        self._buffer = FrameBuffer()
        self._parts: dict[int, list[bytes]] = {}

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes in.

        Raises:
            ProtocolError: the runner broke the protocol; the connection has to be closed, and its calls refused.
        """
        events: list[Event] = []
        for kind, flags, id, argument, fields in self._buffer.feed(data):
            if kind == Kind.PART:
                self._parts.setdefault(id, []).append(_there(fields, 0, "a part"))
            elif kind in _KINDS_OF_ANSWERS:
                if flags > Flag.STOP:
                    raise ProtocolError(f"an answer with unknown flags: {flags}")
                events.append(Answered(id, self._operations(id, fields), bool(flags & Flag.STOP)))
            elif kind == Kind.ASK:
                events.append(Asked(id, argument, _text(_there(fields, 0, "a question"))))
            elif kind == Kind.PREPARE:
                if len(fields) != 4:
                    raise ProtocolError(f"a token with {len(fields)} fields")
                request, response, log, milliseconds = fields
                seconds = _number(milliseconds or b"60000") / 1000
                events.append(Token(id, argument, (request, response, log), seconds))
            elif kind == Kind.ERROR:
                self._parts.pop(id, None)
                events.append(Refused(id, argument, _text(fields[0] if fields else None)))
            elif kind == Kind.LEAVE:
                events.append(Left())
            elif kind == Kind.HELLO:
                if argument != VERSION:
                    raise ProtocolError(f"the runner speaks version {argument}, this side version {VERSION}")
                events.append(Greeted(_number(_there(fields, 0, "the runner's greeting"))))
            else:
                raise ProtocolError(f"unknown kind of frame: {kind}")
        return events

    def _operations(self, id: int, fields: Sequence[bytes | None]) -> list[Operation]:
        parts = self._parts.pop(id, None)
        operations: list[Operation] = []
        at = 1
        for number in _there(fields, 0, "an answer") if fields else b"":
            op = _OPS.get(bytes((number,)))
            if op is None:
                raise ProtocolError(f"an unknown operation: {chr(number)!r}")
            taken = list(fields[at : at + op.fields])
            at += op.fields
            if op in _BODIES and taken == [None] and parts is not None:
                taken = [b"".join(parts)]
            values = tuple(value for value in taken if value is not None)
            if len(values) != op.fields:
                raise ProtocolError(f"{op.name} takes {op.fields} fields")
            operations.append((op, values))
        return operations

    # --- what goes out

    @staticmethod
    def hello(name: str) -> bytes:
        """What a connection begins with."""
        return PREFACE + encode_frame(Kind.HELLO, 0, (name.encode(),), argument=VERSION)

    @staticmethod
    def prepare(id: int, key: str, conf: Sequence[tuple[str, str]], phases: int) -> bytes:
        """Hand a configuration over; see `docs/lean.md` for `phases`."""
        texts = (key, *(text for pair in conf for text in pair))
        return encode_frame(Kind.PREPARE, id, [_raw(text) for text in texts], argument=phases)

    @staticmethod
    def call(kind: Kind, id: int, token: int, plan: bytes, brought: Sequence[bytes | None]) -> bytes:
        """A REQUEST, RESPONSE or LOG that follows a plan."""
        return encode_frame(kind, id, (plan, *brought), argument=token)

    @staticmethod
    def told(id: int, number: int, value: bytes | None) -> bytes:
        """The answer to a question, in parts if it is long."""
        if value is None or len(value) <= CHUNK:
            return encode_frame(Kind.ASK, id, (value,), argument=number)
        pieces = [value[at : at + CHUNK] for at in range(0, len(value), CHUNK)]
        ahead = b"".join(encode_frame(Kind.PART, id, (piece,), argument=number) for piece in pieces[:-1])
        return ahead + encode_frame(Kind.ASK, id, (pieces[-1],), argument=number)


def _there(fields: Sequence[bytes | None], at: int, what: str) -> bytes:
    value = fields[at] if len(fields) > at else None
    if value is None:
        raise ProtocolError(f"{what} says nothing")
    return value


def _number(field: bytes) -> int:
    if not field.isdigit() or len(field) > 12:
        raise ProtocolError(f"{field[:20]!r} is no number")
    return int(field)


def _text(field: bytes | None) -> str:
    return (field or b"").decode("utf-8", "surrogateescape")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
