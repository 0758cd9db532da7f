"""Protobuf's side towards a plugin server, as in Kong's pb_rpc.lua.

It keeps an event on its connection, and drops the connection with an event that ends in the middle.
"""

from __future__ import annotations

import contextlib
import json
import logging
import struct
from collections.abc import Mapping
from typing import Any

from gatewright.dev.kong.connections import Connection, Dial, Pool, in_time
from gatewright.dev.kong.rpc import (
    STARTS_BEFORE_GIVING_UP,
    Instance,
    PdkFunction,
    RpcError,
    again,
    note_ticket,
    running,
)
from gatewright.dev.kong.values import LuaError, from_protobuf, to_protobuf
from gatewright.errors import ProtocolError
from gatewright.gateways.kong.messages import RPC_CALL, RPC_RETURN
from gatewright.gateways.kong.pdk import METHODS

__all__ = ["ProtoBufRpc"]

log = logging.getLogger("gatewright.dev")

_length = struct.Struct("=I")


class ProtoBufRpc:
    """A plugin server that speaks Protobuf (see `PluginRpc`)."""

    def __init__(self, way: str | Dial) -> None:
        self._pool = Pool(way)
        self._sequence = 0

    def close(self) -> None:
        """See `PluginRpc`."""
        self._pool.close()

    async def _call(self, command: str, fields: Mapping[str, Any], pdk: PdkFunction | None = None) -> dict[str, Any]:
        self._sequence += 1
        sequence = self._sequence
        if command == "handle_event":
            note_ticket(sequence)
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
    def _send(connection: Connection, data: bytes) -> None:
        connection.writer.write(_length.pack(len(data)) + data)

    @staticmethod
    async def _receive(connection: Connection) -> bytes:
        size = _length.unpack(await in_time(connection.reader.readexactly(_length.size)))[0]
        return await in_time(connection.reader.readexactly(size)) if size else b""

    async def start_instance(self, plugin: str, config: Mapping[str, Any]) -> int:
        """See `PluginRpc`."""
        answer = await self._call("start_instance", {"name": plugin, "config": json.dumps(config).encode()})
        return int(answer["instance_status"].get("instance_id", 0))

    async def close_instance(self, instance: int) -> None:
        """See `PluginRpc`."""
        with contextlib.suppress(RpcError):
            await self._call("close_instance", {"instance_id": instance})

    async def handle_event(self, instance: Instance, phase: str, pdk: PdkFunction) -> None:
        """See `PluginRpc`."""
        for attempt in range(1, STARTS_BEFORE_GIVING_UP + 1):
            number = await running(self, instance)
            try:
                await self._call("handle_event", {"instance_id": number, "event_name": phase}, pdk)
                return
            except RpcError as error:
                if not any(words in str(error).lower() for words in ("no plugin instance", "closed")):
                    log.error("pluginserver error: %s", error)
                    pdk("kong.response.error", (500,))
                await again(instance, error, attempt)
