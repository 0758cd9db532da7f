"""The messages of Kong's Protobuf protocol.

From Kong's `kong/include/kong/pluginsocket.proto`.
"""

from __future__ import annotations

from gatewright.gateways.kong.protobuf import Field, Message

__all__ = [
    "AUTHENTICATE", "BOOL", "BYTE_STRING", "CONSUMER", "CONSUMER_SPEC", "CREDENTIAL", "EMPTY", "EXIT_ARGS", "INT", "KV",
    "LIST", "MEMORY_STATS", "MESSAGES", "NUMBER", "RAW_BODY", "ROUTE", "RPC_CALL", "RPC_RETURN", "SERVICE", "STRING",
    "STRUCT", "TARGET", "URI_CAPTURES",
]  # fmt: skip

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

MESSAGES: dict[str, Message] = {
    "": EMPTY, "string": STRING, "text": STRING, "int": INT, "most": INT, "number": NUMBER, "bool": BOOL,
    "bytes": BYTE_STRING, "kv": KV,
    "list": LIST, "struct": STRUCT, "exit": EXIT_ARGS, "target": TARGET, "consumer_spec": CONSUMER_SPEC,
    "authenticate": AUTHENTICATE, "raw_body": RAW_BODY, "uri_captures": URI_CAPTURES, "route": ROUTE,
    "service": SERVICE, "consumer": CONSUMER, "credential": CREDENTIAL, "memory_stats": MEMORY_STATS,
}  # fmt: skip
"""The messages of arguments and answers; a `value` is a google.protobuf.Value itself (see `write_value`)."""
