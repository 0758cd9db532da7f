"""What is said to Kong while there is no plugin server, so that it lets no request pass.

Over MessagePack every Kong would, over Protobuf those before 3.8 (pb_rpc.lua, `Rpc:handle_event`). What can wait for
the next server waits, for some seconds. A step can't: the next server doesn't know its event. But a worker of the last
one may still be at work on that.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from typing import Final

import msgpack

from gatewright.errors import ProtocolError
from gatewright.gateways.kong.events import Answer, CloseInstance, HandleEvent, KongEvent, KongSession, StartInstance
from gatewright.server.drivers.kong.event import MAY_EXIT, REFUSAL
from gatewright.server.drivers.kong.neighbours import dial

__all__ = ["NO_INSTANCE", "StandIn"]

NO_INSTANCE: Final = 0
"""The id of instances that are started now: the server that comes next doesn't know it, and Kong starts them anew."""
_PATIENCE: Final = 8.0
"""Seconds. Kong starts a server a second after the last one's end at the latest; and whoever finds that an instance is
being started waits for ten seconds, and then lets its request pass (plugin.lua, `get_instance_id`)."""
_LENGTH: Final = 4
"""Bytes of a Protobuf frame's length, in the machine's order (pb_rpc.lua)."""
_UNREAD: Final = b"\xc0" * (1 << 14)
"""More than Kong reads at once (mp_rpc.lua: 4096 bytes, and nginx's buffer). What it has not read after an answer keeps
the connection out of its pool, where a request might find it in the moment in which we close it, and pass."""


class StandIn:
    """Answers on one connection (see `gatewright.server.ipc.plan.StandIn`)."""

    relays = False

    def __init__(self, new_session: Callable[[], KongSession]) -> None:
        """Begin.

        Args:
            new_session: makes the protocol's state.
        """
        self._session = new_session()
        self.patience = 0.0
        self._event: int | None = None
        self.asks_anew = False
        self._reply = msgpack.Unpacker(raw=True, strict_map_key=False)

    def refusal(self, data: bytes) -> bytes:
        """What to say to the request that these bytes belong to; empty if it goes on.

        Raises:
            ProtocolError: it's none.
        """
        events = self._session.receive_data(data)
        for event in events:
            self.patience = _PATIENCE if isinstance(event, HandleEvent | StartInstance) else 0.0
            # "closed", over Protobuf: but an instance that can't be started fails the request (pb_rpc.lua, plugin.lua)
            self.asks_anew = not self._session.moves and not isinstance(event, StartInstance)
            self._event = event.event if isinstance(event, Answer) else None
        return b"".join(self._refused(event) for event in events) + _UNREAD if events else b""

    def elsewhere(self) -> socket.socket | None:
        """A connection with the process that runs the event that this is a step of, if it still does."""
        return None if self._event is None else dial(self._event)

    def passed_on(self, reply: bytes, new: bytes) -> bytes:
        """What to say if the new server answers so; empty if the answer goes on.

        Args:
            reply: all that has come of it.
            new: the last of it, which this was not asked about yet.
        """
        if not self._session.moves:
            size = int.from_bytes(reply[:_LENGTH], sys.byteorder) if len(reply) >= _LENGTH else len(reply)
            return reply + _UNREAD if len(reply) >= _LENGTH + size else b""
        self._reply.feed(new)
        return next((reply + _UNREAD for _ in self._reply), b"")

    def _refused(self, event: KongEvent) -> bytes:
        session = self._session
        match event:
            case HandleEvent(ticket, _, phase) if phase not in MAY_EXIT:
                return session.done(ticket, 0)
            case HandleEvent(ticket, _, _):
                return session.call(ticket, 0, "kong.response.exit", REFUSAL)
            case Answer(ticket, number, _, _):
                return session.call(ticket, number or 0, "kong.response.exit", REFUSAL)
            case StartInstance(ticket, name, _):
                return session.started(ticket, name, NO_INSTANCE, None, time.time())
            case CloseInstance(ticket, number):
                return session.closed(ticket, "", number, None, time.time())
        data = session.failed(event.ticket, "the plugin server is not there")
        if data is None:
            raise ProtocolError("there is nothing to say to this question but to close")
        return data
