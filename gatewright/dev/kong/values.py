"""Values between the PDK and the wire, with what Lua makes of them.

Lua has one kind of table and one kind of number, so on the wire an empty map is an empty array and 2.0 is 2; and it has
no `nil` inside tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gatewright.errors import PluginError
from gatewright.gateways.kong.answers import fold_headers
from gatewright.gateways.kong.messages import MESSAGES
from gatewright.gateways.kong.pdk import Method
from gatewright.gateways.kong.protobuf import write_value

__all__ = ["NULL", "LuaError", "MissingPluginError", "from_protobuf", "to_msgpack", "to_protobuf"]

_MULTI_MAPS = frozenset(
    (
        "kong.request.get_query", "kong.request.get_headers", "kong.response.get_headers",
        "kong.service.response.get_headers",
    )
)  # fmt: skip
_RAW = frozenset(("kong.request.get_raw_body", "kong.service.response.get_raw_body"))
_SCALARS: Mapping[str, Any] = {"string": "", "bytes": b"", "int32": 0, "int64": 0, "bool": False, "double": 0.0}


NULL: Final = object()
"""A null within JSON that Kong has read, which goes on as it is."""


class LuaError(Exception):
    """Kong's Lua code raises an error: the plugin's phase ends here."""


class MissingPluginError(LuaError):
    """The plugin isn't there, with which a real Kong would not have started."""


def to_msgpack(method: str, value: Any) -> Any:
    """What goes over MessagePack for a PDK function's value (mp_rpc.lua, `fix_mmap` and `fix_raw`).

    Raises:
        LuaError: it can't be packed.
    """
    if method in _MULTI_MAPS:
        return {name: _lua(item) for name, item in (fold_headers(value) or {}).items()}
    if method in _RAW:
        if not isinstance(value, bytes):
            raise LuaError("bad argument #1 to 'binary' (string expected, got nil)")
        return value
    if isinstance(value, Mapping) and "body_filepath" in value:
        return None  # a body that nginx keeps in a file is nil, and an error that this protocol has no place for
    return _lua(value)


def _lua(value: Any) -> Any:
    if value is NULL:
        return None
    if isinstance(value, Mapping):
        return {name: _lua(item) for name, item in value.items() if item is not None} or []
    if isinstance(value, list | tuple):
        return [_lua(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def from_protobuf(method: Method, data: bytes) -> list[Any]:
    """A PDK function's arguments (pb_rpc.lua, `pb_unwrap`).

    Raises:
        ProtocolError: the bytes are not the method's message.
    """
    message = MESSAGES[method.takes]
    values = message.decode(data)
    if method.takes == "list":
        return [_as_lua(item) for item in values.get("values", [])]
    if method.takes == "struct":
        return [{name: _as_lua(item) for name, item in values.get("fields", {}).items()}]
    out = []
    for name, field in message.fields.items():
        value = values.get(name, _SCALARS.get(field.kind) if isinstance(field.kind, str) else None)
        out.append(_as_lua(value) if field.kind in ("value", "struct") else value)
    return out


def _as_lua(value: Any) -> Any:
    # Kong takes the first of the kinds that Lua holds for true: so `false` is lost on the way.
    if value is False:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_as_lua(item) for item in value]
    if isinstance(value, dict):
        return {name: _as_lua(item) for name, item in value.items()}
    return value


def to_protobuf(method: Method, value: Any) -> bytes:
    """The answer's bytes (pb_rpc.lua, `pb_wrap`); none where the method gives nothing.

    Raises:
        LuaError: the value does not suit the method's message.
    """
    if not method.gives:
        return b""
    try:
        if method.gives == "value":
            return write_value(value)
        if method.gives == "struct":
            fields = {name: True if item is True else item for name, item in (value or {}).items()}
            return MESSAGES["struct"].encode({"fields": fields})
        message = MESSAGES[method.gives]
        if "v" in message.fields:
            return b"" if value is None else message.encode({"v": _checked(method.gives, value)})
        if isinstance(value, bytes):
            value = {"content": value}  # of a raw body
        return b"" if value is None else message.encode(_suiting(message.fields, value))
    except (PluginError, TypeError) as error:
        raise LuaError(f"{method.name}: {error}") from None


def _checked(kind: str, value: Any) -> Any:
    if kind in ("string", "text", "bytes") and not isinstance(value, str | bytes):
        raise TypeError(f"string expected for field 'v', got {type(value).__name__}")
    return int(value) if kind == "int" and isinstance(value, float) else value


def _suiting(fields: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """What of a table has a place in a message. A map where a list is expected has no items for Lua."""
    out = {}
    for name, field in fields.items():
        item = value.get(name)
        if field.repeated and not isinstance(item, Sequence):
            if not isinstance(item, Mapping) or 1 not in item:
                continue
            item = [item[number] for number in range(1, max(item) + 1)]  # Lua's lists begin at 1
        out[name] = item
    return out
