"""What a session tells its driver, whichever gateway it speaks to; and what every session can do.

A session is a state machine without a socket. The driver feeds it bytes and gets events, and asks it for the bytes of
each answer. This is all that `server` knows of a protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gatewright.http import Call, Question, Recipe, RequestCall, Response, ResponseCall

__all__ = ["Answer", "Event", "Prepare", "Refusal", "Session"]


class Refusal(Enum):
    """Why a call is not served."""

    BAD_REQUEST = "bad request"
    UNAVAILABLE = "service unavailable"
    UNKNOWN_CONF = "conf token not found"


@dataclass(frozen=True, slots=True)
class Prepare:
    """The gateway hands a configuration over and wants a conf token."""

    key: str
    conf: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The gateway's answer to the oldest open question; `None` when there is no such value."""

    value: bytes | None


Event = Prepare | RequestCall | ResponseCall | Answer


class Session(Protocol):
    """One connection's protocol state. Every method but `receive_data` gives bytes to be written as they are."""

    busy: bool
    """A call is under way."""
    buffered: int
    """Bytes received but not yet turned into an event."""
    on_buffered: Callable[[], None]
    """Called when `buffered` may have changed."""

    @property
    def wants_front(self) -> bool:
        """What stands in front of what is buffered is, or may be, the answer to a question."""

    def receive_data(self, data: bytes) -> Sequence[Event]:
        """Take bytes in as they came.

        Raises:
            ProtocolError: the peer broke the protocol; the connection has to be closed.
        """

    def token(self, token: int) -> bytes:
        """Answer `Prepare`."""

    def ask(self, question: Question) -> bytes:
        """Ask the gateway in the middle of a call; its `Answer` comes as an event, in the order of the questions."""

    def reading(self, call: Call, question: Question) -> Recipe[bytes]:
        """How to get a body; see `gatewright.http.Asker`."""

    def before_reply(self, call: Call) -> Recipe[None]:
        """What has to be asked before `reply` so that the gateway carries the changes out rightly.

        It may raise `NotAvailableError`. For a request, it's needed only if `call.asks`.
        """

    def reply(self, call: Call, response: Response | None) -> bytes:
        """Answer a call: with the plugin's response, or with the changes in its `Call`.

        Raises:
            PluginError: the changes can't be expressed in the protocol; the call should be refused.
        """

    def refuse(self, refusal: Refusal, call: Call | None = None) -> bytes:
        """Answer a call, or `Prepare`, with a refusal."""
