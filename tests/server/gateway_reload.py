"""Stands in for a gateway that reloads: a master whose second worker starts a server where that of the first listens.

Called as `gateway_reload.py SOCKET COMMAND...`; prints how often nobody listened, and how the second server ended
if it did.
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

from gateway_master import entitle


def start(command: list[str], log: str) -> subprocess.Popen[bytes]:
    with Path(log).open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    deadline = time.monotonic() + 30
    while b"listening" not in Path(log).read_bytes() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def worker(command: list[str], log: str) -> tuple[int, int]:
    """A worker with its server; gives its number and a pipe's end that says when the server listens, or has ended."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        entitle("nginx", "nginx: worker process")
        server = start(command, log)
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
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
    missed, stop = [0], threading.Event()
    thread = threading.Thread(target=dial, args=(path, missed, stop))
    thread.start()
    new, told = worker(list(command), f"{path}.2")
    says = os.read(told, 3).decode()
    os.kill(old, signal.SIGTERM)
    os.waitpid(old, 0)
    time.sleep(0.3)
    stop.set()
    thread.join()
    print(missed[0], says)
    os.kill(new, signal.SIGTERM)
    os.waitpid(new, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
