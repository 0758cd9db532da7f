"""One connection: bytes to the session, its events to the chains, their replies back.

`data_received` and `_serve` are the hot path. A call runs in a strand (see `runtime.strands`), so what looks like
blocking code here only stops its own call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from gatewright.errors import (
    CallRefusedError,
    GatewayClosedError,
    GatewrightError,
    ProtocolError,
)
from gatewright.gateways.apisix.calls import PROBE_KEY, HttpReqCall
from gatewright.gateways.events import Answer, Event, Prepare, Refusal, Session
from gatewright.http import Call, Question, Recipe, RequestCall, ResponseCall
from gatewright.runtime.chain import Chain
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.apisix.afterwards import tell_of_answer
from gatewright.server.drivers.apisix.asking import Waiter
from gatewright.server.drivers.apisix.ctx import ctx_kept, keep_ctx
from gatewright.server.drivers.apisix.noted import NotedConnection
from gatewright.server.drivers.apisix.stand_in import NO_TOKEN
from gatewright.server.worker.between import Uplink
from gatewright.server.worker.inflow import Inflow
from gatewright.server.worker.service import Service

__all__ = ["Connection"]


class Connection(NotedConnection):
    """The driver of one session."""

    def __init__(self, service: Service, session: Session) -> None:
        self._service = service
        self._guard = service.guard
        self._confs = service.confs
        self._chains = service.confs.by_token
        self._bridge = service.bridge
        self._session = session
        self._session.on_buffered = self._note_buffered
        self._inflow = Inflow()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._call: Call | None = None
        self._strand: Strand | None = None
        self._waiters: deque[Waiter | None] = deque()
        self._half_closed = False
        self._stalled_since = 0.0
        self._closed = False

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or turn it away if there are too many."""
        service = self._service
        self._transport = cast("asyncio.Transport", transport)
        if not service.take_in(self):
            self._closed = True
            transport.close()
        elif service.leaving:
            service.loop.call_soon(self.give_back)

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""
        self._service.bytes_in += len(data)
        bridge = self._bridge
        try:
            for event in self._session.receive_data(data):
                kind = type(event)
                if kind is RequestCall:
                    if not bridge.gathers or not self._put_off(event):
                        bridge.start_counted(self._serve, event)
                elif kind is ResponseCall:
                    self._note_response(cast("ResponseCall", event))
                    if not bridge.gathers or not self._put_off(event):
                        bridge.start_counted(self._serve_response, event)
                else:
                    self._other_event(event)
        except ProtocolError as error:
            self._end_for_protocol_error(error)

    def _note_buffered(self) -> None:
        session = self._session
        size = session.buffered
        self._service.buffered_input.set(self, size)
        self._inflow.sent_ahead(self._transport, size if session.busy else 0, wanted=session.wants_front)
        if size or self._noted:
            self._note_part(size)

    def pause_writing(self) -> None:
        """The gateway doesn't take its answers: no more questions of its own until it does."""
        self._inflow.untaken(self._transport, much=True)
        self._note_untaken()

    def _note_untaken(self) -> None:
        self._service.buffered_input.set_untaken(self, self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has taken them."""
        self._inflow.untaken(self._transport, much=False)
        self._service.buffered_input.set_untaken(self, 0)
        if self._session.buffered and not self._session.busy:
            self._service.loop.call_soon(self._look_again)

    def eof_received(self) -> bool:
        """The gateway sends no more; a call under way may still be answered, unless it waits for the gateway."""
        self._half_closed = True
        if self._waiters:
            return False
        if self._session.buffered and not self._session.busy:
            self._service.failures.report(
                "connection closed in the middle of a frame", kind="protocol", bytes=self._session.buffered
            )
        return self._session.busy

    def connection_lost(self, _: Exception | None) -> None:
        """End what still waits for this gateway."""
        self._closed = True
        self._service.let_go(self)
        self._service.buffered_input.gone(self)
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if waiter is not None and not isinstance(waiter, Strand) and not waiter.done():
                waiter.set_exception(GatewayClosedError("the gateway closed the connection"))
        if self._strand is not None:
            self._bridge.throw(self._strand, GatewayClosedError("the gateway closed the connection"))

    # --- calls

    def _serve(self, strand: Strand, call: Call) -> None:
        """Answer one call. Runs in a strand."""
        service = self._service
        session = self._session
        chain = self._chains.get(call.conf_token)
        if chain is None and service.link is not None:
            chain = self._chain_of_others(strand, call, service.link)
            if self._closed:
                return
        if chain is None:
            self._refuse(Refusal.UNKNOWN_CONF)
            return
        if service.started - service.ended >= service.max_calls:
            service.failures.report(
                "too many calls under way, request refused", kind="overloaded", route=chain.key, limit=service.max_calls
            )
            self._refuse(Refusal.UNAVAILABLE, call)
            return
        chain.last_used = self._confs.now
        call.asker = self
        call.route = chain.key
        self._call = strand.call = call
        self._strand = strand
        service.started += 1
        try:
            if type(call) is RequestCall:
                if chain.late:
                    self._look_at_path(call)
                response = chain.run_request(call, strand)
                if response is not None:
                    service.answered += 1
                    if chain.tells:
                        tell_of_answer(service, chain, call, response)
                elif call.asks:
                    self._follow(call, session.before_reply(call))
                    if call.kept_ctx:
                        keep_ctx(self, call, service.region)
            else:
                service.responses += 1
                call.ctx_source = self._kept_ctx
                response = chain.run_response(call, strand)
                self._follow(call, session.before_reply(call))
            frame = session.reply(call, response)
            if call.warning:
                service.failures.report(call.warning, kind="warning", route=chain.key)
        except GatewrightError as error:
            if isinstance(error, GatewayClosedError) and self.is_over:
                service.count_refused("gateway_closed")
                self._transport.close()  # nobody is left to be answered
                return
            frame = self._refusal_of(error, call)
        except BaseException as error:  # ours, not the plugin's: the gateway must have an answer, and not pass
            if strand.dies:
                raise
            service.failures.report(
                "request refused: internal error", kind="internal", route=chain.key, error=error, traceback=True
            )
            service.count_refused(Refusal.UNAVAILABLE.value)
            frame = session.refuse(Refusal.UNAVAILABLE, call)
        finally:
            self._call = self._strand = None
            service.ended += 1
            if service.draining:
                service.call_ended()
        self._transport.write(frame)
        service.bytes_out += len(frame)
        if session.buffered or self._half_closed or service.leaving:
            self._after_write()

    def _kept_ctx(self, call: Call) -> dict[str, Any]:
        return ctx_kept(call, self._service.region)

    def _chain_of_others(self, strand: Strand, call: Call, link: Uplink) -> Chain | None:
        """The chain of a token that another worker may have given out."""
        self._strand = strand
        try:
            return link.lookup(call.conf_token, strand)
        except GatewayClosedError:
            return None
        finally:
            self._strand = None

    def _refusal_of(self, error: GatewrightError, call: Call) -> bytes:
        route = call.route
        if not isinstance(error, CallRefusedError):
            self._service.failures.report("request refused", kind="inexpressible", route=route, error=error)
        refusal = Refusal.BAD_REQUEST if isinstance(error, ProtocolError) else Refusal.UNAVAILABLE
        self._service.count_refused(refusal.value)
        return self._session.refuse(refusal, call)

    def _refuse(self, refusal: Refusal, call: Call | None = None) -> None:
        self._service.count_refused(refusal.value)
        self._write(self._session.refuse(refusal, call))

    def _look_at_path(self, call: Call) -> None:
        """Learn whether the path is one that was set, and so escaped (init.lua: `$upstream_uri`, or `$uri`)."""
        call.late = call.asks = True  # changed arguments want the path, too
        source = cast("HttpReqCall", call.source)
        if source.may_be_escaped and self.ask_sync(call, Question("var", "upstream_uri")):
            call.source = source.with_escaped_path()

    def _follow(self, call: Call, recipe: Recipe[None]) -> None:
        answer = None
        try:
            while True:
                answer = self.ask_sync(call, recipe.send(answer))
        except StopIteration:
            return

    def _write(self, frame: bytes) -> None:
        self._transport.write(frame)
        self._service.bytes_out += len(frame)
        self._after_write()

    def _after_write(self) -> None:
        if self._session.buffered:
            self._service.loop.call_soon(self._look_again)
        elif self._half_closed:
            self._transport.close()
        elif self._service.draining:
            self.close_if_idle()
        elif self._service.leaving and not self._closed:
            if self._transport.is_reading():
                self._transport.pause_reading()  # the next call is another worker's
            self._service.loop.call_soon(self.give_back)

    def _look_again(self) -> None:
        if not self._closed and not self._inflow.blocked:
            self.data_received(b"")

    def _other_event(self, event: Event) -> None:
        if isinstance(event, Answer):
            waiter = self._waiters.popleft()
            if isinstance(waiter, Strand):
                resume = self._bridge.resume_soon if self._bridge.gathers else self._bridge.resume
                resume(waiter, event.value)
            elif waiter is not None and not waiter.done():
                waiter.set_result(event.value)
        elif isinstance(event, Prepare):
            if event.key == PROBE_KEY and not event.conf:  # nothing is to be kept for whoever only looks
                self._answer_prepare(0)
            else:
                self._service.prepare(event.key, event.conf, self._answer_prepare)

    def _answer_prepare(self, token: int | None) -> None:
        if self._closed:
            return
        if token is None and self._service.keeper is not None:
            token = NO_TOKEN  # the next runner doesn't know it, and APISIX prepares anew
        self._write(self._session.refuse(Refusal.UNAVAILABLE) if token is None else self._session.token(token))

    def _end_for_protocol_error(self, error: ProtocolError) -> None:
        self._service.failures.report("connection closed: the peer broke the protocol", kind="protocol", error=error)
        if not self._closed:
            self._closed = True
            self._transport.write(self._session.refuse(Refusal.BAD_REQUEST))
            self._transport.close()

    # --- ending

    is_awaited = False

    def end_if_stalled(self, now: float, limit: float) -> None:
        """End the connection if, for `limit` seconds, a frame stayed incomplete or an answer was not taken."""
        unfinished = self._session.buffered > 0 and not self._session.busy
        untaken = self._transport.get_write_buffer_size() > 0
        if not unfinished and not untaken:
            self._stalled_since = 0.0
        elif not self._stalled_since:
            self._stalled_since = now
        elif now - self._stalled_since >= limit:
            what = "an answer was not taken" if untaken else "a frame stayed incomplete"
            self._service.failures.report(f"connection closed: {what} for {limit:g} s", kind="stalled")
            self._transport.abort()

    def end_for_room(self, held: int) -> None:
        """Close the connection, which holds more than the others, because there is no room."""
        if self._closed:
            return
        self._closed = True
        self._service.count_refused(Refusal.UNAVAILABLE.value)
        self._transport.write(self._session.refuse(Refusal.UNAVAILABLE, self._call))
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # it doesn't read: what it holds must go now
        else:
            self._transport.close()

    def close_if_idle(self) -> None:
        """Close the connection unless a call is under way; then it's closed after its answer.

        One on which the gateway may ask something in that moment is the keeper's, if there is one.
        """
        if not self._session.busy and (self._service.keeper is None or not self.give_back()):
            self._transport.close()

    def give_back(self) -> bool:
        """Let another worker serve this connection, if nothing is under way on it; tells whether that was so.

        The peer notices nothing: what it sends from now on stays in the kernel until the other worker reads it.
        """
        session, transport = self._session, self._transport
        if self._closed or self._half_closed:
            return False
        if session.busy or session.buffered or self._waiters or transport.get_write_buffer_size():
            return False
        self._closed = self._service.hand_over(self, transport)
        return self._closed

    def abort(self) -> None:
        """Close the connection now; what was written is still sent, a call under way is lost.

        In the response phase it's refused first: APISIX would send the upstream's answer.
        """
        call = self._call
        if type(call) is ResponseCall and not self._closed:
            self._transport.write(self._session.refuse(Refusal.UNAVAILABLE, call))
            self._response_answered()
        self._transport.close()
