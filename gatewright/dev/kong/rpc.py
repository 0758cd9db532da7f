"""Kong's side of the plugin server protocols: connections, instances, events.

As in Kong's mp_rpc.lua, pb_rpc.lua and plugin.lua. MessagePack takes a connection from the pool for each call and puts
it back before the PDK function runs; Protobuf keeps an event on its connection, and drops the connection with an event
that ends in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgpack

from gatewright.dev.kong.values import LuaError, from_protobuf, to_msgpack, to_protobuf
from gatewright.dev.trail import current_phase
from gatewright.errors import ProtocolError
from gatewright.gateways.kong.dump import PROTOCOLS
from gatewright.gateways.kong.messages import RPC_CALL, RPC_RETURN
from gatewright.gateways.kong.pdk import METHODS

__all__ = ["Dial", "Exit", "Instance", "PdkFunction", "PluginRpc", "RpcError", "new_rpc"]

log = logging.getLogger("gatewright.dev")

Dial = Callable[[], Awaitable[socket.socket]]
"""Gives a connected socket that leads to the plugin server."""

PdkFunction = Callable[[str, Sequence[Any]], Any]
"""Runs a PDK function by name; raises `Exit` where it ends the request, `LuaError` where Lua would."""

_READ_SECONDS = 60.0
_STARTS_BEFORE_GIVING_UP = 5
_PAUSE_SECONDS = 0.05


class RpcError(Exception):
    """A call failed."""


class Exit(Exception):  # noqa: N818 - Kong's word
    """A plugin ends the request with an answer of its own: `kong.response.exit` and `error`."""

    def __init__(self, status: int, body: bytes | None, headers: Mapping[str, Any]) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


@dataclass(slots=True)
class Instance:
    """A plugin's configuration at a plugin server.

    Attributes:
        plugin: the plugin's name.
        config: the configuration, Kong's own keys included.
        id: what the plugin server calls it, once it's started.
    """

    plugin: str
    config: dict[str, Any]
    id: int | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)


class PluginRpc(Protocol):
    """One plugin's plugin server."""

    async def start_instance(self, plugin: str, config: Mapping[str, Any]) -> int:
        """Start an instance; gives its id.

        Raises:
            RpcError: the plugin server says why not, or is gone.
        """

    async def close_instance(self, instance: int) -> None:
        """Close one."""

    async def handle_event(self, instance: Instance, phase: str, pdk: PdkFunction) -> None:
        """Run a phase.

        Raises:
            Exit: the plugin, or Kong for it, answers the request.
            LuaError: Kong's Lua code would abort.
        """

    def close(self) -> None:
        """Close all connections."""


def new_rpc(protocol: str, way: str | Dial) -> PluginRpc:
    """The protocol's side towards a socket.

    Args:
        protocol: as a dump says it: `MsgPack:1` or `ProtoBuf:1`.
        way: path of the unix socket, or what gives a socket that leads there.

    Raises:
        RpcError: there is no such protocol.
    """
    if protocol == PROTOCOLS["msgpack"]:
        return _MsgPack(way)
    if protocol == PROTOCOLS["protobuf"]:
        return _ProtoBuf(way)
    raise RpcError(f"the plugin server's dump asks for a protocol that Kong doesn't know: {protocol}")


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.unpacker = msgpack.Unpacker(
            raw=False, strict_map_key=False, unicode_errors="surrogateescape", max_buffer_size=1 << 28
        )

    @property
    def usable(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())


class _Pool:
    """Connections between two calls; the last one used is taken first, as nginx does."""

    def __init__(self, way: str | Dial) -> None:
        self._way = way
        self._idle: list[_Connection] = []

    async def take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.writer.close()
        try:
            if not isinstance(self._way, str):
                return _Connection(*await asyncio.open_connection(sock=await self._way(), limit=1 << 20))
            return _Connection(*await asyncio.open_unix_connection(self._way, limit=1 << 20))
        except OSError as error:
            raise RpcError(f"trying to connect: {self._way}: {error.strerror or error}") from None

    def give_back(self, connection: _Connection) -> None:
        self._idle.append(connection)

    def __contains__(self, connection: _Connection) -> bool:
        return connection in self._idle

    def close(self) -> None:
        while self._idle:
            self._idle.pop().writer.close()


async def _in_time(read: Awaitable[bytes]) -> bytes:
    try:
        return await asyncio.wait_for(read, _READ_SECONDS)
    except TimeoutError:
        raise RpcError("timeout") from None
    except (asyncio.IncompleteReadError, ConnectionError):
        raise RpcError("closed") from None


def _note_ticket(number: int) -> None:
    """By what the plugin server knows the event: see `dev.trail`."""
    phase = current_phase()
    if phase is not None:
        phase.expect(phase.plugins[0][0], number)


async def _running(rpc: PluginRpc, instance: Instance) -> int:
    """An instance's id; it is started first if need be."""
    async with instance.starting:
        if instance.id is None:
            try:
                instance.id = await rpc.start_instance(instance.plugin, instance.config)
            except RpcError as error:
                raise LuaError(f"starting instance: {error}") from None
        return instance.id


async def _again(instance: Instance, error: RpcError, attempt: int) -> None:
    """Kong starts the instance anew and tries again, for as long as it takes."""
    log.warning("%s: %s; the instance is started anew", instance.plugin, error)
    instance.id = None
    if attempt >= _STARTS_BEFORE_GIVING_UP:
        log.error("fault: Kong would go on trying without end; the development gateway gives up")
        raise LuaError(f"{instance.plugin}: given up after {attempt} tries: {error}")
    await asyncio.sleep(_PAUSE_SECONDS * attempt)


class _MsgPack:
    def __init__(self, way: str | Dial) -> None:
        self._pool = _Pool(way)
        self._message = 0

    def close(self) -> None:
        self._pool.close()

    async def _call(self, method: str, argument: Any) -> Any:
        self._message += 1
        message = self._message
        if method == "plugin.HandleEvent":
            _note_ticket(message)
        connection = await self._pool.take()
        try:
            request = msgpack.packb([0, message, method, [argument]], unicode_errors="surrogateescape")
            connection.writer.write(request)
            while True:
                for answer in connection.unpacker:
                    if answer[0] == 2:
                        continue  # a notification
                    if answer[0] != 1 or answer[1] != message:
                        raise LuaError("unexpected RPC response ID from plugin server")
                    self._pool.give_back(connection)
                    if answer[2] is not None:
                        raise RpcError(str(answer[2]))
                    return answer[3]
                data = await _in_time(connection.reader.read(4096))
                if not data:
                    raise RpcError("no data")
                connection.unpacker.feed(data)
        except ConnectionError:
            raise RpcError("no data") from None
        finally:
            if connection not in self._pool:
                connection.writer.close()

    async def start_instance(self, plugin: str, config: Mapping[str, Any]) -> int:
        started = await self._call("plugin.StartInstance", {"Name": plugin, "Config": json.dumps(config)})
        return int(started["Id"])

    async def close_instance(self, instance: int) -> None:
        await self._call("plugin.CloseInstance", instance)

    async def handle_event(self, instance: Instance, phase: str, pdk: PdkFunction) -> None:
        for attempt in range(1, _STARTS_BEFORE_GIVING_UP + 1):
            number = await _running(self, instance)
            try:
                await self._event(number, phase, pdk)
                return
            except RpcError as error:
                if "no plugin instance" not in str(error).lower():
                    log.error("%s: %s", instance.plugin, error)
                    log.warning("fault: over MessagePack Kong only logs this error, and the request goes on")
                    return
                await _again(instance, error, attempt)

    async def _event(self, instance: int, phase: str, pdk: PdkFunction) -> None:
        step = await self._call("plugin.HandleEvent", {"InstanceId": instance, "EventName": phase})
        event = step["EventId"]
        while step["Data"] != "ret":
            spelled = step["Data"]["Method"]
            method = ".".join(_WORD.findall(spelled))  # rpc/util.lua, `index_table`
            args = step["Data"]["Args"]
            value = to_msgpack(spelled, pdk(method, args if isinstance(args, list) else [args]))
            answer = {"EventId": event} if value is None else {"EventId": event, "Data": value}
            step = await self._call(_STEPS.get(method, "plugin.Step"), answer)


_WORD = re.compile(r"\w+")
_STEPS = {
    "kong.client.get_credential": "plugin.StepCredential",
    "kong.client.load_consumer": "plugin.StepConsumer",
    "kong.client.get_consumer": "plugin.StepConsumer",
    "kong.client.authenticate": "plugin.StepCredential",
    "kong.node.get_memory_stats": "plugin.StepMemoryStats",
    "kong.router.get_route": "plugin.StepRoute",
    "kong.router.get_service": "plugin.StepService",
    "kong.request.get_query": "plugin.StepMultiMap",
    "kong.request.get_headers": "plugin.StepMultiMap",
    "kong.response.get_headers": "plugin.StepMultiMap",
    "kong.service.response.get_headers": "plugin.StepMultiMap",
}
_length = struct.Struct("=I")


class _ProtoBuf:
    def __init__(self, way: str | Dial) -> None:
        self._pool = _Pool(way)
        self._sequence = 0

    def close(self) -> None:
        self._pool.close()

    async def _call(self, command: str, fields: Mapping[str, Any], pdk: PdkFunction | None = None) -> dict[str, Any]:
        self._sequence += 1
        sequence = self._sequence
        if command == "handle_event":
            _note_ticket(sequence)
        connection = await self._pool.take()
        try:
            self._send(connection, RPC_CALL.encode({"sequence": sequence, command: fields}))
            while pdk is not None:
                name = (await self._receive(connection)).decode(errors="replace")
                if not name:
                    break
                args = await self._receive(connection)
                method = METHODS.get(name)
                if method is None:
                    raise RpcError(f'method "{name}" not found')
                self._send(connection, to_protobuf(method, pdk(name, from_protobuf(method, args))))
            answer = RPC_RETURN.decode(await self._receive(connection))
            if answer.get("sequence", 0) != sequence:
                raise LuaError("assertion failed!")
            self._pool.give_back(connection)
            return answer
        except ProtocolError as error:
            raise LuaError(f"assertion failed! ({error})") from None
        except ConnectionError:
            raise RpcError("closed") from None
        finally:
            if connection not in self._pool:
                connection.writer.close()

    @staticmethod
    def _send(connection: _Connection, data: bytes) -> None:
        connection.writer.write(_length.pack(len(data)) + data)

    @staticmethod
    async def _receive(connection: _Connection) -> bytes:
        size = _length.unpack(await _in_time(connection.reader.readexactly(_length.size)))[0]
        return await _in_time(connection.reader.readexactly(size)) if size else b""

    async def start_instance(self, plugin: str, config: Mapping[str, Any]) -> int:
        answer = await self._call("start_instance", {"name": plugin, "config": json.dumps(config).encode()})
        return int(answer["instance_status"].get("instance_id", 0))

    async def close_instance(self, instance: int) -> None:
        with contextlib.suppress(RpcError):
            await self._call("close_instance", {"instance_id": instance})

    async def handle_event(self, instance: Instance, phase: str, pdk: PdkFunction) -> None:
        for attempt in range(1, _STARTS_BEFORE_GIVING_UP + 1):
            number = await _running(self, instance)
            try:
                await self._call("handle_event", {"instance_id": number, "event_name": phase}, pdk)
                return
            except RpcError as error:
                if not any(words in str(error).lower() for words in ("no plugin instance", "closed")):
                    log.error("pluginserver error: %s", error)
                    pdk("kong.response.error", (500,))
                await _again(instance, error, attempt)
