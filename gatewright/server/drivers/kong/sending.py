"""What goes out on a connection with Kong, and when it may end or go to another worker: once no answer is owed."""

from __future__ import annotations

from gatewright.gateways.kong.events import KongEvent, KongSession
from gatewright.server.drivers.kong.event import REFUSAL, Event
from gatewright.server.drivers.kong.instances import Instances
from gatewright.server.drivers.kong.noted import NotedConnection
from gatewright.server.worker.inflow import Inflow
from gatewright.server.worker.service import Service

__all__ = ["SendingConnection"]


class SendingConnection(NotedConnection):
    """The part of a connection that answers."""

    def __init__(self, service: Service, instances: Instances, session: KongSession) -> None:
        super().__init__(service, instances, session)
        self._service = service
        self.event: Event | None = None
        self._owed = 0
        self._exited = False  # Kong drops what it was at, and this connection
        self._receiving = False
        self._unread = 0
        self._ahead = b""
        self._inflow = Inflow()
        self._blocked = False
        self._put_off: list[KongEvent] = []
        self._put_off_size = 0

    def write_ahead(self, data: bytes) -> None:
        """Send what Kong is to do, before the answer."""
        if self._receiving:
            self._ahead += data
        elif not self._transport.is_closing():
            self._send(data)

    def _send(self, data: bytes) -> None:
        data, self._ahead = self._ahead + data, b""
        self._unread += len(data)
        self._service.bytes_out += len(data)
        self._transport.write(data)
        if self._blocked:
            self._note_untaken()

    def _leave_if_idle(self) -> None:
        if self._closed or self._owed or self._put_off or self.event is not None or self.session.buffered:
            return
        if self._awaits_steps:
            return
        if self._transport.is_reading():
            self._transport.pause_reading()  # what comes next is another worker's
        self._service.loop.call_soon(self.give_back)

    @property
    def _awaits_steps(self) -> bool:
        """The process ends, the next step of an event of its may come here, and nobody stays to pass it on."""
        service = self._service
        return service.draining and service.keeper is None and self._moves and bool(self._instances.events)

    def _fail(self, ticket: int, message: str) -> None:
        data = self.session.failed(ticket, message)
        if data is None:  # Kong is to see it close, and to begin anew
            self._clear_guard()
            self._transport.close()
        else:
            self.write(data)

    def refuse_number(self, ticket: int, event: int) -> None:
        """Answer a request with 500 whose event has gone with its worker."""
        self.write(self.session.call(ticket, event, "kong.response.exit", REFUSAL))

    # --- how much Kong takes

    def pause_writing(self) -> None:
        """Kong doesn't take what it was sent: it is not read from until it does."""
        self._blocked = True
        self._inflow.untaken(self._transport, much=True)
        self._note_untaken()

    def _note_untaken(self) -> None:
        self._service.buffered_input.set_untaken(self, self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has taken it."""
        self._blocked = False
        self._inflow.untaken(self._transport, much=False)
        self._service.buffered_input.set_untaken(self, 0)
        if self._put_off:
            self._service.loop.call_soon(self._take_put_off)
        if self._service.leaving:
            self._leave_if_idle()

    # --- ending (see `Service`)

    @property
    def is_awaited(self) -> bool:
        """Kong has still to answer what it was told ahead, unless it has dropped that for an `exit`."""
        return self.event is None and not self._exited and self.session.buffered > 0

    def end_if_stalled(self, now: float, limit: float) -> None:
        """Kong's connections may be silent for as long as they like."""

    def close_if_idle(self) -> None:
        """Close the connection unless an event is under way on it, or may go on over it."""
        is_idle = (
            self.event is None
            and not self._owed
            and not self._put_off
            and not self.session.buffered  # Kong has still to answer what it was told ahead, and fails if it can't
            and not self._awaits_steps
        )
        if is_idle and not self.give_back():
            self._transport.close()

    def _take_put_off(self) -> None:
        raise NotImplementedError

    def end_for_room(self, held: int) -> None:
        """There is no room for what it holds, which is more than what others do."""
        raise NotImplementedError

    def give_back(self) -> bool:
        """Let another worker serve this connection, if no answer is owed on it."""
        if self._closed or self._owed or self._put_off or self.event is not None or self.session.buffered:
            return False
        if self._transport.get_write_buffer_size():
            return False
        self._clear_guard()  # the supervisor would have last words on a connection that is the keeper's
        self._closed = self._service.hand_over(self, self._transport)
        return self._closed

    def abort(self) -> None:
        """Close the connection now."""
        self._transport.close()
