"""The session with APISIX over one connection.

APISIX keeps at most one RPC open on a connection and waits for its reply, except that the runner may put ExtraInfo
questions in between (init.lua, `rpc_call`):

    state       frame that comes          frame that goes                    next state
    ---------   -----------------------   --------------------------------   ----------
    IDLE        1 PrepareConf             -                                  PREPARING
    IDLE        2 HTTPReqCall, 4 ..Resp   -                                  CALLED
    PREPARING   -                         1 token, or 0 error                IDLE
    CALLED      -                         3 question                         CALLED
    CALLED      3 answer to a question    -                                  CALLED
    CALLED      -                         2 or 4 (as called), or 0 error     IDLE

A frame that begins a new RPC while one is open stays in the buffer until the open one is answered; any other frame
out of place is a protocol error. So is an answer nobody asked for. A question may be abandoned (its plugin missed its
deadline): its answer still comes, before any new RPC, and is an event like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import adapt, asking
from gatewright.gateways.apisix._reading import HEADER
from gatewright.gateways.apisix._which_turn import Turn
from gatewright.gateways.apisix.calls import HttpRespCall, PrepareConf, decode_extra_info_result
from gatewright.gateways.apisix.frames import MAX_PAYLOAD, FrameBuffer, FrameType
from gatewright.gateways.apisix.replies import (
    NO_ACTION_HEAD,
    ErrorCode,
    encode_conf_token,
    encode_error,
    encode_info_request,
)
from gatewright.gateways.apisix.versions import Version
from gatewright.gateways.events import Answer, Event, Prepare, Refusal
from gatewright.http import Call, Question, Recipe, RequestCall, Response, ResponseCall

__all__ = ["ApisixSession", "State"]


class State(Enum):
    """Which RPC is open."""

    IDLE = "idle"
    PREPARING = "preparing"
    CALLED = "called"


_UNASKED: Final = "the gateway answered a question (frame type 3) that was not asked"
_ERROR_CODES: Final = {
    Refusal.BAD_REQUEST: ErrorCode.BAD_REQUEST,
    Refusal.UNAVAILABLE: ErrorCode.SERVICE_UNAVAILABLE,
    Refusal.UNKNOWN_CONF: ErrorCode.CONF_TOKEN_NOT_FOUND,
}


class ApisixSession(Turn):
    """One connection's state; see `gatewright.gateways.events.Session` for the methods' contract."""

    __slots__ = (
        "_answers_failures", "_buffer", "_most", "_prepares", "_questions", "_reader", "_unsized_answers", "_version",
        "on_buffered",
    )  # fmt: skip

    on_buffered: Callable[[], None]
    """Called when `buffered` may have changed."""

    def __init__(
        self,
        *,
        max_payload: int = MAX_PAYLOAD,
        version: str = "auto",
        answers_failures: bool = True,
        unsized_answers: str = "auto",
    ) -> None:
        """Start idle.

        Args:
            max_payload: longest payload in bytes that is accepted.
            version: the gateway's, or `auto`.
            answers_failures: refuse in the response phase by a reply; otherwise by an error, after which APISIX sends
                the upstream's body, with its own 503 or (`allow_degradation`) the upstream's status.
            unsized_answers: whether to read an answer without content-length, to see that it isn't empty; see `asking`.

        Raises:
            ConfigError: that is no version.
        """
        self._version = Version(version)
        self._reader = self._version.request_class
        super().__init__(self._reader, RequestCall, max_payload, NO_ACTION_HEAD, adapt.parts_of_rewrite)
        self._answers_failures = answers_failures
        self._unsized_answers = unsized_answers
        self._prepares = False  # what is open is a PrepareConf
        self._questions = 0
        self._most = max_payload
        self._buffer = FrameBuffer(max_payload)
        self.on_buffered = _nothing

    @property
    def wants_front(self) -> bool:
        """What stands in front of what is buffered is, or may be, the answer to a question."""
        return bool(self._questions) and self._buffer.next_type == FrameType.EXTRA_INFO

    @property
    def state(self) -> State:
        """Which RPC is open."""
        if not self.busy:
            return State.IDLE
        return State.PREPARING if self._prepares else State.CALLED

    def receive_more(self, data: bytes) -> Sequence[Event]:
        """As `receive_data`, for whatever isn't one whole request on an idle connection."""
        size = len(data) - HEADER
        if size > 0 and not self.busy and not self.buffered and size == int.from_bytes(data[1:HEADER]) <= self._most:
            return (self._event_of(data),)  # whole, too: it never touches the buffer
        buffer = self._buffer
        buffer.feed(data)
        events: list[Event] = []
        while len(buffer) and (not self.busy or buffer.next_type == FrameType.EXTRA_INFO):
            if not self._questions and buffer.next_type == FrameType.EXTRA_INFO:
                raise ProtocolError(_UNASKED)  # before megabytes of it have come
            frame = buffer.next_frame()
            if frame is None:
                break
            events.append(self._event_of(frame))
        self.buffered = len(buffer)
        self.on_buffered()
        return events

    def _event_of(self, frame: bytes) -> Event:
        kind = frame[0]
        if kind == FrameType.HTTP_REQ_CALL:
            self._open()
            message = self._reader(frame)
            return RequestCall(message, message.conf_token)
        if kind == FrameType.EXTRA_INFO:
            if not self._questions:
                raise ProtocolError(_UNASKED)
            self._questions -= 1
            return Answer(decode_extra_info_result(frame))
        if kind == FrameType.HTTP_RESP_CALL:
            self._open()
            return adapt.response_call(HttpRespCall(frame))
        if kind == FrameType.PREPARE_CONF:
            self._open(prepares=True)
            prepare = PrepareConf(frame)
            return Prepare(prepare.key, prepare.conf)
        raise ProtocolError(f"unknown frame type {kind}: is this an APISIX gateway of version 2.7 or later?")

    def token(self, token: int) -> bytes:
        """The answer to PrepareConf."""
        self._close()
        return encode_conf_token(token)

    def ask(self, question: Question) -> bytes:
        """An ExtraInfo question."""
        if not self.busy or self._prepares:
            raise ProtocolError("the gateway can be asked only while it waits for the reply to a call")
        self._questions += 1
        return encode_info_request(adapt.info_request(question))

    def reading(self, call: Call, question: Question) -> Recipe[bytes]:
        """How to get a body."""
        return asking.reading(call, self._version, question)

    def before_reply(self, call: Call) -> Recipe[None]:
        """What must be known before the reply."""
        if type(call) is RequestCall:
            return asking.before_request_reply(call, self._version)
        return asking.before_response_reply(call, self._unsized_answers)

    def reply_otherwise(self, call: Call, response: Response | None) -> bytes:
        """As `reply`, for whatever changes more than some headers of a request."""
        if type(call) is RequestCall:
            frame = adapt.request_reply(call, response)
        else:
            frame = adapt.response_reply(call)
        self.busy = False
        return frame

    def refuse(self, refusal: Refusal, call: Call | None = None) -> bytes:
        """An error frame, after which APISIX closes the connection; in the response phase, an answer to the client."""
        self._close()
        if type(call) is ResponseCall and self._answers_failures and refusal is not Refusal.UNKNOWN_CONF:
            return adapt.refusal_reply(call.source.id)
        return encode_error(_ERROR_CODES[refusal])

    def _open(self, *, prepares: bool = False) -> None:
        self._prepares = prepares
        self.busy = True

    def _close(self) -> None:
        self._prepares = self.busy = False


def _nothing() -> None:
    """Nobody wants to know."""
