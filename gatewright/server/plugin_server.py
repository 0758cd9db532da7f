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
_LINGER_SECONDS: Final = 5.0

_Waiter = Strand | asyncio.Future[Any] | concurrent.futures.Future[Any]


class Instance:
    """A plugin's instance for one configuration."""

    def __init__(self, number: int, name: str, config: Any, chain: Chain, *, made_for_kong: bool) -> None:
        self.made_for_kong = made_for_kong
        self.number = number
        self.name = name
        self.config = config
        self.chain = chain
        self.started_at = time()


class Instances:
    """The instances and the events of a process, which all its connections share.

    Ids are never given twice, nor by the next process for something else: instances have random ones, events count on
    from a random number (within what Lua's numbers hold exactly).
    """

    def __init__(self, service: Service, *, lua_style: bool) -> None:
        """Make an empty table.

        Args:
            service: the process's service.
            lua_style: PDK calls give `(value, error)`.
        """
        self.service = service
        self.lua_style = lua_style
        self.by_number: dict[int, Instance] = {}
        self.events: dict[int, Event] = {}
        self._next_event = secrets.randbits(48)

    def start(self, name: str, json_text: bytes) -> Instance:
        """Make an instance. A plugin that is unknown or whose configuration is invalid gives one that refuses all.

        Raises:
            ConfigError: the configuration is not JSON.
        """
        try:
            config = json.loads(json_text) if json_text else {}
        except ValueError as error:
            raise ConfigError(f"the configuration of {name} is not JSON: {error}") from None
        number = 0
        while not number or number in self.by_number:
            number = secrets.randbits(31)
        key = f"{name}#{number}"
        plugin = self.service.builder.plugins.get(name)
        theirs = getattr(plugin, "kong_schema", None) is not None
        text = json.dumps(config) if theirs else json.dumps(_own_config(config))
        chain = Chain(key, [(name, text)], self.service.builder)
        instance = self.by_number[number] = Instance(number, name, config, chain, made_for_kong=theirs)
        self.service.build(chain)
        return instance

    def close(self, number: int) -> Instance | None:
        """Drop an instance; `None` if there is none."""
        instance = self.by_number.pop(number, None)
        if instance is not None:
            self.service.loop.call_soon(self.service.bridge.start_apart, instance.chain.teardown, None)
        return instance

    def new_event_number(self) -> int:
        """An id that no event has had."""
        self._next_event += 1
        return self._next_event


def _own_config(config: Any) -> Any:
    """The configuration without Kong's own keys (`__seq__`, ...) and what was left empty."""
    if not isinstance(config, dict):
        return config
    return {key: value for key, value in config.items() if not key.startswith("__") and value is not None}


class Event:
    """One phase of one request: runs a handler, and carries its PDK calls out."""

    def __init__(self, number: int, instance: Instance, phase: str, instances: Instances) -> None:
        self.number = number
        self.instance = instance
        self.phase = phase
        lua_style = instances.lua_style and instance.made_for_kong
        self.sync_pdk = SyncPdk(self, lua_style=lua_style)
        self.async_pdk = AsyncPdk(self, lua_style=lua_style)
        self._service = instances.service
        self._bridge = instances.service.bridge
        self._known: dict[tuple[str, tuple[Any, ...]], Any] = {}
        self._waiter: _Waiter | None = None
        self._busy = asyncio.Lock()
        self.connection: PluginServerConnection | None = None
        self.ticket = 0
        self.strand: Strand | None = None
        self.over = False
        self.doomed = False
        """It has failed while Kong was working: the request is refused as soon as Kong answers."""

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
        async with self._busy:  # one call at a time: that's all that the protocols can carry
            future = self._service.loop.create_future()
            self._put(method, args, future)
            value = _value_of(await future)
        if key is not None:
            self._known[key] = value
        return value

    def _put(self, method: str, args: Sequence[Any], waiter: _Waiter) -> None:
        connection = self.connection
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

    def take_answer(self, connection: PluginServerConnection, answer: Answer) -> None:
        """Kong has answered the call under way."""
        self.connection, self.ticket = connection, answer.ticket
        if self.doomed:
            connection.refuse(self)
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
        self._closed = False

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or turn it away if there are too many."""
        self._transport = cast("asyncio.Transport", transport)
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
        self._service.let_go(self)
        if self._event is not None:
            self._event.lost()

    # --- Kong's wishes

    def _on_event(self, event: KongEvent) -> None:
        match event:
            case HandleEvent():
                self._start(self._handle, event)
            case Answer():
                self._on_answer(event)
            case StartInstance(ticket, name, text):
                try:
                    instance = self._instances.start(name, text)
                except ConfigError as error:
                    self._service.failures.report("instance not started", kind="conf", plugin=name, error=error)
                    self._fail(ticket, str(error))
                    return
                self.write(self.session.started(ticket, name, instance.number, instance.config, instance.started_at))
            case CloseInstance(ticket, number):
                closed = self._instances.close(number)
                if closed is None:
                    self._fail(ticket, _NO_INSTANCE % number)
                else:
                    self.write(
                        self.session.closed(ticket, closed.name, closed.number, closed.config, closed.started_at)
                    )
            case Query(ticket, what, argument):
                self._on_query(ticket, what, argument)

    def _on_answer(self, answer: Answer) -> None:
        event = self._event if answer.event is None else self._instances.events.get(answer.event)
        if event is None:
            # Only the request of whoever asks is lost: it gets an answer, and it's not let through.
            self._fail(answer.ticket, f"event id {answer.event} not found")
        else:
            event.take_answer(self, answer)

    def _fail(self, ticket: int, message: str) -> None:
        data = self.session.failed(ticket, message)
        if data is None:
            self._transport.close()
        else:
            self.write(data)

    def _handle(self, strand: Strand, wish: HandleEvent) -> None:
        """Run a handler. Runs in a strand."""
        service, instances = self._service, self._instances
        instance = instances.by_number.get(wish.instance)
        if instance is None:
            self._fail(wish.ticket, _NO_INSTANCE % wish.instance)
            return
        event = Event(instances.new_event_number(), instance, wish.phase, instances)
        event.connection, event.ticket, event.strand = self, wish.ticket, strand
        if self.session.moves:
            instances.events[event.number] = event
        else:
            self._event = event
        service.started += 1
        try:
            if service.calls > service.max_calls:
                service.failures.report(
                    "too many events under way", kind="overloaded", plugin=instance.name, limit=service.max_calls
                )
                self._end_with_500(event)
                return
            self._run(event, strand)
            self._end(event)
        except (PhaseExit, GatewayClosedError):
            self.event_over(event, exited=True)
        except GatewrightError:
            self._end_with_500(event)  # whoever raised it has logged the cause
        except Exception as error:
            service.failures.report(
                "request refused: internal error", kind="internal", plugin=instance.name, error=error, traceback=True
            )
            self._end_with_500(event)
        finally:
            event.strand = None
            event.release()
            service.ended += 1
            if service.draining:
                service.call_ended()

    def _run(self, event: Event, strand: Strand) -> None:
        chain = event.instance.chain
        if not chain.ready:
            chain.build()
        if event.phase == "access" and chain.request_steps and chain.steps[0].on_request is not None:
            run_access(chain, event, strand)
        elif event.phase == "response" and chain.response_steps and chain.steps[0].on_response is not None:
            run_response(chain, event, strand)
        else:
            chain.run_phase(event.phase, event, strand)

    def _end(self, event: Event) -> None:
        connection = event.connection
        if connection is not None:
            connection.write(connection.session.done(event.ticket, event.number))
        self.event_over(event, exited=False)

    def _end_with_500(self, event: Event) -> None:
        """Refuse the request. Closing would make Kong try again without end, and an error would let it pass."""
        self._service.count_refused("service unavailable")
        if event.connection is None:
            event.doomed = True
        else:
            event.connection.refuse(event)

    def refuse(self, event: Event) -> None:
        """Answer the request with 500, in a phase where Kong allows that; otherwise let the event end."""
        event.connection = self
        if event.phase not in _MAY_EXIT:
            self._end(event)
            return
        self.write(self.session.call(event.ticket, event.number, "kong.response.exit", _REFUSAL))
        self.event_over(event, exited=True)

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
        """Send bytes."""
        self._transport.write(data)
        self._service.bytes_out += len(data)

    def _on_query(self, ticket: int, what: str, argument: Any) -> None:
        plugins = self._service.builder.plugins
        content: Any = None
        if what == "instance_status":
            instance = self._instances.by_number.get(argument)
            if instance is not None:
                self.write(self.session.started(ticket, instance.name, argument, instance.config, instance.started_at))
                return
            self._fail(ticket, _NO_INSTANCE % argument)
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

    def _status(self) -> dict[str, Any]:
        instances = self._instances.by_number.values()
        return {
            "Pid": os.getpid(),
            "Plugins": {
                name: {
                    "Name": name,
                    "Instances": [
                        {"Name": name, "Id": i.number, "Config": i.config, "StartTime": i.started_at}
                        for i in instances
                        if i.name == name
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
        """Connections of Kong stay where they are."""
        return False

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
        return lambda: PluginServerConnection(service, instances, new_session())

    return for_service
