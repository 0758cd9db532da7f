"""An event of Kong's, over and over, for `benchmarks.instructions`: what Kong sends, written down before it is counted.

So what is counted is the plugin server's, but for one copy of an event's id.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import cycle
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
_ID: Final = 9
"""Bytes of an event's id, which a call ends with."""


def _frame(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


def _steps(answer: bytes) -> list[bytes]:
    """The frames of a piece of output."""
    frames = []
    while answer:
        size = _LENGTH.unpack_from(answer)[0] + _LENGTH.size
        frames.append(answer[_LENGTH.size : size])
        answer = answer[size:]
    return frames


class _MsgPack:
    """As mp_rpc.lua: each step is a request of its own."""

    def __init__(self, connection: PluginServerConnection, wire: Any) -> None:
        self._connection, self._wire = connection, wire
        self._event = b""
        step = msgpack.packb([0, 4, "plugin.Step", [{"EventId": 1 << 40}]])
        self._step = step[:-_ID]

    def start(self) -> None:
        """Have an instance."""
        started = msgpack.packb([0, 1, "plugin.StartInstance", [{"Name": "it", "Config": "{}"}]])
        self._connection.data_received(started)
        instance = msgpack.unpackb(self._wire.last)[3]["Id"]
        self._event = msgpack.packb(
            [0, 3, "plugin.HandleEvent", [{"InstanceId": instance, "EventName": "access"}]]
        )  # fmt: skip

    def events(self, count: int) -> None:
        """So many events with one PDK call each."""
        receive, event, step, wire = self._connection.data_received, self._event, self._step, self._wire
        for _ in range(count):
            receive(event)
            receive(step + wire.last[-_ID:])

    def check(self) -> None:
        """See that an event is what it's taken for."""
        self._connection.data_received(self._event)
        call = msgpack.unpackb(self._wire.last)[3]
        assert call["Data"]["Method"].startswith("kong."), call
        self._connection.data_received(self._step + self._wire.last[-_ID:])
        assert msgpack.unpackb(self._wire.last)[3]["Data"] == "ret", self._wire.last


class _ProtoBuf:
    """As pb_rpc.lua: all of an event comes on its connection."""

    def __init__(self, connection: PluginServerConnection, wire: Any) -> None:
        self._connection, self._wire = connection, wire
        self._events: list[bytes] = []

    def start(self) -> None:
        """Have an instance."""
        call = RPC_CALL.encode({"sequence": 1, "start_instance": {"name": "it", "config": b"{}"}})
        self._connection.data_received(_frame(call))
        instance = RPC_RETURN.decode(self._wire.last[_LENGTH.size :])["instance_status"]["instance_id"]
        event = {"instance_id": instance, "event_name": "access"}
        self._events = [
            _frame(RPC_CALL.encode({"sequence": number, "handle_event": event})) for number in range(1000, 1100)
        ]

    def events(self, count: int) -> None:
        """So many events with one PDK call each."""
        receive, answer = self._connection.data_received, _frame(b"")
        for _, event in zip(range(count), cycle(self._events), strict=False):
            receive(event)
            receive(answer)

    def check(self) -> None:
        """See that an event is what it's taken for."""
        self._connection.data_received(self._events[0])
        method, _, end, _ = _steps(self._wire.last)
        assert method.startswith(b"kong."), method
        assert not end, end
        self._connection.data_received(_frame(b""))


def player(protocol: str) -> type[_MsgPack] | type[_ProtoBuf]:
    """What plays Kong on a connection."""
    return {"msgpack": _MsgPack, "protobuf": _ProtoBuf}[protocol]
