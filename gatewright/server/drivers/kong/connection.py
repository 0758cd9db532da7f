"""The driver of a connection with Kong, over either protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from time import time
from typing import Any, Final, cast

from gatewright.errors import (
    CallRefusedError,
    ConfigError,
    GatewayClosedError,
    GatewrightError,
    OverloadedError,
    ProtocolError,
)
from gatewright.gateways.kong.events import (
    Answer,
    CloseInstance,
    HandleEvent,
    KongEvent,
    KongSession,
    Query,
    StartInstance,
)
from gatewright.runtime.pdk import PhaseExit
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.kong.event import REFUSAL, Event, conclude
from gatewright.server.drivers.kong.instances import Instances
from gatewright.server.drivers.kong.native import run_access, run_log, run_response
from gatewright.server.drivers.kong.noted import HEAD
from gatewright.server.drivers.kong.owners import process_behind
from gatewright.server.drivers.kong.queries import answer_to
from gatewright.server.drivers.kong.sending import SendingConnection
from gatewright.server.drivers.kong.stand_in import NO_INSTANCE
from gatewright.server.worker.service import Service

__all__ = ["PluginServerConnection"]

_NOT_KNOWN: Final = "no plugin instance #%s"  # Kong looks for these words, and then starts one anew
_LINGER_SECONDS: Final = 5.0
_SURELY_SENT: Final = 1 << 14  # bytes that a socket's buffer has room for
_FORGET_SECONDS: Final = 120.0  # Kong itself gives up after 60


class PluginServerConnection(SendingConnection):
    """The driver of one session with Kong."""

    def __init__(self, service: Service, instances: Instances, session: KongSession) -> None:
        super().__init__(service, instances, session)
        self._start = service.bridge.start
        self.last: Event | None = None
        self._number = 0
        self._discards = False
        self._held = 0
        self._taken_in = True

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in; if there are too many, only to refuse what it asks for."""
        self._transport = cast("asyncio.Transport", transport)
        self._owner = process_behind(transport)
        self._number = self._instances.add(self)
        self._taken_in = self._service.take_in(self)
        if not self._taken_in:
            self.slot = -1  # it will be another one's
            self._closed = self._service.draining and self._service.leave_to_keeper(self._transport)

    def receive_otherwise(self, data: bytes) -> None:
        """As `data_received`, also for what isn't usual."""
        if self._discards:
            return
        session = self.session
        first = not session.buffered
        if first:
            self._head = data[:HEAD]
        elif len(self._head) < HEAD:
            self._head += data[: HEAD - len(self._head)]
        self._service.bytes_in += len(data)
        try:
            events = session.receive_data(data)
        except Exception as error:
            self._not_understood(error)
            return
        if session.buffered != self._held:
            self._note_held()
        if not events:
            self._nothing_whole(first)
            return
        if self.slot >= 0 and self._guard is not None:
            self.asked += 1
            if not self._noted:
                self._guard.mark(self.slot, self._head)
                self._noted = not self._moves
        if self._blocked or self._put_off:
            self._put_off += events
            self._put_off_size += len(data)
            self._note_held()
        elif len(events) == 1:
            self._take(events)
        else:
            self._take_several(events, len(data))

    def _not_understood(self, error: BaseException) -> None:
        if isinstance(error, ProtocolError):
            self._break_off("connection closed: the peer broke the protocol", "protocol", error)
        elif isinstance(error, Exception):  # ours, then; without a word, the request would pass
            self._break_off("connection closed: internal error", "internal", error)
        else:
            raise error

    def _nothing_whole(self, first: bool, /) -> None:
        """A part of a request has come, the first of it or another, or Kong has answered what it was told ahead."""
        if first or self._moves:
            self._note_part()
        elif self.event is None and not self.session.buffered:  # Kong has caught up
            self._unread = 0
            if not self.clear_guard():
                self._answered()
            if self._service.leaving:
                self._leave_if_idle()

    def _take_several(self, events: Sequence[KongEvent], size: int) -> None:
        self._take(self._while_taken(events, size))

    def _take(self, events: Iterable[KongEvent]) -> None:
        self._receiving = True
        try:
            for event in events:
                if type(event) is HandleEvent and self._taken_in:
                    if self.last is not None:
                        self._overtake(None)
                    self._owed += 1
                    self._start(self._handle, event)
                else:
                    self._on_event(event)
        finally:
            self._receiving = False
        if self._ahead:
            self._send_ahead()

    def _send_ahead(self) -> None:
        """Send what was to go with an answer that has not come at once."""
        if not self._transport.is_closing():
            self._send(b"")

    def _while_taken(self, events: Sequence[KongEvent], size: int) -> Iterator[KongEvent]:
        """As many of what Kong asks at once as it takes answers; the rest is put off."""
        for number, event in enumerate(events):
            if self._blocked:
                self._put_off += events[number:]
                self._put_off_size += size
                self._note_held()
                return
            yield event

    def _note_held(self) -> None:
        self._held = self.session.buffered
        self._service.buffered_input.set(self, self._held + self._put_off_size)

    def _take_put_off(self) -> None:
        """Kong has taken what lay untaken: go on with what it sent meanwhile."""
        events, self._put_off = self._put_off, []
        size, self._put_off_size = self._put_off_size, 0
        if not self._closed:
            self._note_held()
            self._take(self._while_taken(events, size))
            if self._service.leaving:
                self._leave_if_idle()

    def end_for_room(self, held: int) -> None:
        """Refuse what is asked on this connection, which holds more than the others, because there is no room."""
        if self._blocked:  # and it would not read that either
            self._service.failures.report("connection closed: Kong doesn't read", kind="max_buffered", held=held)
            self._transport.abort()
            return
        self._break_off("request refused", "max_buffered", OverloadedError(f"{held} bytes of it wait (max_buffered)"))

    def _break_off(self, why: str, kind: str, error: Exception) -> None:
        """Refuse what was asked, if that much can be told, and read on for a while, so that Kong reads the refusal."""
        self._service.failures.report(why, kind=kind, error=error, traceback=kind == "internal")
        self._discards = True
        if self.event is not None:
            self.event.lost()
        words = self.session.last_words(self._head, REFUSAL)
        self._send(words)
        self._service.loop.call_later(_LINGER_SECONDS if words else 0.0, self._transport.close)

    def connection_lost(self, _: Exception | None) -> None:
        """End what still waits for this connection.

        An event that moves goes on: a worker of Kong's that is about to exit pools no connection, but closes each after
        its answer, and takes a new one for every step (ngx_http_lua_socket_tcp.c, `setkeepalive`).
        """
        self._closed = True
        self._instances.connections.pop(self._number, None)
        self._service.let_go(self)
        self._service.buffered_input.gone(self)
        if self.event is not None:
            self.event.lost()

    # --- Kong's wishes

    def _on_event(self, event: KongEvent) -> None:
        self._owed += 1
        if not self._taken_in:
            self._turn_away(event)
            return
        if self.last is not None and type(event) is not Answer:
            self._overtake(None)
        match event:
            case Answer():
                self._on_answer(event)
            case StartInstance(ticket, name, text):
                self._start_instance(ticket, name, text)
            case CloseInstance(ticket, number):
                self._start(self._close_instance, (ticket, number))
            case Query(ticket, what, argument):
                self._on_query(ticket, what, argument)

    def _turn_away(self, event: KongEvent) -> None:
        if isinstance(event, HandleEvent | Answer):
            number = event.event if isinstance(event, Answer) else None
            self._service.count_refused("too many connections")
            self.refuse_number(event.ticket, number or 0)
        else:
            self._fail(event.ticket, "too many connections")

    def _start_instance(self, ticket: int, name: str, text: bytes) -> None:
        def answer(number: int | None, config: Any) -> None:
            if number is None and self._service.keeper is not None:
                self.write(self.session.started(ticket, name, NO_INSTANCE, config, time()))
            elif number is None:
                self._fail(ticket, "the plugin server is about to end")
            else:
                self._instances.owners.started(self._owner, number)
                self.write(self.session.started(ticket, name, number, config, time()))

        try:
            self._instances.start(name, text, answer)
        except ConfigError as error:
            self._service.failures.report("instance not started", kind="conf", plugin=name, error=error)
            self._fail(ticket, str(error))

    def _close_instance(self, strand: Strand, wish: tuple[int, int]) -> None:
        ticket, number = wish
        chain = self._instances.find(number, strand)
        if chain is None:
            self._fail(ticket, _NOT_KNOWN % number)
            return
        self._instances.close(number)
        self.write(self.session.closed(ticket, chain.name, number, None, time()))

    def _on_answer(self, answer: Answer) -> None:
        if answer.event is None:
            if self.event is not None:
                self.event.take_answer(self, answer)
            return
        event = self._instances.events.get(answer.event)
        if self.last is not None:
            self._overtake(event)
        if event is not None:
            event.take_answer(self, answer)
        elif self._instances.neighbours.is_elsewhere(answer.event):
            self._instances.neighbours.pass_on(self._number, answer)
        else:
            self.refuse_number(answer.ticket, answer.event)  # an error would let the request pass

    def _overtake(self, event: Event | None) -> None:
        """Kong uses the connection for this event, or for none: the last call there was this one's, or it failed."""
        last, self.last = self.last, None
        if last is not event and last is not None:
            last.overtaken()

    def _handle(self, strand: Strand, wish: HandleEvent) -> None:
        """Run a handler. Runs in a strand."""
        service, instances = self._service, self._instances
        chain = service.confs.get(wish.instance) or instances.find(wish.instance, strand)
        if chain is None:
            self._fail(wish.ticket, _NOT_KNOWN % wish.instance)
            return
        if self._closed:  # while the instance was looked up
            return
        phase = wish.phase
        event = Event(instances, chain, phase, self, wish.ticket, strand)
        if self._moves:
            event.number = number = instances.new_event_number()
            instances.events[number] = event
        else:
            self.event = event
            self._unread = 0
            self.session.patient = service.leaving
        service.started += 1
        if phase in instances.phases:
            instances.phases[phase] += 1
        try:
            if service.started - service.ended > service.max_calls or chain.name in instances.overdue:
                service.failures.report(
                    "too many events under way",
                    kind="overloaded",
                    plugin=chain.name,
                    limit=service.max_calls,
                    waiting_for_kong=instances.overdue.get(chain.name, 0),
                )
                self._refuse(event)
                return
            self._run(event, strand)
            if event.connection is not None and not event.over:
                event.verdict = "done"
                if event.rest and event.go_on(event.connection):
                    event.outlives = True
                    return
                event.finish()
            else:
                self._end(event, "done")
        except (PhaseExit, GatewayClosedError) as error:
            if not event.over:  # it was another event's `kong`
                service.failures.report("plugin failed: request refused", kind="plugin_error", plugin=chain.name,
                                        route=chain.key, error=error, traceback=True)  # fmt: skip
                self._refuse(event)
            else:
                service.answered += type(error) is PhaseExit
                self.event_over(event, exited=True)
        except CallRefusedError:
            self._refuse(event)  # it was logged
        except GatewrightError as error:
            service.failures.report(
                "request refused", kind="plugin_error", plugin=chain.name, route=chain.key, error=error
            )
            self._refuse(event)
        except BaseException as error:  # GreenletExit, say: whatever it is, the request must not pass
            service.failures.report(
                "request refused: internal error", kind="internal", plugin=chain.name, error=error, traceback=True
            )
            self._refuse(event)
        finally:
            event.strand = None
            event.release()
            if not event.outlives:
                service.ended += 1
                if service.draining:
                    service.call_ended()

    def _run(self, event: Event, strand: Strand) -> None:
        chain = event.chain
        if not chain.ready:
            chain.build()
        if chain.only_phases:
            chain.run_phase(event.phase, event, strand)
        elif event.phase == "access" and chain.request_steps and chain.steps[0].on_request is not None:
            run_access(chain, event, strand, self._instances.fetched_first)
        elif event.phase == "response" and chain.response_steps and chain.steps[0].on_response is not None:
            run_response(chain, event, strand, self._instances.fetched_first)
        elif event.phase == "log" and chain.steps and chain.steps[0].after is not None:
            run_log(chain, event, strand, self._instances.fetched_first)
        else:
            chain.run_phase(event.phase, event, strand)

    def _refuse(self, event: Event) -> None:
        self._service.count_refused("service unavailable")
        self._end(event, "refuse")

    def _end(self, event: Event, verdict: str) -> None:
        """End an event, at once or, while Kong is at work on a PDK call, when it answers.

        A refusal is an answer of 500: closing would make Kong try again without end, an error would let it pass.
        """
        if event.over:  # the handler has answered the request, and caught the exception that should have ended it
            return
        event.verdict = verdict
        if event.connection is not None:
            conclude(event.connection, event)
        else:
            self._service.loop.call_later(_FORGET_SECONDS, self._instances.events.pop, event.number, None)

    def event_over(self, event: Event, *, exited: bool) -> None:
        """An event has ended, on whatever connection."""
        if self._moves:
            self._instances.events.pop(event.number, None)
        elif self.event is event:
            self.event = None
            if exited or not self.session.buffered or self._unread > _SURELY_SENT:
                self._answered()  # else Kong still has calls to answer, and the note is taken back then
            if exited:
                # Kong drops the coroutine that would have answered, and the connection with it.
                self._exited = True
                self._service.loop.call_later(_LINGER_SECONDS, self._close_if_quiet)

    def _close_if_quiet(self) -> None:
        if self.event is None and not self._closed:
            self._transport.close()

    def _on_query(self, ticket: int, what: str, argument: Any) -> None:
        if what == "instance_status":
            self._start(self._tell_instance, (ticket, argument))
            return
        content = answer_to(self._service, what, argument)
        if content is None:
            self._fail(ticket, f"{argument} is not known" if what == "plugin_info" else f"no such method: {argument}")
        else:
            self.write(self.session.answered(ticket, what, content))

    def _tell_instance(self, strand: Strand, wish: tuple[int, int]) -> None:
        ticket, number = wish
        chain = self._instances.find(number, strand)
        if chain is None:
            self._fail(ticket, _NOT_KNOWN % number)
        else:
            self.write(self.session.started(ticket, chain.name, number, None, 0.0))
