"""Kong's side of both plugin server protocols over blocking sockets, as its Lua code does it.

MessagePack takes a connection from a pool for each call and puts it back at once, so steps move between connections;
Protobuf keeps an event on its connection. What the PDK gives is a dict of functions by method.
"""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack

Pdk = Mapping[str, Callable[..., Any]]


class Exited(Exception):
    """The plugin answered the request."""

    def __init__(self, status: int, body: Any = None, headers: Any = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


class Failed(Exception):
    """The plugin server answered with an error."""


class Closed(Exception):
    """The plugin server closed the connection."""


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


class MsgPackKong:
    """`mp_rpc.lua`."""

    def __init__(self, path: Path, connections: int = 2) -> None:
        self.pool = [connect(path) for _ in range(connections)]
        self.unpackers = [msgpack.Unpacker(strict_map_key=False, unicode_errors="surrogateescape") for _ in self.pool]
        self.message = 0
        self.calls: list[tuple[str, list[Any]]] = []

    def close(self) -> None:
        for sock in self.pool:
            sock.close()

    def __enter__(self) -> MsgPackKong:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rpc(self, method: str, *args: Any) -> Any:
        """One call, over the next connection of the pool."""
        self.message += 1
        number = self.message % len(self.pool)
        sock, unpacker = self.pool[number], self.unpackers[number]
        sock.sendall(msgpack.packb([0, self.message, method, list(args)], unicode_errors="surrogateescape"))
        while True:
            for kind, message, error, result in unpacker:
                assert kind == 1
                assert message == self.message
                if error is not None:
                    raise Failed(error)
                return result
            data = sock.recv(65536)
            if not data:
                raise Closed
            unpacker.feed(data)

    def start(self, name: str, config: Any) -> int:
        text = config if isinstance(config, str) else json.dumps(config)
        return self.rpc("plugin.StartInstance", {"Name": name, "Config": text})["Id"]

    def stop(self, instance: int) -> Any:
        return self.rpc("plugin.CloseInstance", instance)

    def event(self, instance: int, phase: str, pdk: Pdk) -> None:
        """One phase of a request."""
        step = self.rpc("plugin.HandleEvent", {"InstanceId": instance, "EventName": phase})
        while step["Data"] != "ret":
            spelled, args = step["Data"]["Method"], step["Data"]["Args"]
            method = ".".join(re.findall(r"\w+", spelled))  # rpc/util.lua, `index_table`
            self.calls.append((method, args))
            if method == "kong.response.exit":
                raise Exited(*args)
            value = pdk[method](*args) if method in pdk else None
            answer = {"EventId": step["EventId"]}
            if isinstance(value, Exception):
                step = self.rpc("plugin.StepError", {**answer, "Data": str(value)})
                continue
            if value is not None:
                answer["Data"] = value
            step = self.rpc("plugin.Step", answer)


_LENGTH = struct.Struct("=I")


class ProtoBufKong:
    """`pb_rpc.lua`; the messages are those of the published definition, handled by Google's own library."""

    def __init__(self, path: Path, messages: Any) -> None:
        self.path = path
        self.messages = messages
        self.idle: list[socket.socket] = []
        self.sequence = 0
        self.calls: list[tuple[str, list[Any]]] = []

    def close(self) -> None:
        for sock in self.idle:
            sock.close()

    def __enter__(self) -> ProtoBufKong:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rpc(self, command: str, fields: Mapping[str, Any], pdk: Pdk | None = None) -> Any:
        sock = self.idle.pop() if self.idle else connect(self.path)
        self.sequence += 1
        call = self.messages.RpcCall(sequence=self.sequence)
        getattr(call, command).SetInParent()
        for name, value in fields.items():
            setattr(getattr(call, command), name, value)
        try:
            self._send(sock, call.SerializeToString())
            while pdk is not None:
                method = self._receive(sock).decode()
                if not method:
                    break
                self._send(sock, self._answer(method, self._receive(sock), pdk))
            answer = self.messages.RpcReturn.FromString(self._receive(sock))
        except BaseException:
            sock.close()
            raise
        assert answer.sequence == self.sequence
        self.idle.append(sock)
        return answer

    def _answer(self, method: str, raw: bytes, pdk: Pdk) -> bytes:
        given, wanted = self.messages.methods[method]
        args = self.messages.positional(given.FromString(raw))
        self.calls.append((method, args))
        if method == "kong.response.exit":
            raise Exited(*args)
        value = pdk[method](*args) if method in pdk else None
        return b"" if value is None else self.messages.wrap(wanted, value).SerializeToString()

    @staticmethod
    def _send(sock: socket.socket, data: bytes) -> None:
        sock.sendall(_LENGTH.pack(len(data)) + data)

    @classmethod
    def _receive(cls, sock: socket.socket) -> bytes:
        return cls._exactly(sock, _LENGTH.unpack(cls._exactly(sock, 4))[0])

    @staticmethod
    def _exactly(sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = sock.recv(size - len(data))
            if not chunk:
                raise Closed
            data += chunk
        return data

    def start(self, name: str, config: Any) -> int:
        text = config if isinstance(config, str) else json.dumps(config)
        answer = self.rpc("cmd_start_instance", {"name": name, "config": text.encode()})
        return answer.instance_status.instance_id

    def stop(self, instance: int) -> Any:
        return self.rpc("cmd_close_instance", {"instance_id": instance})

    def event(self, instance: int, phase: str, pdk: Pdk) -> None:
        self.rpc("cmd_handle_event", {"instance_id": instance, "event_name": phase}, pdk)
