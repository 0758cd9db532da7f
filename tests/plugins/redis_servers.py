"""Real Redis servers: one, one with TLS and users, a set with Sentinels, a Cluster.

`GATEWRIGHT_REDIS=valkey-server` has Valkey, or any other program that stands in for Redis, in their place.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import redis

__all__ = ["RedisProcess", "cluster", "free_port", "sentinels", "wait_for"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_pair() -> int:
    """A free port for a node of a Cluster, which needs the one 10,000 above, too."""
    while True:
        port = free_port()
        try:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port + 10_000))
                return port
        except (OSError, OverflowError):
            continue


def wait_for(what: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if what():
                return
        except (redis.RedisError, OSError):
            pass
        assert time.monotonic() < deadline, "it didn't come true"
        time.sleep(0.05)


class RedisProcess:
    """A redis-server on a free port."""

    def __init__(self, directory: Path, *arguments: str, port: int = 0, config: str = "", sentinel: bool = False):
        program = os.environ.get("GATEWRIGHT_REDIS", "redis-server")
        assert shutil.which(program), f"{program} is needed: `make test` installs redis-server"
        self.port = port or free_port()
        self._directory = directory
        file = directory / f"{self.port}.conf"
        usual = 'save ""\nappendonly no\nbind 127.0.0.1\n' if not sentinel else "bind 127.0.0.1\n"
        file.write_text(f"port {self.port}\ndir {directory}\n{usual}{config}")
        self._command = [program, str(file), *(["--sentinel"] if sentinel else []), *arguments]
        self._client: redis.Redis | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, cwd=self._directory, stdout=subprocess.DEVNULL)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        """The one client of it."""
        if self._client is None:
            self._client = redis.Redis(port=self.port)
        return self._client

    def wait(self) -> RedisProcess:
        wait_for(lambda: self.client().ping())
        return self

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        if self._client is not None:
            self._client.close()
        if self.process.poll() is None:
            self.thaw()
            self.kill()


def cluster(directory: Path) -> Sequence[RedisProcess]:
    """A Cluster of three nodes."""
    config = "cluster-enabled yes\ncluster-node-timeout 2000\n"
    nodes = [
        RedisProcess(directory, config=f"{config}cluster-config-file nodes-{n}.conf\n", port=free_pair())
        for n in range(3)
    ]
    for node in nodes:
        node.wait()
    share = 16384 // 3 + 1
    for number, node in enumerate(nodes):
        node.client().execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, min((number + 1) * share, 16384) - 1)
        nodes[0].client().execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
    wait_for(lambda: all(_is_whole(node) for node in nodes))
    return nodes


def _is_whole(node: RedisProcess) -> bool:
    info = node.client().cluster("INFO")
    return "ok" in str(info.get("cluster_state") if isinstance(info, dict) else info)


def sentinels(directory: Path) -> tuple[RedisProcess, RedisProcess, Sequence[RedisProcess]]:
    """A master, its replica, and three Sentinels that watch them under the name `mymaster`."""
    master = RedisProcess(directory, config="repl-diskless-sync-delay 0\n").wait()
    replica = RedisProcess(directory, config=f"replicaof 127.0.0.1 {master.port}\n").wait()
    wait_for(lambda: replica.client().info("replication")["master_link_status"] == "up")
    config = (
        f"sentinel monitor mymaster 127.0.0.1 {master.port} 2\nsentinel down-after-milliseconds mymaster 1000\n"
        "sentinel failover-timeout mymaster 4000\n"
    )
    watching = [RedisProcess(directory, config=config, sentinel=True).wait() for _ in range(3)]
    for each in watching:
        wait_for(lambda each=each: _knows_all(each))  # type: ignore[misc]
    return master, replica, watching


def _knows_all(sentinel: RedisProcess) -> bool:
    found = sentinel.client().sentinel_master("mymaster")
    return found["num-slaves"] == 1 and found["num-other-sentinels"] == 2
