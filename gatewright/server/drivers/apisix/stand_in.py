"""What APISIX is told while there is no runner: to wait for the next one, and when that takes too long, no.

An APISIX that can't reach its runner refuses a request by itself. In the response phase it does so with the upstream's
body, so somebody has to be there and answer. And who waits a little loses no request while a runner is started anew.
"""

from __future__ import annotations

from typing import Final

from gatewright.errors import ProtocolError
from gatewright.gateways.apisix.frames import FrameBuffer, FrameType
from gatewright.gateways.apisix.session import ApisixSession
from gatewright.gateways.events import Answer, Prepare, Refusal
from gatewright.gateways.lean.frames import PREFACE
from gatewright.settings import Settings

__all__ = ["NO_TOKEN", "StandIn"]

NO_TOKEN: Final = 1
"""A token that the next runner doesn't know: APISIX prepares anew then. With an error instead of a token, it would
refuse a response phase in its own way."""
_UNREAD: Final = b"\0" * (1 << 14)
"""More than APISIX reads at once. A connection with something unread is not pooled, and so is not in use when it's
closed."""


class StandIn:
    """Answers on one connection (see `gatewright.server.ipc.plan.StandIn`)."""

    patience = 8.0  # APISIX starts a runner 3 s after the last one's end
    relays = True
    asks_anew = False

    def __init__(self, settings: Settings) -> None:
        self._session = ApisixSession(
            max_payload=settings.max_frame, answers_failures=settings.response_failure == "refuse"
        )
        self._replies = FrameBuffer(settings.max_frame)

    def refusal(self, data: bytes) -> bytes:
        """What to say to the call that these bytes belong to; empty if it goes on.

        Raises:
            ProtocolError: it's none.
        """
        if data[0] == PREFACE[0] and not self._session.busy and not self._session.buffered:
            raise ProtocolError("the lean path, whose Lua says no by itself")
        session = self._session
        for event in session.receive_data(data):
            if isinstance(event, Prepare):
                return session.token(NO_TOKEN) + _UNREAD
            if not isinstance(event, Answer):
                return session.refuse(Refusal.UNAVAILABLE, event) + _UNREAD
        return b""

    def elsewhere(self) -> None:
        """A call stays on its connection, and so with its worker."""

    def passed_on(self, reply: bytes, new: bytes) -> bytes:
        """What to say after what the next runner has said, if it has answered; empty while it asks."""
        self._replies.feed(new)
        while (frame := self._replies.next_frame()) is not None:
            if frame[0] != FrameType.EXTRA_INFO:
                return _UNREAD
        return b""
