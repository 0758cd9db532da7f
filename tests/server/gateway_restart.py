"""Stands in for a gateway whose runner ends by itself, again and again, and is started anew each time.

Called as `gateway_restart.py SOCKET COMMAND...`; prints what is answered to a phase of a request, over MessagePack or,
if the command says so, Protobuf, on a new connection and on one that was pooled before: while the runner serves, when
it is gone, and when the next one is there.
"""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgpack
from gateway_master import entitle

from gatewright.gateways.kong.messages import EXIT_ARGS, RPC_CALL, RPC_RETURN

LENGTH = struct.Struct("=I")


class Connection:
    """A connection of the gateway's. What comes is read as it reads: some of it at a time, whole messages at least."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(path)

    def ask(self, method: str, argument: object) -> Any:
        self.sock.sendall(msgpack.packb([0, 1, f"plugin.{method}", [argument]]))
        unpacker = msgpack.Unpacker()
        while True:
            unpacker.feed(self.sock.recv(4096))
            for _, _, error, answer in unpacker:
                return error or answer

    @property
    def can_be_pooled(self) -> bool:
        """Nothing came after the answer, and it's open."""
        self.sock.setblocking(False)
        try:
            self.sock.recv(1)
        except BlockingIOError:
            self.sock.settimeout(10)
            return True
        return False

    def start(self) -> int:
        return int(self.ask("StartInstance", {"Name": "deny", "Config": "{}"})["Id"])

    def event(self, instance: int, phase: str) -> str:
        step = self.ask("HandleEvent", {"InstanceId": instance, "EventName": phase})
        said = step if isinstance(step, str) or step["Data"] == "ret" else step["Data"]["Args"][0]
        return str(said if isinstance(said, str | int) else said["Data"])

    def access(self, instance: int) -> str:
        said = self.event(instance, "access")
        return f"{said}{'' if self.can_be_pooled else ' and is left'}"


class ProtobufConnection(Connection):
    """The same over Protobuf."""

    def _frame(self) -> bytes:
        size = LENGTH.unpack(self._whole(LENGTH.size))[0]
        return self._whole(size)

    def _whole(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _call(self, **command: Any) -> None:
        data = RPC_CALL.encode({"sequence": 1, **command})
        self.sock.sendall(LENGTH.pack(len(data)) + data)

    def start(self) -> int:
        self._call(start_instance={"name": "deny", "config": b"{}"})
        return int(RPC_RETURN.decode(self._frame())["instance_status"].get("instance_id", 0))

    def event(self, instance: int, phase: str) -> str:
        try:
            self._call(handle_event={"instance_id": instance, "event_name": phase})
            if self._frame():
                return str(EXIT_ARGS.decode(self._frame())["status"])
            return "ret" if RPC_RETURN.decode(self._frame()) else "?"
        except (EOFError, OSError):
            return "closed"


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    deadline = time.monotonic() + 30
    while b"listening" not in log.read_bytes() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def main(path: str, *command: str) -> None:
    entitle("nginx", "nginx: master process nginx -p /srv/gateway")
    kind = ProtobufConnection if "protobuf" in command else Connection
    log = Path(f"{path}.log")
    runner = start(list(command), log)
    for number in (signal.SIGTERM, signal.SIGKILL):
        used, pooled, later = (kind(path) for _ in range(3))
        instance = used.start()
        print("served:", used.access(instance))
        pooled.access(instance)
        later.access(instance)
        runner.send_signal(number)
        runner.wait()
        print("gone:", kind(path).access(instance))
        print("gone, pooled:", pooled.access(instance))
        print("gone, log:", kind(path).event(instance, "log"))
        print("gone, another:", "an id" if kind(path).start() >= 0 else "none")
        runner = start(list(command), log)
        print("anew, pooled:", later.access(instance).partition(" #")[0], flush=True)
    runner.terminate()
    runner.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
