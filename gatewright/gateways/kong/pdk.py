"""The PDK's methods over Protobuf, a table: what each takes and gives.

From Kong's `kong/include/kong/pluginsocket.proto` (service Kong); only these exist over Protobuf. Over MessagePack any
function of Lua's `kong.*` can be called, and values go as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gatewright.gateways.kong.answers import OUTPUTS
from gatewright.gateways.kong.arguments import INPUTS

__all__ = ["METHODS", "TERMINAL", "Method"]

TERMINAL = frozenset(("kong.response.exit", "kong.response.error"))
"""Kong ends the request here and never answers (KP/server.py, `terminal_methods`)."""


@dataclass(frozen=True, slots=True)
class Method:
    """How a method's arguments and its answer look on the wire.

    Attributes:
        name: e.g. `kong.client.get_ip`.
        takes: what its arguments are, a key of `MESSAGES`.
        gives: what its answer is, a key of `MESSAGES`.
        encode: arguments to bytes; raises `PluginError` if they don't suit.
        decode: the answer's bytes to a value.
        frame: the name as a frame.
    """

    name: str
    takes: str
    gives: str
    encode: Callable[[Sequence[Any]], bytes]
    decode: Callable[[bytes], Any]
    frame: bytes


# Method: arguments -> answer
_TABLE = """
client.get_ip: -> text
client.get_forwarded_ip: -> text
client.get_port: -> int
client.get_forwarded_port: -> int
client.get_credential: -> credential
client.load_consumer: consumer_spec -> consumer
client.get_consumer: -> consumer
client.authenticate: authenticate ->
client.get_protocol: bool -> string
ctx.shared.set: kv ->
ctx.shared.get: string -> value
ip.is_trusted: string -> bool
log.alert: list ->
log.crit: list ->
log.err: list ->
log.warn: list ->
log.notice: list ->
log.info: list ->
log.debug: list ->
log.set_serialize_value: kv ->
log.serialize: -> text
nginx.get_var: string -> string
nginx.get_tls1_version_str: -> string
nginx.set_ctx: kv ->
nginx.get_ctx: string -> value
nginx.req_start_time: -> number
nginx.get_subsystem: -> text
node.get_id: -> text
node.get_memory_stats: -> memory_stats
request.get_scheme: -> text
request.get_host: -> text
request.get_port: -> int
request.get_forwarded_scheme: -> text
request.get_forwarded_host: -> text
request.get_forwarded_port: -> int
request.get_http_version: -> number
request.get_method: -> text
request.get_path: -> text
request.get_path_with_query: -> text
request.get_raw_query: -> text
request.get_query_arg: string -> string
request.get_query: most -> struct
request.get_header: string -> string
request.get_headers: most -> struct
request.get_raw_body: -> raw_body
request.get_uri_captures: -> uri_captures
response.get_status: -> int
response.get_header: string -> string
response.get_headers: most -> struct
response.get_source: -> text
response.set_status: int ->
response.set_header: kv ->
response.add_header: kv ->
response.clear_header: string ->
response.set_headers: struct ->
response.exit: exit ->
router.get_route: -> route
router.get_service: -> service
service.set_upstream: string -> bool
service.set_target: target ->
service.request.set_scheme: string ->
service.request.set_path: string ->
service.request.set_raw_query: string ->
service.request.set_method: string ->
service.request.set_query: struct ->
service.request.set_header: kv ->
service.request.add_header: kv ->
service.request.clear_header: string ->
service.request.set_headers: struct ->
service.request.set_raw_body: bytes ->
service.response.get_status: -> int
service.response.get_header: string -> string
service.response.get_headers: most -> struct
service.response.get_raw_body: -> bytes
"""


def _methods() -> dict[str, Method]:
    methods = {}
    for line in _TABLE.split("\n"):
        if line:
            name, _, shapes = line.partition(":")
            argument, _, answer = shapes.partition("->")
            full = f"kong.{name}"
            frame = struct.pack("=I", len(full)) + full.encode()
            takes, gives = argument.strip(), answer.strip()
            methods[full] = Method(full, takes, gives, INPUTS[takes], OUTPUTS[gives], frame)
    return methods


METHODS: dict[str, Method] = _methods()
"""By name."""
