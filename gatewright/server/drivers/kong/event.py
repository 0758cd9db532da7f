"""One phase of one request: a handler at work, and the PDK calls in it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from greenlet import getcurrent

from gatewright.errors import GatewayClosedError, PluginError
from gatewright.gateways.kong.events import Answer, KongSession
from gatewright.gateways.kong.kong_object import Kong, LuaStyleAsyncKong, LuaStyleKong
from gatewright.gateways.kong.pdk import TERMINAL
from gatewright.runtime.bridge import Strand
from gatewright.runtime.chain import Chain
from gatewright.runtime.pdk import PdkError, PhaseExit
from gatewright.server.worker.service import Service

__all__ = ["REFUSAL", "Event", "Way", "conclude"]

_MAY_EXIT: Final = frozenset(("rewrite", "access", "response", "preread"))
"""Phases in which Kong lets a plugin answer the request (pdk/response.lua)."""
_UNCHANGING: Final = frozenset(
    (
        "kong.client.get_ip", "kong.client.get_forwarded_ip", "kong.client.get_port", "kong.client.get_forwarded_port",
        "kong.node.get_id", "kong.nginx.get_subsystem", "kong.request.get_scheme", "kong.request.get_host",
        "kong.request.get_port", "kong.request.get_forwarded_scheme", "kong.request.get_forwarded_host",
        "kong.request.get_forwarded_port", "kong.request.get_http_version", "kong.request.get_method",
        "kong.request.get_path", "kong.request.get_path_with_query", "kong.request.get_raw_query",
        "kong.request.get_query_arg", "kong.request.get_query", "kong.request.get_header", "kong.request.get_headers",
        "kong.request.get_raw_body", "kong.request.get_uri_captures",
    )
)  # fmt: skip
"""What the client's request is made of: asked for once in a phase, unless the handler changes the request."""

_CHANGEABLE: Final = ("header", "query", "method", "body")
"""Words in the names of methods that change a request, and of those that then give something else."""

REFUSAL: Final = (500, b'{"message":"An unexpected error occurred"}', {"content-type": "application/json"})
"""What a request is answered with that failed: the arguments of `kong.response.exit`."""
_LOGGABLE: Final = frozenset((str, int, list, dict))
"""What the PDK logs as it is; anything else as its text (kong-pdk, pdk/__init__.py)."""

_Future = asyncio.Future[Any] | concurrent.futures.Future[Any]
_Waiter = Strand | _Future


class Way(Protocol):
    """The way to Kong that the next thing about an event is to be said on: a connection, here or in another worker."""

    session: KongSession

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

    def new_event_number(self) -> int:
        """An id that no event has had."""


class Event:
    """One phase of one request: runs a handler, and carries its PDK calls out."""

    __slots__ = (
        "_bridge", "_home", "_known", "_queue", "_service", "_waiter", "chain", "connection", "number", "over",
        "phase", "strand", "ticket", "trace", "verdict",
    )  # fmt: skip

    def __init__(
        self, home: Home, chain: Chain, phase: str, connection: Way | None, ticket: int, strand: Strand | None
    ) -> None:
        self.chain = chain
        self.phase = phase
        self.connection = connection
        self.ticket = ticket
        self.strand = strand
        self.over = False
        self.verdict = ""
        """How it ended while Kong was still at work (`refuse` or `done`): said as soon as Kong answers."""
        self._home = home
        self._service = home.service
        self._bridge = home.service.bridge
        self._known: dict[tuple[str, tuple[Any, ...]], Any] | None = None
        self._waiter: _Waiter | None = None
        self._queue: deque[tuple[str, Sequence[Any], _Waiter]] | None = None
        self.trace: Any = None
        self.number = 0
        """Its id, where one was asked for (see `id`)."""

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
    def sync_pdk(self) -> Any:
        """The `kong` object for `def` handlers."""
        return (LuaStyleKong if self._home.in_lua_style[self.chain.name] else Kong)(self.call)

    @property
    def async_pdk(self) -> Any:
        """The `kong` object for `async def` handlers."""
        return (LuaStyleAsyncKong if self._home.in_lua_style[self.chain.name] else Kong)(self.call_later)

    # --- what handlers call

    def call(self, method: str, args: Sequence[Any]) -> Any:
        """Call and wait, in a strand or a plugin's thread.

        Raises:
            PdkError: Kong says that it failed.
            PhaseExit: the method ends the request.
        """
        key = (method, tuple(args)) if method in _UNCHANGING else None
        if key is not None and self._known and key in self._known:
            return _own_copy(self._known[key])
        bridge = self._bridge
        strand: Any = getcurrent()
        if strand is not self.strand or bridge.stepping is not None:
            strand = bridge.current() if bridge.in_loop_thread else None
        if strand is not None:
            if not self._put(method, args, strand):
                return None
            value = bridge.wait_for_resume(self._forget)
        else:
            waiting: concurrent.futures.Future[Any] = concurrent.futures.Future()
            self._service.loop.call_soon_threadsafe(self._put_for, method, args, waiting)
            value = waiting.result()
        value = _value_of(value)
        if key is not None:
            self._remember(key, value)
        return value

    async def call_later(self, method: str, args: Sequence[Any]) -> Any:
        """Call and wait, in a task. Raises what `call` does."""
        key = (method, tuple(args)) if method in _UNCHANGING else None
        if key is not None and self._known and key in self._known:
            return _own_copy(self._known[key])
        bridge = self._bridge
        # Only its own strand is let go on if the event ends meanwhile.
        strand = bridge.strand_of_task()
        if strand is not None and strand is self.strand:
            if not self._put(method, args, strand):
                return None
            value = await bridge.pause(self._forget)
        else:
            future = self._service.loop.create_future()
            if not self._put(method, args, future):
                return None
            value = await future
        value = _value_of(value)
        if key is not None:
            self._remember(key, value)
        return value

    def _put(self, method: str, args: Sequence[Any], waiter: _Waiter) -> bool:
        """Send a call; tells whether an answer comes for the waiter."""
        if self.over:
            raise GatewayClosedError("the event is over: Kong can't be asked about it any more")
        connection = self.connection
        if connection is None:  # one call at a time: that's all that the protocols can carry
            if self._queue is None:
                self._queue = deque()
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
        connection.write(data)
        return True

    def _put_for(self, method: str, args: Sequence[Any], waiting: _Future) -> None:
        """Send a call of somebody who waits elsewhere."""
        try:
            if not self._put(method, args, waiting):
                waiting.set_result(None)
        except BaseException as error:
            waiting.set_exception(error)

    def _remember(self, key: tuple[str, tuple[Any, ...]], value: Any) -> None:
        if self._known is None:
            self._known = {}
        self._known[key] = _own_copy(value)

    def _forget_changed(self, method: str) -> None:
        # `kong.request` gives what the client sent, until that is changed for the service.
        for part in _CHANGEABLE:
            if part in method and self._known is not None:
                self._known = {key: value for key, value in self._known.items() if part not in key[0]}

    def _forget(self, strand: Strand) -> None:
        if self._waiter is strand:
            self._waiter = None
        if self._queue:
            self._queue = deque(entry for entry in self._queue if entry[2] is not strand)

    # --- what the connection tells

    def take_answer(self, connection: Way, answer: Answer) -> None:
        """Kong has answered the call under way."""
        self.connection, self.ticket = connection, answer.ticket
        if self.verdict:
            conclude(connection, self)
            return
        waiter, self._waiter = self._waiter, None
        value = PdkError(answer.error) if answer.error else answer.value
        go_on: list[tuple[Strand, Any]] = []
        if isinstance(waiter, Strand):
            go_on.append((waiter, value))
        elif waiter is not None and not waiter.done():
            waiter.set_result(value)
        while self._queue and self.connection is not None:  # before the strand asks for the next thing
            method, args, waiter = self._queue.popleft()
            if isinstance(waiter, Strand):
                self._put_for_strand(method, args, waiter, go_on)
            elif not waiter.done():
                self._put_for(method, args, waiter)
        for strand, value in go_on:
            self._bridge.resume(strand, value)

    def _put_for_strand(
        self, method: str, args: Sequence[Any], strand: Strand, go_on: list[tuple[Strand, Any]]
    ) -> None:
        try:
            if not self._put(method, args, strand):
                go_on.append((strand, None))
        except BaseException as error:
            go_on.append((strand, error))

    def lost(self) -> None:
        """Kong is gone: whoever waits, waits in vain."""
        self.release()
        if self.strand is not None:
            self._bridge.throw(self.strand, GatewayClosedError("Kong closed the connection"))

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
    # In a phase without an answer to refuse with, all that can be done is to let the event end.
    refused = event.verdict == "refuse" and event.phase in _MAY_EXIT
    if refused:
        connection.write(connection.session.call(event.ticket, event.number, "kong.response.exit", REFUSAL))
    else:
        connection.write(connection.session.done(event.ticket, event.number))
    connection.event_over(event, exited=refused)


def _own_copy(value: Any) -> Any:
    """What handlers do with a table is not for others to see."""
    return copy.deepcopy(value) if type(value) in (dict, list) else value


def _value_of(value: Any) -> Any:
    if isinstance(value, BaseException):  # what Kong sends is none
        raise value
    return value
