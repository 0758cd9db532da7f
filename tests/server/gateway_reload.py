"""Stands in for a gateway that reloads: a master whose second worker starts a server where that of the first listens.

Called as `gateway_reload.py SOCKET COMMAND...`; prints how often nobody listened, and how the second server ended
if it did; then what is said in events under way, each of which asks three things, whose steps come to the other server:
over new connections to the second, as those of a worker that is about to exit, or over old ones to the first; and when
the first server is killed, as nginx does that as soon as it has told it to end.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
from gateway_master import entitle


class Kong:
    """A connection, as Kong's Lua code uses it."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(path)

    def ask(self, method: str, argument: object) -> Any:
        self.sock.sendall(msgpack.packb([0, 1, f"plugin.{method}", [argument]]))
        unpacker = msgpack.Unpacker()
        while True:
            data = self.sock.recv(4096)
            if not data:
                return "closed"
            unpacker.feed(data)
            for _, _, error, answer in unpacker:
                return error or answer

    def begin(self) -> int:
        instance = self.ask("StartInstance", {"Name": "nop", "Config": "{}"})["Id"]
        return int(self.ask("HandleEvent", {"InstanceId": instance, "EventName": "access"})["EventId"])

    def step(self, event: int) -> str:
        data = self.ask("Step", {"EventId": event, "Data": "/"})["Data"]
        return str(data if isinstance(data, str) else data["Method"])


def start(command: list[str], log: str) -> subprocess.Popen[bytes]:
    with Path(log).open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    deadline = time.monotonic() + 30
    while b"listening" not in Path(log).read_bytes() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def worker(command: list[str], log: str) -> tuple[int, int]:
    """A worker with its server; gives its number and a pipe's end that says when the server listens, or has ended.

    When it's told to end, it kills the server.
    """
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        entitle("nginx", "nginx: worker process")
        server = start(command, log)
        signal.signal(signal.SIGTERM, lambda *_: (server.terminate(), server.kill()))
        os.write(tell, b"l" if server.poll() is None else b"%d" % server.returncode)
        server.wait()
        os._exit(0)
    os.close(tell)
    return pid, told


def dial(path: str, missed: list[int], stop: threading.Event) -> None:
    while not stop.is_set():
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(path)
            except OSError:
                missed[0] += 1
        time.sleep(0.001)


def main(path: str, *command: str) -> None:
    entitle("nginx", "nginx: master process nginx -p /srv/gateway")
    old, told = worker(list(command), f"{path}.1")
    os.read(told, 1)
    first = [Kong(path) for _ in range(3)]
    events = [each.begin() for each in first]
    missed, stop = [0], threading.Event()
    thread = threading.Thread(target=dial, args=(path, missed, stop))
    thread.start()
    new, told = worker(list(command), f"{path}.2")
    says = os.read(told, 3).decode()
    print("of the first, to the second:", Kong(path).step(events[0]), Kong(path).step(events[0]))
    later = Kong(path).begin()
    print("of the second, to the first:", first[0].step(later), first[0].step(later))
    os.kill(old, signal.SIGTERM)
    os.waitpid(old, 0)
    print("the first is killed, over its connection:", first[1].step(events[1]), Kong(path).step(events[1]))
    print("the first is killed, to the second:", Kong(path).step(events[2]), Kong(path).step(events[2]))
    print("unknown:", Kong(path).step(events[2]))
    time.sleep(0.3)
    stop.set()
    thread.join()
    print(missed[0], says)
    os.kill(new, signal.SIGTERM)
    os.waitpid(new, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
