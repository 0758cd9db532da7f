"""One phase of one request: a handler at work, and the PDK calls in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from gatewright.errors import GatewayClosedError, GatewrightError, OverloadedError, PluginError
from gatewright.gateways.kong.events import Answer, KongSession
from gatewright.gateways.kong.kong_object import Kong, LuaStyleAsyncKong, LuaStyleKong
from gatewright.gateways.kong.pdk import TERMINAL
from gatewright.gateways.kong.phases import PROMPT
from gatewright.runtime.pdk import PdkError, PhaseExit
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.kong.asking import Asking, Waiter
from gatewright.server.worker.service import Service

__all__ = ["MAY_EXIT", "REFUSAL", "Event", "Way", "conclude"]

MAY_EXIT: Final = frozenset(("rewrite", "access", "response", "preread"))
"""Phases in which Kong lets a plugin answer the request (pdk/response.lua)."""
REFUSAL: Final = (500, b'{"message":"An unexpected error occurred"}', {"content-type": "application/json"})
"""What a request is answered with that failed: the arguments of `kong.response.exit`."""
_MOST_OPEN: Final = 1000
"""PDK calls of one event that wait."""
_LOGGABLE: Final = frozenset((str, int, list, dict))
"""What the PDK logs as it is; anything else as its text (kong-pdk, pdk/__init__.py)."""


class Way(Protocol):
    """The way to Kong that the next thing about an event is to be said on: a connection, here or in another worker."""

    session: KongSession
    last: Event | None
    """Whose call was the last thing said on it."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def write_ahead(self, data: bytes) -> None:
        """Send bytes that are not the last for what Kong sent."""

    def event_over(self, event: Event, *, exited: bool) -> None:
        """An event has ended."""


class Home(Protocol):
    """What an event has to know of the process that it belongs to."""

    service: Service
    in_lua_style: Mapping[str, bool]
    """Whether a plugin's PDK calls give `(value, error)`, by its name."""
    tick: int
    """Counts seconds."""

    def forget(self, event: Event) -> None:
        """Kong will ask nothing more about an event."""

    def new_event_number(self) -> int:
        """An id that no event has had."""


class Event(Asking):
    """One phase of one request: runs a handler, and carries its PDK calls out."""

    __slots__ = ()

    _home: Home
    connection: Way | None

    @property
    def route(self) -> str:
        """Which configuration it's for, in logs and traces."""
        return self.chain.key

    @property
    def id(self) -> int:
        """A number that no other event has."""
        if not self.number:
            self.number = self._home.new_event_number()
        return self.number

    @property
    def is_over(self) -> bool:
        """Kong is gone, or has its answer."""
        return self.over

    @property
    def sync_pdk(self) -> Any:
        """The `kong` object for `def` handlers."""
        return (LuaStyleKong if self._home.in_lua_style[self.chain.name] else Kong)(self.call)

    @property
    def async_pdk(self) -> Any:
        """The `kong` object for `async def` handlers."""
        return (LuaStyleAsyncKong if self._home.in_lua_style[self.chain.name] else Kong)(self.call_later)

    # --- what handlers call (see `Asking`)

    def put_otherwise(self, method: str, args: Sequence[Any], waiter: Waiter) -> bool:
        """Send a call, be it a usual one or not; tells whether an answer comes for the waiter."""
        if self.over:
            raise GatewayClosedError("the event is over: Kong can't be asked about it any more")
        connection = self.connection
        if connection is None:  # one call at a time: that's all that the protocols can carry
            if self._queue is None:
                self._queue = deque()
            if len(self._queue) >= _MOST_OPEN:
                raise OverloadedError(f"{_MOST_OPEN} PDK calls of this event wait for their turn")
            self._queue.append((method, args, waiter))
            return True
        if self._known and method.startswith("kong.service.request."):
            self._forget_changed(method)
        elif method.startswith("kong.log") and method != "kong.log.set_serialize_value":
            args = [arg if type(arg) in _LOGGABLE else str(arg) for arg in args]
        session = connection.session
        data = session.call(self.ticket, self.number, method, args)
        if method in TERMINAL:
            self.connection = None
            self.over = True
            connection.write(data)
            connection.event_over(self, exited=True)
            raise PhaseExit
        self._service.pdk_calls += 1
        if session.ahead:
            connection.write_ahead(data)
            return False
        self._waiter = waiter
        self.connection = None
        self._asked, self._since = method, self._home.tick
        connection.last = self
        connection.write(data)
        return True

    @property
    def _is_buffered(self) -> bool:  # for whoever has a response phase (plugins_iterator.lua, `buffered_proxying`)
        return any("response" in step.phases for step in self.chain.steps)

    @property
    def _may_ask(self) -> bool:
        return self.connection is not None

    # --- after the handler

    def say_last(self, calls: list[tuple[str, tuple[Any, ...]]]) -> None:
        """Have calls made that give nothing, the last of the event. To be called in its strand.

        Nobody has to wait for their answers, but where the event is recorded, or Kong is far behind: then it raises
        what `call` does.
        """
        if calls and self.connection is not None and self.connection.session.moves and self._service.recorder is None:
            calls.reverse()
            self.rest = calls
            return
        for method, args in calls:
            if self._put(method, args, self.strand):
                answer = self._bridge.wait_for_resume(self._forget)
                if isinstance(answer, BaseException):
                    raise answer

    def go_on(self, connection: Way) -> bool:
        """Say the next of what is still to be said, if anything is; tells whether that is so.

        Raises:
            PluginError: it can't be sent.
        """
        if not self.rest or self.verdict != "done":
            return False
        method, args = self.rest.pop()
        data = connection.session.call(self.ticket, self.number, method, args)
        self._service.pdk_calls += 1
        self.connection = None
        self._asked, self._since = method, self._home.tick
        connection.last = self
        connection.write(data)
        return True

    def finish_otherwise(self) -> None:
        """As `finish`, also for what isn't usual."""
        connection = self.connection
        self.connection, self.over = None, True
        if connection is not None:
            connection.write(connection.session.done(self.ticket, self.number))
            connection.event_over(self, exited=False)

    def count_end(self) -> None:
        """It is over by now, if it has outlived its handler."""
        if self.outlives:
            self.outlives = False
            self._service.ended += 1
            if self._service.draining:
                self._service.call_ended()

    def _take_last(self, connection: Way, answer: Answer) -> None:
        """Kong has answered after the handler's end."""
        try:
            if answer.error and self.rest is not None and self.verdict == "done":
                raise PdkError(answer.error)
            if self.go_on(connection):
                return
        except GatewrightError as error:
            self._service.failures.report(
                "request refused", kind="plugin_error", plugin=self.chain.name, route=self.chain.key, error=error
            )
            self.verdict = "refuse"
        conclude(connection, self)

    # --- what the connection tells

    def take_answer(self, connection: Way, answer: Answer) -> None:
        """Kong has answered the call under way."""
        self._asked = ""
        self.connection, self.ticket = connection, answer.ticket
        if self.verdict:
            self._take_last(connection, answer)
            return
        self._answer(PdkError(answer.error) if answer.error else answer.value)

    def lost(self, why: str = "Kong closed the connection") -> None:
        """Kong is gone: whoever waits, waits in vain."""
        self.release()
        if self.strand is not None:
            self._bridge.throw(self.strand, GatewayClosedError(why))

    def overtaken(self) -> None:
        """Kong has gone on with something else on the connection that it would have used for the next step.

        It takes the connection that it gave back last. So if it had carried a call out, one that waits for nothing, the
        step would have come first: the call failed there, and nobody will say so (mp_rpc.lua, `bridge_loop`).
        """
        if self.connection is None and self._asked in PROMPT and not self._is_concluded:
            self._failed_in_kong()

    def waits_since(self, tick: int) -> bool:
        """Whether Kong has been at work on a call since this second or longer."""
        return self.connection is None and self._since <= tick and not self._is_concluded

    def give_up_waiting(self) -> None:
        """Kong has had its time for a call that takes none."""
        if self._asked in PROMPT:
            self._failed_in_kong()

    @property
    def _is_concluded(self) -> bool:
        return self.over and not self.verdict

    def _failed_in_kong(self) -> None:
        self._home.forget(self)
        self.count_end()
        self._service.failures.report(
            "a PDK call failed in Kong, which ended the phase: its error log says why", kind="pdk_call_failed",
            plugin=self.chain.name, route=self.chain.key, method=self._asked, phase=self.phase,
        )  # fmt: skip
        self.lost(f"{self._asked} failed in Kong, which ended the phase")

    def release(self) -> None:
        """Let go on who still waits for an answer, in a thread or a task."""
        self.over = True
        if self._waiter is None and not self._queue:
            return
        waiting, self._waiter = [self._waiter, *(waiter for _, _, waiter in self._queue or ())], None
        self._queue = None
        for waiter in waiting:
            if isinstance(waiter, Strand):
                if waiter is not self.strand:
                    self._service.loop.call_soon(self._disappoint, waiter)
            elif waiter is not None and not waiter.done():
                waiter.set_exception(GatewayClosedError("the event is over"))

    def _disappoint(self, strand: Strand) -> None:
        """Let another event's strand go on that waits for this one's answer."""
        if self._bridge.waits(strand, self._forget):
            self._bridge.throw(strand, PluginError("the other event, which was asked, is over"))


def conclude(connection: Way, event: Event) -> None:
    """Say how an event ended; whoever still holds its `kong` can no longer use it."""
    event.connection, event.over = None, True
    event.count_end()
    # In a phase without an answer to refuse with, all that can be done is to let the event end.
    refused = event.verdict == "refuse" and event.phase in MAY_EXIT
    if refused:
        connection.write(connection.session.call(event.ticket, event.number, "kong.response.exit", REFUSAL))
    else:
        connection.write(connection.session.done(event.ticket, event.number))
    connection.event_over(event, exited=refused)
