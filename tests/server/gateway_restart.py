"""Stands in for a gateway whose runner ends by itself, again and again, and is started anew each time.

Called as `gateway_restart.py SOCKET COMMAND...`; prints what is answered to a phase of a request, over MessagePack or,
if the command says so, Protobuf, on a new connection and on one that was pooled before: while the runner serves, and
to what is asked when it is gone, which waits for the next one.
"""

from __future__ import annotations

import contextlib
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
        self.say(method, argument)
        return self.hear()

    def say(self, method: str, argument: object) -> None:
        self.sock.sendall(msgpack.packb([0, 1, f"plugin.{method}", [argument]]))

    def hear(self) -> Any:
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
        self.begin_start()
        return self.end_start()

    def begin_start(self) -> None:
        self.say("StartInstance", {"Name": "deny", "Config": "{}"})

    def end_start(self) -> int:
        return int(self.hear()["Id"])

    def begin(self, instance: int, phase: str) -> None:
        self.say("HandleEvent", {"InstanceId": instance, "EventName": phase})

    def end(self) -> str:
        step = self.hear()
        said = step if isinstance(step, str) or step["Data"] == "ret" else step["Data"]["Args"][0]
        return str(said if isinstance(said, str | int) else said["Data"])

    def access(self, instance: int) -> str:
        self.begin(instance, "access")
        return self.end_access()

    def end_access(self) -> str:
        said = self.end().partition(" #")[0]
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

    def begin_start(self) -> None:
        self._call(start_instance={"name": "deny", "config": b"{}"})

    def end_start(self) -> int:
        return int(RPC_RETURN.decode(self._frame())["instance_status"].get("instance_id", 0))

    def begin(self, instance: int, phase: str) -> None:
        with contextlib.suppress(OSError):  # `end` will tell
            self._call(handle_event={"instance_id": instance, "event_name": phase})

    def end(self) -> str:
        try:
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
        anew = kind(path)
        for each in (anew, pooled):
            each.begin(instance, "access")
        if kind is Connection:  # nobody can go on with it
            step = kind(path)
            step.say("Step", {"EventId": 5})
            print("gone, a step:", step.end_access())
            another = kind(path)
            another.begin_start()
        runner = start(list(command), log)
        print("waited:", anew.end_access())
        print("waited, pooled:", pooled.end_access())
        if kind is Connection:
            print("waited, another:", "an id" if another.end_start() > 0 else "none")
        print("anew, pooled:", later.access(instance), flush=True)
    runner.terminate()
    runner.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
