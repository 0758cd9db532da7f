"""The PDK's methods over Protobuf: what goes out and what comes back of each.

From Kong's `kong/include/kong/pluginsocket.proto` (service Kong); only these exist over Protobuf. Over MessagePack any
function of Lua's `kong.*` can be called, and values go as they are.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gatewright.errors import PluginError
from gatewright.gateways.kong.protobuf import Field, Message, write_varint

__all__ = [
    "MESSAGES", "METHODS", "RPC_CALL", "RPC_RETURN", "TERMINAL", "Method", "captures_of", "exit_headers",
    "fold_headers", "read_body_file",
]  # fmt: skip

TERMINAL = frozenset(("kong.response.exit", "kong.response.error"))
"""Kong ends the request here and never answers (KP/server.py, `terminal_methods`)."""

_S, _I = Field(1, "string"), Field(1, "int32")
EMPTY = Message()
STRING = Message(v=_S)
INT = Message(v=_I)
NUMBER = Message(v=Field(1, "double"))
BOOL = Message(v=Field(1, "bool"))
LIST = Message(values=Field(1, "value", repeated=True))
STRUCT = Message(fields=Field(1, "value", mapping=True))
BYTE_STRING = Message(v=Field(1, "bytes"))
KV = Message(k=_S, v=Field(2, "value"))
EXIT_ARGS = Message(status=_I, body=Field(2, "bytes"), headers=Field(3, "struct"))
RAW_BODY = Message(content=Field(1, "bytes"), body_filepath=Field(2, "string"), error=Field(3, "string"))
URI_CAPTURES = Message(unnamed=Field(1, "bytes", repeated=True), named=Field(2, "bytes", mapping=True))
_KEY = Message(id=_S)
ROUTE = Message(
    id=_S, created_at=Field(2, "int64"), updated_at=Field(3, "int64"), name=Field(4, "string"),
    protocols=Field(5, "string", repeated=True), methods=Field(6, "string", repeated=True),
    hosts=Field(7, "string", repeated=True), paths=Field(8, "string", repeated=True),
    headers=Field(9, "string", repeated=True), https_redirect_status_code=Field(10, "int32"),
    regex_priority=Field(11, "int32"), strip_path=Field(12, "bool"), preserve_host=Field(13, "bool"),
    snis=Field(14, "string", repeated=True), sources=Field(15, "string", repeated=True),
    destinations=Field(16, "string", repeated=True), tags=Field(17, "string", repeated=True),
    service=Field(18, _KEY),
)  # fmt: skip
SERVICE = Message(
    id=_S, created_at=Field(2, "int64"), updated_at=Field(3, "int64"), name=Field(4, "string"),
    retries=Field(5, "int32"), protocol=Field(6, "string"), host=Field(7, "string"), port=Field(8, "int32"),
    path=Field(9, "string"), connect_timeout=Field(10, "int32"), write_timeout=Field(11, "int32"),
    read_timeout=Field(12, "int32"), tags=Field(13, "string", repeated=True), client_certificate=Field(14, _KEY),
)  # fmt: skip
TARGET = Message(host=_S, port=Field(2, "int32"))
CONSUMER_SPEC = Message(id=_S, by_username=Field(2, "bool"))
CONSUMER = Message(
    id=_S, created_at=Field(2, "int64"), username=Field(3, "string"), custom_id=Field(4, "string"),
    tags=Field(5, "string", repeated=True),
)  # fmt: skip
CREDENTIAL = Message(id=_S, consumer_id=Field(2, "string"))
AUTHENTICATE = Message(consumer=Field(1, CONSUMER), credential=Field(2, CREDENTIAL))
_DICT_STATS = Message(allocated_slabs=Field(1, "int64"), capacity=Field(2, "int64"))
MEMORY_STATS = Message(
    lua_shared_dicts=Field(1, Message(kong=Field(1, _DICT_STATS), kong_db_cache=Field(2, _DICT_STATS))),
    workers_lua_vms=Field(2, Message(http_allocated_gc=Field(1, "int64"), pid=Field(2, "int64")), repeated=True),
)

RPC_CALL = Message(
    sequence=Field(1, "int64"),
    get_plugin_names=Field(31, EMPTY),
    get_plugin_info=Field(32, Message(name=_S)),
    start_instance=Field(33, Message(name=_S, config=Field(2, "bytes"))),
    get_instance_status=Field(34, Message(instance_id=_I)),
    close_instance=Field(35, Message(instance_id=_I)),
    handle_event=Field(36, Message(instance_id=_I, event_name=Field(2, "string"))),
)
RPC_RETURN = Message(
    sequence=Field(1, "int64"),
    plugin_names=Field(31, Message(names=Field(1, "string", repeated=True))),
    plugin_info=Field(
        32,
        Message(
            name=_S, updated_at=Field(2, "int64"), loaded_at=Field(3, "int64"),
            phases=Field(4, "string", repeated=True), version=Field(5, "string"), priority=Field(6, "int32"),
            schema=Field(7, "string"),
        ),
    ),
    instance_status=Field(
        33,
        Message(name=_S, instance_id=Field(2, "int32"), config=Field(3, "value"), started_at=Field(4, "int64")),
    ),
)  # fmt: skip


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


_SHORT = 0x80  # lengths below are one byte


def fold_headers(headers: Any) -> Any:
    """Names to lists, as Kong itself gives them over MessagePack (mp_rpc.lua, `fix_mmap`)."""
    if not isinstance(headers, dict):
        return headers
    return {
        name: [] if value is True else [value] if isinstance(value, str) else value for name, value in headers.items()
    }


_MOST_BY_DEFAULT = 100  # arguments or headers: nginx's `lua_max_req_headers` and the like
_BODILESS = frozenset((*range(100, 200), 204, 304))
_JSON = "application/json; charset=utf-8"


def exit_headers(status: Any, body: Any, headers: Any) -> Any:
    """The headers for `kong.response.exit`, so that an answer that has no body gets no Content-Length of 0.

    Kong gives it one unless the headers name it; an empty list there means none (response.lua, `send`).
    """
    if body or status not in _BODILESS or (headers is not None and not isinstance(headers, dict)):
        return headers
    if any(_folded(name) == "content-length" for name in headers or ()):
        return headers
    return {**(headers or {}), "content-length": []}


def _folded(name: Any) -> str:
    return str(name).lower().replace("_", "-")


def captures_of(found: Any) -> Any:
    """URI captures in one form: what is `unnamed` is a list with the whole match first, as Lua numbers them.

    Lua's table comes as a map over MessagePack, if it has the whole match, else as a list. Over Protobuf Kong never
    gives the whole match: then it is "".
    """
    if not isinstance(found, dict):
        return found
    unnamed = found.get("unnamed") or []
    if isinstance(unnamed, dict):
        numbered = {int(number): text for number, text in unnamed.items()}
        unnamed = [numbered.get(number, "") for number in range(max(numbered) + 1)]
    elif unnamed:
        unnamed = ["", *unnamed]
    return {"unnamed": unnamed, "named": found.get("named") or {}}


def _positional(message: Message, *names: str) -> Callable[[Sequence[Any]], bytes]:
    def encode(args: Sequence[Any]) -> bytes:
        if len(args) > len(names):
            raise PluginError(f"takes {len(names)} arguments at most, {len(args)} were given")
        return message.encode(dict(zip(names, args, strict=False)))

    return encode


def _encode_list(args: Sequence[Any]) -> bytes:
    return LIST.encode({"values": list(args)})


def _encode_most(args: Sequence[Any]) -> bytes:
    # Kong takes a number that is not there for 0, which it then refuses.
    return _encode_int(args if args and args[0] is not None else (_MOST_BY_DEFAULT,))


def _encode_exit(args: Sequence[Any]) -> bytes:
    status, body, headers = (*args, None, None)[:3] if len(args) < 3 else args[:3]
    if isinstance(body, dict | list | tuple):  # Kong's own encoding of tables, which have no place in the message
        try:
            body = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogateescape")
        except (TypeError, ValueError) as error:
            raise PluginError(f"the body can't be JSON: {error}") from None
        if not any(_folded(name) == "content-type" for name in headers or ()):
            headers = {**(headers or {}), "Content-Type": _JSON}
    return _exit_args((status, body, exit_headers(status, body, headers), *args[3:]))


def _encode_struct(args: Sequence[Any]) -> bytes:
    if len(args) != 1 or not isinstance(args[0], dict):
        raise PluginError("takes one dict of names and values")
    return STRUCT.encode({"fields": args[0]})


def _unwrapped(message: Message, default: Any) -> Callable[[bytes], Any]:
    return lambda data: message.decode(data).get("v", default)


_encode_int = _positional(INT, "v")
_exit_args = _positional(EXIT_ARGS, "status", "body", "headers")
_any_string = _positional(STRING, "v")
_any_kv = _positional(KV, "k", "v")


def _encode_string(args: Sequence[Any]) -> bytes:
    # What most calls send, short ones, without the tables.
    if len(args) == 1 and type(args[0]) is str:
        raw = args[0].encode("utf-8", "surrogateescape")
        if 0 < len(raw) < _SHORT:
            return b"\x0a%c%b" % (len(raw), raw)
    return _any_string(args)


def _encode_kv(args: Sequence[Any]) -> bytes:
    if len(args) == 2 and type(args[0]) is str and type(args[1]) is str:
        key, value = args[0].encode("utf-8", "surrogateescape"), args[1].encode("utf-8", "surrogateescape")
        size = len(value)
        if 0 < len(key) < _SHORT and size < _SHORT - 2:
            return b"\x0a%c%b\x12%c\x1a%c%b" % (len(key), key, size + 2, size, value)
    return _any_kv(args)


def _text(data: bytes) -> str | None:
    if len(data) > 2 and data[0] == 0x0A and data[1] < _SHORT and data[1] == len(data) - 2:
        return data[2:].decode("utf-8", "surrogateescape")
    # Kong wraps a missing value as {v = nil}, which is no field at all; an empty string can't be told from it.
    value: str | None = STRING.decode(data).get("v")
    return value


def _sure_text(data: bytes) -> str:
    """Of a method that always gives text."""
    return _text(data) or ""


def _whole(message: Message) -> Callable[[bytes], Any]:
    return lambda data: message.decode(data) or None


def _nothing(_: bytes) -> None:
    return None


def _struct(data: bytes) -> Any:
    return fold_headers(STRUCT.decode(data).get("fields", {}))


def _value(data: bytes) -> Any:
    return _STRUCT_OF_VALUE.decode(b"\x0a" + write_varint(len(data)) + data).get("v")


def _captures(data: bytes) -> Any:
    found = URI_CAPTURES.decode(data)  # bytes on this wire, text over MessagePack
    return {
        "unnamed": [item.decode("utf-8", "surrogateescape") for item in found.get("unnamed", [])],
        "named": {name: item.decode("utf-8", "surrogateescape") for name, item in found.get("named", {}).items()},
    }


def read_body_file(path: str) -> bytes:
    """A long body, which nginx keeps in a file on the machine that both run on (pb_rpc.lua, RawBodyResult).

    Raises:
        PluginError: it can't be read.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - no Path: this is the only file read
            return file.read()
    except OSError as error:
        raise PluginError(f"the request's body, {path}: {error.strerror}") from None


def _raw_body(data: bytes) -> Any:
    result = RAW_BODY.decode(data)
    if "body_filepath" in result:
        return read_body_file(result["body_filepath"])
    if "error" in result:
        raise PluginError(f"the request's body can't be read: {result['error']}")
    return result.get("content", b"")


_STRUCT_OF_VALUE = Message(v=Field(1, "value"))

MESSAGES: dict[str, Message] = {
    "": EMPTY, "string": STRING, "text": STRING, "int": INT, "most": INT, "number": NUMBER, "bool": BOOL,
    "bytes": BYTE_STRING, "kv": KV,
    "list": LIST, "struct": STRUCT, "exit": EXIT_ARGS, "target": TARGET, "consumer_spec": CONSUMER_SPEC,
    "authenticate": AUTHENTICATE, "raw_body": RAW_BODY, "uri_captures": URI_CAPTURES, "route": ROUTE,
    "service": SERVICE, "consumer": CONSUMER, "credential": CREDENTIAL, "memory_stats": MEMORY_STATS,
}  # fmt: skip
"""The messages of arguments and answers; a `value` is a google.protobuf.Value itself (see `write_value`)."""

_INPUTS: dict[str, Callable[[Sequence[Any]], bytes]] = {
    "": _positional(EMPTY),
    "string": _encode_string,
    "int": _encode_int,
    "most": _encode_most,
    "bool": _positional(BOOL, "v"),
    "bytes": _positional(BYTE_STRING, "v"),
    "kv": _encode_kv,
    "list": _encode_list,
    "struct": _encode_struct,
    "exit": _encode_exit,
    "target": _positional(TARGET, "host", "port"),
    "consumer_spec": _positional(CONSUMER_SPEC, "id", "by_username"),
    "authenticate": _positional(AUTHENTICATE, "consumer", "credential"),
}
_OUTPUTS: dict[str, Callable[[bytes], Any]] = {
    "": _nothing,
    "string": _text,
    "text": _sure_text,
    "int": _unwrapped(INT, 0),
    "number": _unwrapped(NUMBER, 0.0),
    "bool": _unwrapped(BOOL, False),
    "bytes": _unwrapped(BYTE_STRING, b""),
    "struct": _struct,
    "value": _value,
    "raw_body": _raw_body,
    "uri_captures": _captures,
    "route": _whole(ROUTE),
    "service": _whole(SERVICE),
    "consumer": _whole(CONSUMER),
    "credential": _whole(CREDENTIAL),
    "memory_stats": _whole(MEMORY_STATS),
}

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
            methods[full] = Method(full, takes, gives, _INPUTS[takes], _OUTPUTS[gives], frame)
    return methods


METHODS: dict[str, Method] = _methods()
"""By name."""
