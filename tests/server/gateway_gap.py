"""Stands in for an APISIX whose runner is killed, and is started anew some time later.

Called as `gateway_gap.py SOCKET PLUGIN COMMAND...`; prints what comes of a call of each phase while there is no runner,
if the next one comes and if it doesn't.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from gateway_master import entitle

sys.path.insert(0, str(Path(__file__).parents[2]))

from gatewright.gateways.apisix.replies import RespReply
from tests.peer import Peer, Refused

SECRET = [("Content-Type", "text/plain"), ("Content-Length", "7"), ("X-Secret", "1")]


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    deadline = time.monotonic() + 30
    while b"listening" not in log.read_bytes() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def told(reply: RespReply) -> str:
    names = ",".join(sorted(name for name, _ in reply.headers))
    return f"{reply.status} {names} {(reply.body or b'').decode().strip()}"


def ask(path: str, plugin: str, pooled: Peer | None = None) -> str:
    """A call of the response phase, as APISIX makes it: a token first, and anew if nobody knows it any more."""
    for _ in range(3):
        try:
            if pooled is None:
                with Peer.connect(path) as peer:
                    token = peer.prepare((plugin, "{}"))
            with Peer.connect(path) if pooled is None else pooled as peer:
                return told(peer.response(token if pooled is None else 12345, headers=SECRET))
        except Refused as error:
            if error.code.name != "CONF_TOKEN_NOT_FOUND":
                return f"refused: {error.code.name}"
            pooled = None
    return "no token"


def refused(path: str) -> str:
    with Peer.connect(path) as peer:
        try:
            return str(peer.request(1, "/"))
        except Refused as error:
            return error.code.name


def main(path: str, plugin: str, *command: str) -> None:
    entitle("nginx", "nginx: master process nginx -p /srv/gateway")
    log = Path(f"{path}.log")
    runner = start(list(command), log)
    print("served:", ask(path, plugin))
    pooled = Peer.connect(path)
    pooled.prepare((plugin, "{}"))
    runner.kill()
    runner.wait()
    said: dict[str, str] = {}

    def call(name: str, *args: Peer) -> None:
        said[name] = ask(path, plugin, *args)

    threads = [
        threading.Thread(target=call, args=("waited",)),
        threading.Thread(target=call, args=("waited, pooled", pooled)),
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    print("before the next one comes:", said)
    runner = start(list(command), log)
    for thread in threads:
        thread.join()
    for name, answer in sorted(said.items()):
        print(f"{name}: {answer}")
    runner.kill()
    runner.wait()
    began = time.monotonic()
    print("given up:", ask(path, plugin), "|", refused(path), "|", 5 < time.monotonic() - began < 15)


if __name__ == "__main__":
    main(*sys.argv[1:])
