"""What goes out with a PDK call: the arguments as Kong needs them, and as bytes of Protobuf."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from gatewright.errors import PluginError
from gatewright.gateways.kong.messages import (
    AUTHENTICATE,
    BOOL,
    BYTE_STRING,
    CONSUMER_SPEC,
    EMPTY,
    EXIT_ARGS,
    INT,
    KV,
    LIST,
    STRING,
    STRUCT,
    TARGET,
)  # fmt: skip
from gatewright.gateways.kong.protobuf import Message

__all__ = ["INPUTS", "as_json", "exit_headers", "is_whole_in_lua"]

_SHORT = 0x80  # lengths below are one byte
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


def as_json(body: Any, headers: Any) -> tuple[bytes, Any]:
    """A table as a body of `kong.response.exit`, as Kong would write it, and the headers with its type.

    Raises:
        PluginError: it can't be JSON.
    """
    try:
        data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogateescape")
    except (TypeError, ValueError) as error:
        raise PluginError(f"the body can't be JSON: {error}") from None
    if (headers is None or isinstance(headers, dict)) and not any(
        _folded(name) == "content-type" for name in headers or ()
    ):
        headers = {**(headers or {}), "Content-Type": _JSON}
    return data, headers


def is_whole_in_lua(body: Any) -> bool:
    """Whether a table is still the same as one of Lua's, which has no null in a table and one kind of empty table."""
    if isinstance(body, dict):
        return all(item is not None and is_whole_in_lua(item) for item in body.values())
    if isinstance(body, list | tuple):
        return bool(body) and all(item is not None and is_whole_in_lua(item) for item in body)
    return True


def _folded(name: Any) -> str:
    return str(name).lower().replace("_", "-")


def _positional(message: Message, *names: str) -> Callable[[Sequence[Any]], bytes]:
    def encode(args: Sequence[Any]) -> bytes:
        if len(args) > len(names):
            raise PluginError(f"takes {len(names)} arguments at most, {len(args)} were given")
        return message.encode(dict(zip(names, args, strict=False)))

    return encode


def _encode_list(args: Sequence[Any]) -> bytes:
    return LIST.encode({"values": [_loggable(arg) for arg in args]})


def _loggable(value: Any) -> Any:
    """A log line is none to fail for what can't be sent: Kong prints a table's address, whatever is in it."""
    if isinstance(value, list | tuple):
        return [str(item) if item is None or item is False else _loggable(item) for item in value]
    return {name: _loggable(item) for name, item in value.items()} if isinstance(value, dict) else value


def _encode_most(args: Sequence[Any]) -> bytes:
    # Kong takes a number that is not there for 0, which it then refuses.
    return _encode_int(args if args and args[0] is not None else (_MOST_BY_DEFAULT,))


def _encode_exit(args: Sequence[Any]) -> bytes:
    if not args:
        raise PluginError("takes a status, and perhaps a body and headers")
    status, body, headers = (*args, None, None)[:3]
    if isinstance(body, dict | list | tuple):  # tables have no place in the message
        body, headers = as_json(body, headers)
    return _exit_args((status, body, exit_headers(status, body, headers), *args[3:]))


def _encode_struct(args: Sequence[Any]) -> bytes:
    if len(args) != 1 or not isinstance(args[0], dict):
        raise PluginError("takes one dict of names and values")
    return STRUCT.encode({"fields": _kept(args[0])})


def _kept(value: Any) -> Any:
    """A value as Kong can keep it: it takes a null for the text "NULL_VALUE", and in Lua what is not there is nil."""
    if isinstance(value, dict):
        return {name: _kept(item) for name, item in value.items() if item is not None}
    if not isinstance(value, list | tuple):
        return value
    items = list(value)
    while items and items[-1] is None:
        items.pop()
    if any(item is None or item is False for item in items):
        # Kong makes nothing of both (pb_rpc.lua, `structpb_value`), and fails to give back a list that begins so.
        raise PluginError(f"{value!r}: a list with None or False in it, which Kong can't take over Protobuf")
    return [_kept(item) for item in items]


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
    return _any_kv([_kept(arg) for arg in args])


INPUTS: dict[str, Callable[[Sequence[Any]], bytes]] = {
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
"""Makes the bytes of arguments, by what they are."""
