"""One connection with many calls under way: frames to the session, its events to the chains, their answers back.

Each call runs in a strand of its own (see `runtime.strands`). What one piece of input leads to goes out in one write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, cast

from gatewright.errors import CallRefusedError, GatewayClosedError, GatewrightError, ProtocolError
from gatewright.gateways.events import Refusal
from gatewright.gateways.lean.calls import LeanRequestCall, LeanResponseCall, LeanSource
from gatewright.gateways.lean.replies import request_answer, response_answer
from gatewright.gateways.lean.session import Event, Hello, LeanSession, Logged, Prepared, Told
from gatewright.http import Call
from gatewright.runtime.chain import Chain
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.lean.asking import AskingConnection
from gatewright.server.drivers.lean.plans import OutdatedError, Plans
from gatewright.server.worker.inflow import Inflow
from gatewright.server.worker.service import Service
from gatewright.settings import worker_count

__all__ = ["LeanConnection"]

_LONGEST_TEXT: Final = 500
_LONGEST_WAIT: Final = 86_400.0
"""Seconds: nginx takes no timeout above 24 days, and nobody waits for one."""
_MUCH: Final = 1 << 13
"""Bytes that may be more than a few calls."""
_AT_ONCE: Final = 32
"""Calls that are begun before it's seen whether their answers are taken."""


class LeanConnection(AskingConnection):
    """The driver of one session.

    Attributes:
        slot: its place in the worker's guard; -1 where there is none.
    """

    slot = -1

    def __init__(self, service: Service, session: LeanSession, plans: Plans) -> None:
        self._service = service
        self._plans = plans
        self._confs = service.confs
        self._chains = service.confs.by_token
        self._bridge = service.bridge
        self._session = session
        self._receive = session.receive_data
        self._inflow = Inflow()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._under_way: dict[int, Strand] = {}
        self._waiters = {}
        self._out: list[bytes] | None = None
        self._held = 0
        self._put_off: deque[Call] = deque()
        self._put_off_size = 0
        self._stalled_since = 0.0
        self._told_to_leave = False
        self._closed = False

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or turn it away if there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        if self._service.guard is not None and self.slot >= 0:  # what comes on it later begins nothing
            self._service.guard.mark(self.slot, b"", whole=False)
        if not self._service.take_in(self):
            self._closed = True
            transport.close()
        elif self._service.leaving:
            self.give_back()

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""
        service = self._service
        service.bytes_in += len(data)
        out = self._out = []
        try:
            calls: list[Call] = []
            for event in self._receive(data):
                kind = type(event)
                if kind is LeanRequestCall or kind is LeanResponseCall:
                    calls.append(event)  # type: ignore[arg-type]  # `cast` would be a call for each call
                else:
                    self._other_event(event)
            if len(data) > _MUCH or self._put_off:
                self._put_off += calls
                self._put_off_size += len(data)
                self._begin_put_off(out)
            elif len(calls) == 1:
                self._bridge.start(self._serve, calls[0])
            elif calls:
                self._bridge.start_each(self._serve, calls)
        except ProtocolError as error:
            self._end_for_protocol_error(error)
        finally:
            self._out = None
            if out and not self._transport.is_closing():
                frames = out[0] if len(out) == 1 else b"".join(out)
                service.bytes_out += len(frames)
                self._transport.write(frames)
        if self._closed:
            if not self._transport.is_closing():
                self._transport.close()
        elif self._session.buffered != self._held:
            self._held = self._session.buffered
            service.buffered_input.set(self, self._held + self._put_off_size)

    def _begin_put_off(self, out: list[bytes]) -> None:
        """Begin calls of which many have come at once, as long as their answers are taken."""
        put_off = self._put_off
        while put_off and not self._inflow.blocked and not self._closed:
            some = [put_off.popleft() for _ in range(min(_AT_ONCE, len(put_off)))]
            self._bridge.start_each(self._serve, some)
            if out and not self._transport.is_closing():
                self._service.bytes_out += sum(map(len, out))
                self._transport.write(b"".join(out))
            out.clear()
        if not put_off:
            self._put_off_size = 0
        self._held = -1  # what is put off counts, too

    def _send(self, frame: bytes) -> None:
        """Send a frame; what is sent while input is looked at goes out together."""
        if self._out is not None:
            self._out.append(frame)
        elif not self._closed:
            self._service.bytes_out += len(frame)
            self._transport.write(frame)
            if self._inflow.blocked:
                self._note_untaken()

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
        if self._put_off:
            self._service.loop.call_soon(self.data_received, b"")

    def connection_lost(self, _: Exception | None) -> None:
        """End what still waits for this gateway."""
        self._closed = True
        self._put_off.clear()
        self._service.let_go(self)
        self._service.buffered_input.gone(self)
        self._give_up_waiting()
        for strand in list(self._under_way.values()):
            if strand in self._under_way.values():  # what was thrown into another may have ended this one
                self._bridge.throw(strand, GatewayClosedError("the gateway closed the connection"))

    # --- calls

    def _serve(self, strand: Strand, call: Call) -> None:
        """Answer one call. Runs in a strand."""
        service = self._service
        source: LeanSource = call.source  # type: ignore[assignment]  # `cast` would be a call for each call
        id = source.id
        under_way = self._under_way
        if id in under_way:
            self._end_for_protocol_error(ProtocolError(f"call {id} is under way already"))
            return
        under_way[id] = strand
        service.started += 1
        service.lean_calls += 1
        try:
            chain = self._chains.get(call.conf_token) or self._chain_of_others(strand, call)
            if chain is None:
                frame = self._refuse(id, Refusal.UNKNOWN_CONF)
            elif service.started - service.ended > service.max_calls:
                frame = self._refuse_for_load(id, chain)
            else:
                chain.last_used = self._confs.now
                call.route = call.place = chain.key
                call.asker = source.teller = self
                strand.call = call
                frame = self._answer(chain, strand, call, source)
        except GatewrightError as error:
            if isinstance(error, GatewayClosedError) and self.is_over:
                service.count_refused("gateway_closed")
                return  # nobody is left to be answered
            frame = self._refusal_of(error, call)
        except BaseException as error:  # ours, not the plugin's: the gateway must have an answer, and not pass
            if strand.dies:
                raise
            service.failures.report(
                "request refused: internal error", kind="internal", route=call.route, error=error, traceback=True
            )
            frame = self._refuse(id, Refusal.UNAVAILABLE)
        finally:
            del under_way[id]
            service.ended += 1
            if service.draining:
                service.call_ended()
        self._send(frame)

    def _answer(self, chain: Chain, strand: Strand, call: Call, source: LeanSource) -> bytes:
        if type(call) is LeanRequestCall:
            learner = chain.learnt.get("request") or self._plans.request(chain)
            source.note = learner.note
            response = chain.run_request(call, strand)
            if response is not None:
                self._service.answered += 1
            return request_answer(call, response, learner.after_call(source.plan))
        self._service.responses += 1
        learner = chain.learnt.get("response") or self._plans.response(chain)
        source.note = learner.note
        chain.run_response(call, strand)
        return response_answer(call, learner.after_call(source.plan))

    def _refuse_for_load(self, id: int, chain: Chain) -> bytes:
        self._service.failures.report(
            "too many calls under way, request refused",
            kind="overloaded", route=chain.key, limit=self._service.max_calls,
        )  # fmt: skip
        return self._refuse(id, Refusal.UNAVAILABLE, "too many calls under way")

    def _log(self, strand: Strand, call: Call) -> None:
        """Let plugins know how a request ended. Runs in a strand."""
        service = self._service
        if service.started - service.ended >= service.max_calls:
            service.count_refused("log")
            return
        service.started += 1
        service.lean_calls += 1
        service.logs += 1
        try:
            chain = self._chains.get(call.conf_token) or self._chain_of_others(strand, call)
            if chain is None or not self._plans.is_kept(chain):  # nobody waits for this answer, but it's understood
                self._send(self._session.refuse(call.source.id, Refusal.UNKNOWN_CONF))
            if chain is None:
                service.count_refused("log")
                return
            source = cast("LeanSource", call.source)
            call.route = call.place = chain.key
            call.asker = source.teller = self
            source.note = _nothing
            strand.call = call
            self._log_phase(chain, call, strand)
        except BaseException as error:  # ours, not a plugin's; there is nobody to be answered
            if strand.dies:
                raise
            service.failures.report("a log phase is lost", kind="internal", error=error, traceback=True)
        finally:
            service.ended += 1
            if service.draining:
                service.call_ended()

    def _log_phase(self, chain: Chain, call: Call, strand: Strand) -> None:
        chain.run_log(call, strand)

    def _chain_of_others(self, strand: Strand, call: Call) -> Chain | None:
        """The chain of a token that another worker may have given out."""
        link = self._service.link
        return link.lookup(call.conf_token, strand) if link is not None else None

    def _refusal_of(self, error: GatewrightError, call: Call) -> bytes:
        if isinstance(error, OutdatedError):  # before any plugin ran
            return self._refuse(call.source.id, Refusal.UNKNOWN_CONF)
        if not isinstance(error, CallRefusedError):
            self._service.failures.report("request refused", kind="inexpressible", route=call.route, error=error)
        return self._refuse(call.source.id, Refusal.UNAVAILABLE, str(error))

    def _refuse(self, id: int, refusal: Refusal, text: str = "") -> bytes:
        self._service.count_refused(refusal.value)
        return self._session.refuse(id, refusal, text[:_LONGEST_TEXT])

    # --- all else that the gateway sends

    def _other_event(self, event: Event) -> None:
        if isinstance(event, Told):
            self._on_told(event)
        elif isinstance(event, Logged):
            self._bridge.start(self._log, event.call)
        elif isinstance(event, Prepared):
            if self._plans.to_load(name for name, _ in event.conf):
                self._bridge.start(self._prepare_after_loading, event)
            else:
                self._prepare(event)
        elif isinstance(event, Hello):
            settings = self._service.settings
            self._send(self._session.hello(event.id, workers=max(worker_count(settings), 1)))

    def _prepare(self, event: Prepared) -> None:
        plans, seconds = self._plans.of(event.conf, event.phases)

        def answer(token: int | None) -> None:
            if self._closed:
                return
            if token is None:
                self._send(self._refuse(event.id, Refusal.UNAVAILABLE, "no token can be had now"))
            else:
                self._send(self._session.token(event.id, token, plans, int(min(seconds, _LONGEST_WAIT) * 1000)))

        self._service.prepare(f"{event.key}:{self._plans.promise(plans, seconds)}", event.conf, answer)

    def _prepare_after_loading(self, strand: Strand, event: Prepared) -> None:
        """As `_prepare`, once plugins are imported that come along. Runs in a strand."""
        try:
            self._plans.load(name for name, _ in event.conf)
            self._prepare(event)
        except BaseException as error:  # the gateway must have an answer
            if strand.dies:
                raise
            self._service.failures.report(
                "configuration refused: its plugins can't be imported now", kind="internal", error=error, traceback=True
            )
            self._send(self._refuse(event.id, Refusal.UNAVAILABLE, "its plugins can't be imported now"))

    def _end_for_protocol_error(self, error: ProtocolError) -> None:
        self._service.failures.report("connection closed: the peer broke the protocol", kind="protocol", error=error)
        self._send(self._session.refuse(0, Refusal.BAD_REQUEST, str(error)[:_LONGEST_TEXT]))
        self._closed = True

    # --- ending

    is_awaited = False

    def end_if_stalled(self, now: float, limit: float) -> None:
        """End the connection if a frame stayed incomplete, or an answer was not taken, for `limit` seconds."""
        untaken = self._transport.get_write_buffer_size() > 0
        if not self._session.in_frame and not untaken:
            self._stalled_since = 0.0
        elif not self._stalled_since:
            self._stalled_since = now
        elif now - self._stalled_since >= limit:
            what = "an answer was not taken" if untaken else "a frame stayed incomplete"
            self._service.failures.report(f"connection closed: {what} for {limit:g} s", kind="stalled")
            self._transport.abort()

    def end_for_room(self, held: int) -> None:
        """Close the connection, which holds more than the others, because there is no room."""
        self._closed = True
        self._service.count_refused(Refusal.UNAVAILABLE.value)
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Ask the gateway to close the connection when no call is under way; its next calls go elsewhere."""
        self.give_back()

    def give_back(self) -> bool:
        """Have the gateway take its next calls to another worker; tells whether that was asked for only now.

        A busy connection is never idle, so it can't be handed over between two calls: the gateway opens another one
        and closes this one when the calls under way have ended.
        """
        if self._closed or self._told_to_leave:
            return False
        self._told_to_leave = True
        self._send(self._session.leave())
        return True

    def abort(self) -> None:
        """Close the connection now: what waits for an answer on it is refused by the gateway."""
        self._transport.close()


def _nothing(_: str) -> None:
    """What a log phase looks at is not learnt: it is always told all."""
