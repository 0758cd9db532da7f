"""Which protocol leads to a plugin server, by what its dump says."""

from __future__ import annotations

from gatewright.dev.kong.connections import Dial
from gatewright.dev.kong.msgpack_rpc import MsgPackRpc
from gatewright.dev.kong.protobuf_rpc import ProtoBufRpc
from gatewright.dev.kong.rpc import PluginRpc, RpcError
from gatewright.gateways.kong.dump import PROTOCOLS

__all__ = ["new_rpc"]


def new_rpc(protocol: str, way: str | Dial) -> PluginRpc:
    """The protocol's side towards a socket.

    Args:
        protocol: as a dump says it: `MsgPack:1` or `ProtoBuf:1`.
        way: path of the unix socket, or what gives a socket that leads there.

    Raises:
        RpcError: there is no such protocol.
    """
    if protocol == PROTOCOLS["msgpack"]:
        return MsgPackRpc(way)
    if protocol == PROTOCOLS["protobuf"]:
        return ProtoBufRpc(way)
    raise RpcError(f"the plugin server's dump asks for a protocol that Kong doesn't know: {protocol}")
