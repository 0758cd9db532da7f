"""Driving a plugin server's connections: instances, events, and the PDK calls in them, over either protocol."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from time import time
from typing import Any, Final, cast

import msgspec

from gatewright.errors import ConfigError, GatewayClosedError, GatewrightError, ProtocolError
from gatewright.gateways.kong.dump import plugin_info
from gatewright.gateways.kong.events import (
    Answer,
    CloseInstance,
    HandleEvent,
    KongEvent,
    KongSession,
    Query,
    StartInstance,
)
from gatewright.gateways.kong.pdk import TERMINAL
from gatewright.runtime.bridge import Strand
from gatewright.runtime.chain import Chain
from gatewright.runtime.pdk import AsyncPdk, PdkError, PhaseExit, SyncPdk
from gatewright.server import messages
from gatewright.server.native_on_kong import run_access, run_response
from gatewright.server.service import Service

__all__ = ["Event", "Instances", "PluginServerConnection", "driver"]

_MAY_EXIT: Final = frozenset(("rewrite", "access", "response", "preread"))
"""Phases in which Kong lets a plugin answer the request (pdk/response.lua)."""
_NO_INSTANCE: Final = "no plugin instance #%s"  # Kong looks for these words, and then starts one anew
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
"""What the client's request is made of: whatever plugins change, these stay within a phase, and are asked for once."""

_REFUSAL: Final = (500, b'{"message":"An unexpected error occurred"}', {"content-type": "application/json"})
_LOGGABLE: Final = frozenset((str, int, list, dict))
"""What the PDK logs as it is; anything else as its text (kong-pdk, pdk/__init__.py)."""
_LINGER_SECONDS: Final = 5.0
_FORGET_SECONDS: Final = 120.0  # Kong itself gives up after 60
_PID_BITS: Final = 24  # with an event counter of 28 bits, within what Lua's numbers hold exactly
_PID_MASK: Final = (1 << _PID_BITS) - 1

_Waiter = Strand | asyncio.Future[Any] | concurrent.futures.Future[Any]


class Instances:
    """The instances and the events of a process, which all its connections share.

    An instance is a configuration with a token, as with any gateway, so all workers know it as soon as Kong does. Each
    start has a configuration of its own (a random number is part of it), so that no id is given twice, nor by the next
    process for something else. An event's id names the worker that runs it; events count on from a random number.
    """

    def __init__(self, service: Service, *, lua_style: bool) -> None:
        """Make an empty table.

        Args:
            service: the process's service.
            lua_style: PDK calls give `(value, error)`.
        """
        self.service = service
        self.lua_style = lua_style
        self.events: dict[int, Event] = {}
        self.connections: dict[int, PluginServerConnection] = {}
        self._next_event = secrets.randbits(24)
        self._next_connection = 0
        self._made_for_kong: dict[str, bool] = {}
        self._pid = os.getpid()

    def start(self, name: str, json_text: bytes, answer: Callable[[int | None, Any], None]) -> None:
        """Make an instance; `answer` gets its id and its configuration.

        A plugin that is unknown or whose configuration is invalid gives one that refuses all.

        Raises:
            ConfigError: the configuration is not JSON.
        """
        try:
            config = json.loads(json_text) if json_text else {}
        except ValueError as error:
            raise ConfigError(f"the configuration of {name} is not JSON: {error}") from None
        text = json.dumps(config if self.made_for_kong(name) else _own_config(config))
        key = f"{name}#{secrets.token_hex(8)}"
        self.service.prepare(key, [(name, text)], lambda number: answer(number, config))

    def find(self, number: int, strand: Strand) -> Chain | None:
        """The chain of an instance, wherever it was started. To be called in a strand."""
        chain = self.service.confs.get(number)
        if chain is None and self.service.link is not None:
            chain = self.service.link.lookup(number, strand)
        return chain

    def close(self, number: int) -> None:
        """Drop an instance, everywhere."""
        if self.service.link is not None:
            self.service.link.forget(number)
        else:
            self.service.confs.forget(number)

    def made_for_kong(self, name: str) -> bool:
        """Whether a plugin is in kong-pdk's form."""
        known = self._made_for_kong.get(name)
        if known is None:
            plugin = self.service.builder.plugins.get(name)
            known = self._made_for_kong[name] = getattr(plugin, "kong_schema", None) is not None
        return known

    def new_event_number(self) -> int:
        """An id that no event has had; which worker's can be told from it."""
        self._next_event += 1
        return self._next_event << _PID_BITS | self._pid

    def add(self, connection: PluginServerConnection) -> int:
        """Number a connection."""
        self._next_connection += 1
        self.connections[self._next_connection] = connection
        return self._next_connection

    # --- steps that came to another worker's connection

    def is_elsewhere(self, event: int) -> bool:
        """Whether another worker runs an event."""
        return self.service.link is not None and event & _PID_MASK != self._pid

    def forward(self, connection: int, answer: Answer) -> None:
        """Send an answer of Kong's to the worker whose event it's for."""
        event = cast("int", answer.event)
        content = msgspec.msgpack.encode([answer.value, answer.error])
        self._post(messages.Letter(event & _PID_MASK, self._pid, connection, False, answer.ticket, event, content))

    def send_back(self, letter: messages.Letter, data: bytes) -> None:
        """Send bytes for a connection of another worker's."""
        self._post(messages.Letter(letter.sender, self._pid, letter.connection, True, 0, 0, data))

    def _post(self, letter: messages.Letter) -> None:
        cast("Any", self.service.link).send(messages.Forward(letter))

    def on_letter(self, letter: messages.Letter, delivered: bool, new_session: Callable[[], KongSession]) -> None:
        """A letter has come, or one of ours came back."""
        if delivered and not letter.back:
            there = _Elsewhere(self, letter, new_session())
            value, error = msgspec.msgpack.decode(letter.content)
            event = self.events.get(letter.event)
            if event is None:
                there.refuse_number(letter.ticket, letter.event)
            else:
                event.take_answer(there, Answer(letter.ticket, letter.event, value, error))
            return
        connection = self.connections.get(letter.connection)
        if connection is not None and letter.back and delivered:
            connection.write(letter.content)
        elif connection is not None and not letter.back:
            connection.refuse_number(letter.ticket, letter.event)


class _Elsewhere:
    """Another worker's connection, for as long as one answer takes."""

    def __init__(self, instances: Instances, letter: messages.Letter, session: KongSession) -> None:
        self.session = session
        self._instances = instances
        self._letter = letter

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._instances.send_back(self._letter, data)

    def event_over(self, event: Event, *, exited: bool) -> None:
        """An event has ended."""
        self._instances.events.pop(event.number, None)

    def conclude(self, event: Event) -> None:
        """Say how an event ended."""
        _conclude(self, event)

    def refuse_number(self, ticket: int, event: int) -> None:
        """Answer a request with 500 whose event is gone."""
        self.write(self.session.call(ticket, event, "kong.response.exit", _REFUSAL))


def _conclude(connection: PluginServerConnection | _Elsewhere, event: Event) -> None:
    # In a phase without an answer to refuse with, all that can be done is to let the event end.
    refused = event.verdict == "refuse" and event.phase in _MAY_EXIT
    if refused:
        connection.write(connection.session.call(event.ticket, event.number, "kong.response.exit", _REFUSAL))
    else:
        connection.write(connection.session.done(event.ticket, event.number))
    connection.event_over(event, exited=refused)


def _own_config(config: Any) -> Any:
    """The configuration without Kong's own keys (`__seq__`, ...) and what was left empty."""
    if not isinstance(config, dict):
        return config
    return {key: value for key, value in config.items() if not key.startswith("__") and value is not None}


class Event:
    """One phase of one request: runs a handler, and carries its PDK calls out."""

    def __init__(self, number: int, name: str, chain: Chain, phase: str, instances: Instances) -> None:
        self.number = number
        self.name = name
        self.chain = chain
        self.phase = phase
        self._lua_style = instances.lua_style and instances.made_for_kong(name)
        self._service = instances.service
        self._bridge = instances.service.bridge
        self._known: dict[tuple[str, tuple[Any, ...]], Any] = {}
        self._waiter: _Waiter | None = None
        self._busy: asyncio.Lock | None = None
        self.connection: PluginServerConnection | _Elsewhere | None = None
        self.ticket = 0
        self.strand: Strand | None = None
        self.over = False
        self.verdict = ""
        """How it ended while Kong was still at work (`refuse` or `done`): said as soon as Kong answers."""

    @property
    def sync_pdk(self) -> SyncPdk:
        """The `kong` object for `def` handlers."""
        return SyncPdk(self, lua_style=self._lua_style)

    @property
    def async_pdk(self) -> AsyncPdk:
        """The `kong` object for `async def` handlers."""
        return AsyncPdk(self, lua_style=self._lua_style)

    # --- what handlers call (see `runtime.pdk.Caller`)

    def call(self, method: str, args: Sequence[Any]) -> Any:
        """Call and wait."""
        key = (method, tuple(args)) if method in _UNCHANGING else None
        if key is not None and key in self._known:
            return self._known[key]
        if not self._bridge.in_loop_thread:
            waiting: concurrent.futures.Future[Any] = concurrent.futures.Future()
            self._service.loop.call_soon_threadsafe(self._put_for_thread, method, args, waiting)
            value = waiting.result()
        else:
            strand = self._bridge.current()
            self._put(method, args, strand)
            value = self._bridge.wait_for_resume(self._forget)
        value = _value_of(value)
        if key is not None:
            self._known[key] = value
        return value

    def call_later(self, method: str, args: Sequence[Any]) -> Awaitable[Any]:
        """Call and give something to await."""
        return self._call_and_wait(method, args)

    async def _call_and_wait(self, method: str, args: Sequence[Any]) -> Any:
        key = (method, tuple(args)) if method in _UNCHANGING else None
        if key is not None and key in self._known:
            return self._known[key]
        if self._busy is None:
            self._busy = asyncio.Lock()
        async with self._busy:  # one call at a time: that's all that the protocols can carry
            future = self._service.loop.create_future()
            self._put(method, args, future)
            value = _value_of(await future)
        if key is not None:
            self._known[key] = value
        return value

    def _put(self, method: str, args: Sequence[Any], waiter: _Waiter) -> None:
        connection = self.connection
        if method.startswith("kong.log"):
            args = [arg if type(arg) in _LOGGABLE else str(arg) for arg in args]
        if connection is None:
            if self.over:
                raise GatewayClosedError("the event is over: Kong can't be asked about it any more")
            raise GatewrightError("another PDK call of this event is under way: call one after the other")
        data = connection.session.call(self.ticket, self.number, method, args)
        self.connection = None
        if method in TERMINAL:
            self.over = True
            connection.write(data)
            connection.event_over(self, exited=True)
            raise PhaseExit
        self._waiter = waiter
        questions = self._service.questions
        questions["pdk"] = questions.get("pdk", 0) + 1
        connection.write(data)

    def _put_for_thread(self, method: str, args: Sequence[Any], waiting: concurrent.futures.Future[Any]) -> None:
        try:
            self._put(method, args, waiting)
        except BaseException as error:
            waiting.set_exception(error)

    def _forget(self) -> None:
        self._waiter = None

    # --- what the connection tells

    def take_answer(self, connection: PluginServerConnection | _Elsewhere, answer: Answer) -> None:
        """Kong has answered the call under way."""
        self.connection, self.ticket = connection, answer.ticket
        if self.verdict:
            connection.conclude(self)
            return
        waiter, self._waiter = self._waiter, None
        value = PdkError(answer.error) if answer.error else answer.value
        if isinstance(waiter, Strand):
            self._bridge.resume(waiter, value)
        elif waiter is not None and not waiter.done():
            waiter.set_result(value)

    def lost(self) -> None:
        """Kong is gone: whoever waits, waits in vain."""
        self.release()
        if self.strand is not None:
            self._bridge.throw(self.strand, GatewayClosedError("Kong closed the connection"))

    def release(self) -> None:
        """Let go on who still waits for an answer, in a thread or a task."""
        self.over = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not isinstance(waiter, Strand) and not waiter.done():
            waiter.set_exception(GatewayClosedError("the event is over"))


def _value_of(value: Any) -> Any:
    if isinstance(value, PdkError):
        raise value
    return value


class PluginServerConnection(asyncio.Protocol):
    """The driver of one session with Kong."""

    def __init__(self, service: Service, instances: Instances, session: KongSession) -> None:
        self.session = session
        self._service = service
        self._instances = instances
        self._start = service.bridge.start
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._event: Event | None = None  # of a protocol whose events stay on their connection
        self._number = 0
        self._owed = 0  # answers
        self._closed = False

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or turn it away if there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._number = self._instances.add(self)
        if not self._service.take_in(self):
            self._closed = True
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""
        self._service.bytes_in += len(data)
        try:
            for event in self.session.receive_data(data):
                self._on_event(event)
        except ProtocolError as error:
            self._service.failures.report(
                "connection closed: the peer broke the protocol", kind="protocol", error=error
            )
            self._closed = True
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        """End what still waits for this connection."""
        self._closed = True
        self._instances.connections.pop(self._number, None)
        self._service.let_go(self)
        if self._event is not None:
            self._event.lost()

    # --- Kong's wishes

    def _on_event(self, event: KongEvent) -> None:
        self._owed += 1
        kind = type(event)
        if kind is HandleEvent:
            self._start(self._handle, event)
            return
        match event:
            case Answer():
                self._on_answer(event)
            case StartInstance(ticket, name, text):
                self._start_instance(ticket, name, text)
            case CloseInstance(ticket, number):
                self._start(self._close_instance, (ticket, number))
            case Query(ticket, what, argument):
                self._on_query(ticket, what, argument)

    def _start_instance(self, ticket: int, name: str, text: bytes) -> None:
        def answer(number: int | None, config: Any) -> None:
            if number is None:
                self._fail(ticket, "the plugin server is about to end")
            else:
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
            self._fail(ticket, _NO_INSTANCE % number)
            return
        self._instances.close(number)
        self.write(self.session.closed(ticket, chain.key.partition("#")[0], number, None, time()))

    def _on_answer(self, answer: Answer) -> None:
        if answer.event is None:
            if self._event is not None:
                self._event.take_answer(self, answer)
            return
        event = self._instances.events.get(answer.event)
        if event is not None:
            event.take_answer(self, answer)
        elif self._instances.is_elsewhere(answer.event):
            self._instances.forward(self._number, answer)
        else:
            self.refuse_number(answer.ticket, answer.event)  # an error would let the request pass

    def _fail(self, ticket: int, message: str) -> None:
        data = self.session.failed(ticket, message)
        if data is None:
            self._transport.close()
        else:
            self.write(data)

    def _handle(self, strand: Strand, wish: HandleEvent) -> None:
        """Run a handler. Runs in a strand."""
        service, instances = self._service, self._instances
        chain = instances.find(wish.instance, strand)
        if chain is None:
            self._fail(wish.ticket, _NO_INSTANCE % wish.instance)
            return
        name = chain.key.partition("#")[0]
        event = Event(instances.new_event_number(), name, chain, wish.phase, instances)
        event.connection, event.ticket, event.strand = self, wish.ticket, strand
        if self.session.moves:
            instances.events[event.number] = event
        else:
            self._event = event
        service.started += 1
        try:
            if service.calls > service.max_calls:
                service.failures.report(
                    "too many events under way", kind="overloaded", plugin=name, limit=service.max_calls
                )
                self._refuse(event)
                return
            self._run(event, strand)
            self._end(event, "done")
        except (PhaseExit, GatewayClosedError):
            self.event_over(event, exited=True)
        except GatewrightError:
            self._refuse(event)  # whoever raised it has logged the cause
        except Exception as error:
            service.failures.report(
                "request refused: internal error", kind="internal", plugin=name, error=error, traceback=True
            )
            self._refuse(event)
        finally:
            event.strand = None
            event.release()
            service.ended += 1
            if service.draining:
                service.call_ended()

    def _run(self, event: Event, strand: Strand) -> None:
        chain = event.chain
        if not chain.ready:
            chain.build()
        if event.phase == "access" and chain.request_steps and chain.steps[0].on_request is not None:
            run_access(chain, event, strand)
        elif event.phase == "response" and chain.response_steps and chain.steps[0].on_response is not None:
            run_response(chain, event, strand)
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
            event.connection.conclude(event)
        else:
            self._service.loop.call_later(_FORGET_SECONDS, self._instances.events.pop, event.number, None)

    def conclude(self, event: Event) -> None:
        """Say how an event ended."""
        _conclude(self, event)

    def refuse_number(self, ticket: int, event: int) -> None:
        """Answer a request with 500 whose event has gone with its worker."""
        self.write(self.session.call(ticket, event, "kong.response.exit", _REFUSAL))

    def event_over(self, event: Event, *, exited: bool) -> None:
        """An event has ended, on whatever connection."""
        self._instances.events.pop(event.number, None)
        if self._event is event:
            self._event = None
            if exited:
                # Kong drops the coroutine that would have answered, and the connection with it.
                self._service.loop.call_later(_LINGER_SECONDS, self._close_if_quiet)

    def _close_if_quiet(self) -> None:
        if self._event is None and not self._closed:
            self._transport.close()

    def write(self, data: bytes) -> None:
        """Send an answer."""
        self._transport.write(data)
        self._service.bytes_out += len(data)
        self._owed -= 1
        if self._service.leaving and not self._closed and self._event is None and not self._owed:
            if self._transport.is_reading():
                self._transport.pause_reading()  # what comes next is another worker's
            self._service.loop.call_soon(self.give_back)

    def _on_query(self, ticket: int, what: str, argument: Any) -> None:
        plugins = self._service.builder.plugins
        content: Any = None
        if what == "instance_status":
            self._start(self._tell_instance, (ticket, argument))
            return
        if what == "plugin_names":
            content = {"names": sorted(plugins)}
        elif what == "plugin_info" and argument in plugins:
            content = plugin_info(plugins[argument])
        elif what == "status":
            content = self._status()
        if content is None:
            self._fail(ticket, f"{argument} is not known" if what == "plugin_info" else f"no such method: {argument}")
        else:
            self.write(self.session.answered(ticket, what, content))

    def _tell_instance(self, strand: Strand, wish: tuple[int, int]) -> None:
        ticket, number = wish
        chain = self._instances.find(number, strand)
        if chain is None:
            self._fail(ticket, _NO_INSTANCE % number)
        else:
            self.write(self.session.started(ticket, chain.key.partition("#")[0], number, None, 0.0))

    def _status(self) -> dict[str, Any]:
        confs = self._service.confs
        return {
            "Pid": os.getpid(),
            "Plugins": {
                name: {
                    "Name": name,
                    "Instances": [
                        {"Name": name, "Id": number}
                        for number, chain in confs.items()
                        if chain.key.partition("#")[0] == name
                    ],
                }
                for name in sorted(self._service.builder.plugins)
            },
        }

    # --- ending (see `Service`)

    def end_if_stalled(self, now: float, limit: float) -> None:
        """Kong's connections may be silent for as long as they like."""

    def close_if_idle(self) -> None:
        """Close the connection unless an event is under way on it."""
        if self._event is None:
            self._transport.close()

    def give_back(self) -> bool:
        """Let another worker serve this connection, if no answer is owed on it."""
        if self._closed or self._owed or self._event is not None or self.session.buffered:
            return False
        if self._transport.get_write_buffer_size():
            return False
        self._closed = self._service.hand_over(self, self._transport)
        return self._closed

    def abort(self) -> None:
        """Close the connection now."""
        self._transport.close()


def driver(new_session: Callable[[], KongSession], *, lua_style: bool) -> Callable[[Service], Callable[[], Any]]:
    """What makes the drivers of connections for a service.

    Args:
        new_session: makes the protocol state of a new connection.
        lua_style: PDK calls give `(value, error)`.
    """

    def for_service(service: Service) -> Callable[[], PluginServerConnection]:
        instances = Instances(service, lua_style=lua_style)
        service.on_letter = lambda letter, delivered: instances.on_letter(letter, delivered, new_session)
        return lambda: PluginServerConnection(service, instances, new_session())

    return for_service
