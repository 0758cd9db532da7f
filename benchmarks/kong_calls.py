"""An event of Kong's, over and over, for `benchmarks.instructions`: what Kong sends, and the answers to PDK calls."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import msgpack

from benchmarks.plugins import kong
from gatewright.gateways.kong.messages import RPC_CALL, RPC_RETURN
from gatewright.plugin import Plugin
from gatewright.runtime.kong_modules import adapt
from gatewright.server.drivers.kong.connection import PluginServerConnection

__all__ = ["KONG", "PLUGINS", "player"]

PLUGINS: Final[dict[str, Callable[[], type[Plugin]]]] = {
    "kong-pdk": lambda: adapt("it", kong.Module),
    "kong-def": lambda: kong.Native,
    "kong-async": lambda: kong.NativeAsync,
}
KONG: Final = [f"{name}-{protocol}" for name in PLUGINS for protocol in ("msgpack", "protobuf")]
"""Names of contestants."""
_LENGTH: Final = struct.Struct("=I")
_NO_ANSWER: Final = _LENGTH.pack(0)


def _frame(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


class _MsgPack:
    """As mp_rpc.lua: each step is a request of its own."""

    def __init__(self, connection: PluginServerConnection, wire: Any) -> None:
        self._connection, self._wire, self._number = connection, wire, 0

    def _ask(self, method: str, argument: Any) -> Any:
        self._number += 1
        self._connection.data_received(msgpack.packb([0, self._number, method, [argument]]))
        return msgpack.unpackb(self._wire.last)[3]

    def start(self) -> int:
        return int(self._ask("plugin.StartInstance", {"Name": "it", "Config": "{}"})["Id"])

    def event(self, instance: int) -> int:
        """One event; gives how many calls there were in it."""
        calls = 0
        step = self._ask("plugin.HandleEvent", {"InstanceId": instance, "EventName": "access"})
        while step["Data"] != "ret":
            calls += 1
            step = self._ask("plugin.Step", {"EventId": step["EventId"]})
        return calls


class _ProtoBuf:
    """As pb_rpc.lua: all of an event comes on its connection."""

    def __init__(self, connection: PluginServerConnection, wire: Any) -> None:
        self._connection, self._wire, self._number = connection, wire, 0

    def start(self) -> int:
        call = RPC_CALL.encode({"sequence": 1, "start_instance": {"name": "it", "config": b"{}"}})
        self._connection.data_received(_frame(call))
        return int(RPC_RETURN.decode(self._wire.last[4:])["instance_status"]["instance_id"])

    def event(self, instance: int) -> int:
        """One event; gives how many calls there were in it."""
        self._number = self._number % 100_000 + 1
        call = {"sequence": self._number, "handle_event": {"instance_id": instance, "event_name": "access"}}
        self._connection.data_received(_frame(RPC_CALL.encode(call)))
        frames, data = [], self._wire.last
        while data:
            size = _LENGTH.unpack_from(data)[0] + _LENGTH.size
            frames.append(data[_LENGTH.size : size])
            data = data[size:]
        calls = (len(frames) - 2) // 2  # a name and arguments each; then nothing, and the end
        for _ in range(calls):
            self._connection.data_received(_NO_ANSWER)
        return calls


def player(protocol: str) -> type[_MsgPack] | type[_ProtoBuf]:
    """What plays Kong on a connection."""
    return {"msgpack": _MsgPack, "protobuf": _ProtoBuf}[protocol]
