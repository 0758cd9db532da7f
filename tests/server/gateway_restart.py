"""Stands in for a gateway whose runner ends by itself, again and again, and is started anew each time.

Called as `gateway_restart.py SOCKET COMMAND...`; prints what is answered over MessagePack to a phase of a request, on a
new connection and on one that was pooled before: while the runner serves, when it is gone, and when the next one is
there.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgpack
from gateway_master import entitle


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

    def access(self, instance: int) -> str:
        step = self.ask("HandleEvent", {"InstanceId": instance, "EventName": "access"})
        said = step if isinstance(step, str) else f"{step['Data']['Args'][0]}"
        return f"{said}{'' if self.can_be_pooled else ' and is left'}"


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    deadline = time.monotonic() + 30
    while b"listening" not in log.read_bytes() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def main(path: str, *command: str) -> None:
    entitle("nginx", "nginx: master process nginx -p /srv/gateway")
    log = Path(f"{path}.log")
    runner = start(list(command), log)
    for number in (signal.SIGTERM, signal.SIGKILL):
        used, pooled, later = (Connection(path) for _ in range(3))
        instance = used.ask("StartInstance", {"Name": "deny", "Config": "{}"})["Id"]
        print("served:", used.access(instance))
        pooled.access(instance)
        later.access(instance)
        runner.send_signal(number)
        runner.wait()
        print("gone:", Connection(path).access(instance))
        print("gone, pooled:", pooled.access(instance))
        print("gone, log:", Connection(path).ask("HandleEvent", {"InstanceId": instance, "EventName": "log"})["Data"])
        runner = start(list(command), log)
        print("anew, pooled:", later.access(instance).partition(" #")[0], flush=True)
    runner.terminate()
    runner.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
