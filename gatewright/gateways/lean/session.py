"""The session with a gateway over one connection.

Many calls are under way on it at once, each known by its id, which the gateway chooses and doesn't use again while the
call is under way; so the session has no state of its own but what is under way and what has not come whole:

    the gateway sends                                      and gets
    ----------------------------------------------------   -----------------------------------------------------------
    PREFACE, once                                          -
    HELLO     version; who it is                           HELLO    version; workers, longest body
    PREPARE   phases; key, name, configuration, name, ...  PREPARE  token; plans, longest time a call may take
    REQUEST   token; plan, what it names                   REQUEST  operations, or an ERROR
    RESPONSE  token; plan, what it names                   RESPONSE operations, or an ERROR
    LOG       token; plan, what it names                   -
    ASK       number; what was asked for, or nothing       -        (the answer to an ASK)
    PART      number; a piece of what was asked for        PART     a piece of a body that an answer will name

The runner may send ASK (number; name) in a call, and LEAVE at any time: no further call is to be put on the connection,
and the gateway closes it when those under way have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gatewright.errors import ProtocolError
from gatewright.gateways.events import Refusal
from gatewright.gateways.lean.calls import LeanRequestCall, LeanResponseCall, LeanSource
from gatewright.gateways.lean.frames import MAX_SIZE, PREFACE, VERSION, Frame, FrameBuffer, Kind, encode_frame
from gatewright.gateways.lean.needs import EARLY

__all__ = ["Event", "Hello", "LeanSession", "Logged", "Prepared", "Told"]

MOST_BODY: Final = 1 << 26
"""Bytes of a body that is put together of parts."""
MOST_PLUGINS: Final = 1000
_CODES: Final = {Refusal.BAD_REQUEST: 1, Refusal.UNAVAILABLE: 2, Refusal.UNKNOWN_CONF: 3}
_REQUEST: Final = int(Kind.REQUEST)
_RESPONSE: Final = int(Kind.RESPONSE)


@dataclass(frozen=True, slots=True)
class Hello:
    """The gateway says who it is."""

    id: int
    peer: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The gateway hands a configuration over and wants a token."""

    id: int
    key: str
    conf: Sequence[tuple[str, str]]
    phases: int
    """Which the gateway will call: bits of `REQUEST_PHASE` and so on."""


@dataclass(frozen=True, slots=True)
class Told:
    """What was asked for; `None` if there is no such thing."""

    id: int
    number: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Logged:
    """The client has its answer."""

    call: LeanResponseCall


Event = LeanRequestCall | LeanResponseCall | Hello | Prepared | Told | Logged


class LeanSession:
    """One connection's state."""

    __slots__ = ("_buffer", "_greeted", "_held", "_parts", "_start", "asked")

    def __init__(self, *, max_size: int = MAX_SIZE) -> None:
        """Begin.

        Args:
            max_size: longest frame that is accepted, bytes.
        """
        self._buffer = FrameBuffer(max_size)
        self._greeted = False
        self._start = b""
        self._parts: dict[int, list[bytes]] = {}
        self._held = 0
        self.asked: set[int] = set()
        """Numbers of the questions that are open."""

    @property
    def buffered(self) -> int:
        """Bytes received but not yet turned into an event."""
        return len(self._start) + self._buffer.buffered + self._held

    @property
    def in_frame(self) -> bool:
        """A frame has not come whole."""
        return bool(self._start or self._buffer.buffered)

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes in.

        Raises:
            ProtocolError: the peer broke the protocol; the connection has to be closed.
        """
        if not self._greeted:
            data = self._start + data
            if not data.startswith(PREFACE[: len(data)]):
                raise ProtocolError(f"a connection of another protocol, or of a version other than {VERSION}")
            if len(data) < len(PREFACE):
                self._start = data
                return []
            self._start, self._greeted = b"", True
            data = data[len(PREFACE) :]
        events: list[Event] = []
        for kind, flags, id, argument, fields in self._buffer.feed(data):
            if kind == _REQUEST:
                events.append(LeanRequestCall(LeanSource(id, fields), argument))
            elif kind == _RESPONSE:
                events.append(_response_call(id, argument, fields))
            else:
                event = self._other((kind, flags, id, argument, fields))
                if event is not None:
                    events.append(event)
        return events

    def _other(self, frame: Frame) -> Event | None:
        kind, _, id, argument, fields = frame
        if kind in (Kind.ASK, Kind.PART):
            return self._told(kind, id, argument, fields)
        if kind == Kind.LOG:
            return Logged(_response_call(id, argument, fields))
        if kind == Kind.PREPARE:
            texts = [_text(field) for field in fields]
            if len(texts) % 2 == 0 or len(texts) > 2 * MOST_PLUGINS + 1:
                raise ProtocolError(f"a configuration is a key and up to {MOST_PLUGINS} pairs, not {len(texts)} texts")
            phases = argument & 7
            key = f"{texts[0]}\0lean{phases}"  # what follows a NUL is not shown; see `lifecycle`
            return Prepared(id, key, list(zip(texts[1::2], texts[2::2], strict=True)), phases)
        if kind == Kind.HELLO:
            if argument != VERSION:
                raise ProtocolError(f"the gateway's side speaks version {argument}, this runner version {VERSION}")
            return Hello(id, _text(fields[0] if fields else None)[:200])
        raise ProtocolError(f"unknown kind of frame: {kind}")

    def _told(self, kind: int, id: int, number: int, fields: list[bytes | None]) -> Told | None:
        if number not in self.asked:
            raise ProtocolError("the gateway answered a question that was not asked")
        value = fields[0] if fields else None
        if kind == Kind.PART:
            self._held += len(value or b"")
            if self._held > MOST_BODY:
                raise ProtocolError(f"bodies that were asked for come to more than {MOST_BODY} bytes")
            self._parts.setdefault(number, []).append(value or b"")
            return None
        parts = self._parts.pop(number, None)
        if parts is not None:
            parts.append(value or b"")
            self._held -= sum(map(len, parts[:-1]))
            value = b"".join(parts)
        self.asked.discard(number)
        return Told(id, number, value)

    # --- what goes out

    @staticmethod
    def hello(id: int, *, workers: int) -> bytes:
        """The answer to `Hello`."""
        fields = (str(workers).encode(), str(MOST_BODY).encode())
        return encode_frame(Kind.HELLO, id, fields, argument=VERSION)

    @staticmethod
    def token(id: int, token: int, plans: Sequence[bytes | None], milliseconds: int) -> bytes:
        """The answer to `Prepared`: plans of request, response and log phase, `None` where there is nothing to do."""
        return encode_frame(Kind.PREPARE, id, (*plans, str(milliseconds).encode()), argument=token)

    def ask(self, id: int, number: int, name: str) -> bytes:
        """A question in a call."""
        self.asked.add(number)
        return encode_frame(Kind.ASK, id, (name.encode("utf-8", "surrogateescape"),), argument=number)

    @staticmethod
    def refuse(id: int, refusal: Refusal, text: str = "") -> bytes:
        """The refusal of a call, or of a configuration."""
        return encode_frame(Kind.ERROR, id, (text.encode("utf-8", "surrogateescape"),), argument=_CODES[refusal])

    @staticmethod
    def leave() -> bytes:
        """No further call is to be put on this connection."""
        return encode_frame(Kind.LEAVE, 0)


def _response_call(id: int, token: int, fields: list[bytes | None]) -> LeanResponseCall:
    source = LeanSource(id, fields)
    call = LeanResponseCall(source, token)
    if source.brings(EARLY):
        call.response_unseen = True
        return call
    try:
        call.response_status = int(source.brought("status") or b"0")
    except ValueError:
        raise ProtocolError(f"a status is a number, not {source.brought('status')!r}") from None
    return call


def _text(field: bytes | None) -> str:
    return (field or b"").decode("utf-8", "surrogateescape")
