"""The messages of `pluginsocket.proto`, compiled by Google's own compiler and handled by its own library."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, struct_pb2

import gatewright.gateways.kong as package

PROTO = Path(package.__file__).parent / "pluginsocket.proto"
_RPC = re.compile(r"rpc \w+\((\S+)\) returns \((\S+)\);  // (\S+)")


class Messages:
    """Message classes by name, and the methods' input and output."""

    def __init__(self, descriptors: bytes) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        self._classes: dict[str, Any] = {}
        """Kept: the library itself may hand out one that is being collected, in another thread, and then crashes."""
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
            self._pool.Add(file)  # type: ignore[no-untyped-call]
        self.methods = {
            name: (self._class(given), self._class(wanted)) for given, wanted, name in _RPC.findall(PROTO.read_text())
        }

    def __getattr__(self, name: str) -> Any:
        return self._class(name)

    def _class(self, name: str) -> Any:
        full = name if "." in name else f"kong_plugin_protocol.{name}"
        if full not in self._classes:
            self._classes[full] = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(full))
        return self._classes[full]

    def plain(self, value: Any) -> Any:
        """A google.protobuf.Value, Struct or ListValue as Python has it."""
        kind = value.DESCRIPTOR.name
        if kind == "Struct":
            return {name: self.plain(item) for name, item in value.fields.items()}
        if kind == "ListValue":
            return [self.plain(item) for item in value.values]
        which = value.WhichOneof("kind")
        if which in (None, "null_value"):
            return None
        inner = getattr(value, which)
        return self.plain(inner) if which in ("struct_value", "list_value") else inner

    def positional(self, message: Any) -> list[Any]:
        """A method's arguments, in order (pb_rpc.lua, `pb_unwrap`)."""
        kind = message.DESCRIPTOR.name
        if kind == "Empty":
            return []
        if kind == "Struct":
            return [self.plain(message)]
        if kind == "ListValue":
            return self.plain(message)
        values = []
        for field in message.DESCRIPTOR.fields:
            value = getattr(message, field.name)
            if field.message_type is not None and field.message_type.full_name.startswith("google"):
                value = self.plain(value)
            elif field.message_type is not None:
                value = json_format.MessageToDict(value, preserving_proto_field_name=True)
            values.append(value)
        return values

    def wrap(self, wanted: Any, value: Any) -> Any:
        """A PDK function's value as a message (pb_rpc.lua, `pb_wrap`)."""
        message = wanted()
        kind = message.DESCRIPTOR.name
        if kind == "Struct":
            json_format.ParseDict(value, message)
        elif kind == "Value":
            message.MergeFromString(_value_bytes(value))
        elif kind in ("String", "Int", "Number", "Bool", "ByteString"):
            message.v = value
        elif kind == "RawBodyResult":
            message.content = value
        else:
            json_format.ParseDict(value, message)
        return message


def _value_bytes(value: Any) -> bytes:
    return json_format.ParseDict(value, struct_pb2.Value()).SerializeToString()


@cache
def messages() -> Messages:
    """Compile once."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO.parent}", "--include_imports"]
    with tempfile.NamedTemporaryFile() as target:
        subprocess.run([*command, f"--descriptor_set_out={target.name}", PROTO], check=True)
        return Messages(target.read())
