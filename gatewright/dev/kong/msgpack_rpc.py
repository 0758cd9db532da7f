"""MessagePack's side towards a plugin server, as in Kong's mp_rpc.lua.

It takes a connection from the pool for each call, and puts it back before the PDK function runs.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import msgpack

from gatewright.dev.kong.connections import Dial, Pool, in_time
from gatewright.dev.kong.rpc import (
    STARTS_BEFORE_GIVING_UP,
    Instance,
    PdkFunction,
    RpcError,
    again,
    note_ticket,
    running,
)
from gatewright.dev.kong.values import LuaError, to_msgpack

__all__ = ["MsgPackRpc"]

log = logging.getLogger("gatewright.dev")


class MsgPackRpc:
    """A plugin server that speaks MessagePack (see `PluginRpc`)."""

    def __init__(self, way: str | Dial) -> None:
        self._pool = Pool(way)
        self._message = 0

    def close(self) -> None:
        """See `PluginRpc`."""
        self._pool.close()

    async def _call(self, method: str, argument: Any) -> Any:
        self._message += 1
        message = self._message
        if method == "plugin.HandleEvent":
            note_ticket(message)
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
                data = await in_time(connection.reader.read(4096))
                if not data:
                    raise RpcError("no data")
                connection.unpacker.feed(data)
        except ConnectionError:
            raise RpcError("no data") from None
        finally:
            if connection not in self._pool:
                connection.writer.close()

    async def start_instance(self, plugin: str, config: Mapping[str, Any]) -> int:
        """See `PluginRpc`."""
        started = await self._call("plugin.StartInstance", {"Name": plugin, "Config": json.dumps(config)})
        return int(started["Id"])

    async def close_instance(self, instance: int) -> None:
        """See `PluginRpc`."""
        await self._call("plugin.CloseInstance", instance)

    async def handle_event(self, instance: Instance, phase: str, pdk: PdkFunction) -> None:
        """See `PluginRpc`."""
        for attempt in range(1, STARTS_BEFORE_GIVING_UP + 1):
            number = await running(self, instance)
            try:
                await self._event(number, phase, pdk)
                return
            except RpcError as error:
                if "no plugin instance" not in str(error).lower():
                    log.error("%s: %s", instance.plugin, error)
                    log.warning("fault: over MessagePack Kong only logs this error, and the request goes on")
                    return
                await again(instance, error, attempt)

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
