"""Stands in for a Kong whose plugin server ends while it is at work on many connections, over Protobuf.

Called as `gateway_ends_busy.py SOCKET COUNT FILE COMMAND...`: the plugin goes on once FILE is there, and makes one of
its own beside it before that. Prints what came of the questions that were under way, and of those that were asked later
on the same connections, which the server had left to the keeper.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from gateway_master import entitle
from gateway_restart import ProtobufConnection, start


def what_comes(connection: ProtobufConnection) -> str:
    connection.sock.settimeout(5)
    try:
        return "an answer" if connection.sock.recv(1) else "closed"
    except TimeoutError:
        return "nothing"
    except OSError:
        return "closed"


def main(path: str, count: str, file: str, *command: str) -> None:
    entitle("nginx", "nginx: master process nginx -p /srv/gateway")
    log = Path(f"{path}.log")
    runner = start(list(command), log)
    connections = [ProtobufConnection(path) for _ in range(int(count))]
    instance = connections[0].start()
    for each in connections:
        each.begin(instance, "access")
    while len(list(Path(file).parent.iterdir())) < len(connections):
        time.sleep(0.02)
    runner.terminate()
    time.sleep(0.3)  # it drains now
    Path(file).touch()
    print("under way:", dict(Counter(each.end() for each in connections)))
    runner.wait()
    for each in connections:
        each.begin(instance, "access")
    runner = start(list(command), log)
    print("asked later:", dict(Counter(what_comes(each) for each in connections)), flush=True)
    runner.terminate()
    runner.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
