"""A connection's note for the supervisor, so that somebody answers a response phase whose worker was killed.

After a connection that closes, APISIX says 503, and in the response phase it sends the upstream's body with it. So such
a call is noted from when it was read to when its answer has left the process (see `ipc.guard`), and so is a frame
that has come in part. All else needs no note: a request phase that ends without an answer is refused by APISIX itself.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final, cast

from gatewright.gateways.apisix.adapt import refusal_reply
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.lean.frames import PREFACE
from gatewright.http import Call, ResponseCall
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.apisix.asking import AskingConnection
from gatewright.server.ipc.guard import Guard

__all__ = ["NotedConnection", "begins_anew", "last_words"]

_ID: Final = struct.Struct(">I")
_BEGINNINGS: Final = frozenset((FrameType.PREPARE_CONF, FrameType.HTTP_REQ_CALL, FrameType.HTTP_RESP_CALL, PREFACE[0]))


def last_words(asked: bytes) -> bytes:
    """The refusal of a response phase, by its note."""
    return refusal_reply(_ID.unpack(asked)[0])


def begins_anew(unread: bytes) -> bool:
    """Whether what comes on a connection without a note is a call of which nobody knows.

    APISIX sends one only when it has the answer to the last.
    """
    return unread[:1] != b"" and unread[0] in _BEGINNINGS


class NotedConnection(AskingConnection):
    """The part of a connection that keeps its note.

    Attributes:
        slot: its place in the worker's guard; -1 where there is none.
    """

    _guard: Guard | None
    _call: Call | None
    slot = -1
    _noted = False  # as one that nobody can answer for

    def _serve(self, strand: Strand, call: Call) -> None:
        raise NotImplementedError

    def _note_response(self, call: ResponseCall) -> None:
        """A call of the response phase was read."""
        self._call = call
        if self._guard is not None and self.slot >= 0:
            self._guard.mark(self.slot, _ID.pack(call.source.id))

    def _put_off(self, call: Any) -> bool:
        """Have a call served in the loop's next turn, if another worker could serve it should this one die meanwhile.

        Tells whether that is so.
        """
        guard = self._guard
        if guard is not None and (self.slot < 0 or not guard.ahead.note(self.slot, call.source.frame)):
            return False
        self._service.bridge.start_soon(self._serve_put_off, call)
        return True

    def _serve_put_off(self, strand: Strand, call: Call) -> None:
        if self._guard is not None:
            self._guard.ahead.begin()
        if self._closed:  # since it was read
            self._service.count_refused("gateway_closed")
        elif type(call) is ResponseCall:
            self._serve_response(strand, call)
        else:
            self._serve(strand, call)

    def _serve_response(self, strand: Strand, call: ResponseCall) -> None:
        """Serve a call of the response phase, of which there is a note. Runs in a strand."""
        try:
            self._serve(strand, call)
        finally:
            self._call = None
            self._response_answered()

    def _response_answered(self) -> None:
        if self._guard is None or self.slot < 0:
            return
        if cast("asyncio.WriteTransport", self._transport).get_write_buffer_size():
            self._guard.sending(self.slot)  # nobody could add anything to it
            self._noted = True
        else:
            self._guard.clear(self.slot)
            self._noted = False

    def _note_part(self, buffered: int) -> None:
        """So much of a frame has come, and not the whole."""
        if self._guard is None or self.slot < 0 or type(self._call) is ResponseCall or bool(buffered) is self._noted:
            return
        self._noted = bool(buffered)
        if buffered:
            self._guard.mark(self.slot, b"", whole=False)
        else:
            self._guard.clear(self.slot)
