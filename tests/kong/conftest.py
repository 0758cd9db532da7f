"""A plugin server in a process of its own."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MEASURING, end
from tests.kong.messages import messages
from tests.kong.peer import MsgPackKong, ProtoBufKong
from tests.launching import Process, launch


class Server:
    """A plugin server that listens."""

    def __init__(self, process: Process, directory: Path, protocol: str) -> None:
        self.process, self.protocol = process, protocol
        self.path, self.plugins = directory / "k.sock", directory / "plugins"
        self._log, self._seen = directory / "log", 0

    @property
    def log(self) -> str:
        """What it has logged, for this test."""
        return self._log.read_bytes()[self._seen :].decode(errors="replace")

    def begin_log(self) -> None:
        """Leave out of the log what other tests have made of it."""
        self._seen = self._log.stat().st_size

    def kong(self, connections: int = 2) -> Any:
        if self.protocol == "msgpack":
            return MsgPackKong(self.path, connections)
        return ProtoBufKong(self.path, messages())


Start = Callable[..., Server]


def wait_until(what: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it didn't come true"
        time.sleep(0.02)


def can_connect(path: Path) -> bool:
    """Whether somebody listens: a socket's file is there a moment before that."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def begin(
    directory: Path, protocol: str, arguments: Sequence[str], environ: Mapping[str, str], plugins: Mapping[str, str]
) -> Server:
    """Start a server with all that is its own in a directory, and wait until it listens."""
    (directory / "plugins").mkdir(exist_ok=True)
    for name, source in plugins.items():
        (directory / "plugins" / f"{name}.py").write_text(source)
    with (directory / "log").open("w") as file:
        process = launch(
            [sys.executable, "-m", "kong_pdk.cli", "-d", directory / "plugins", "-p", directory, "--socket-name",
             "k.sock", "--protocol", protocol, "-v", *arguments],
            env={**MEASURING, **environ}, output=file,
        )  # fmt: skip
    server = Server(process, directory, protocol)
    deadline = time.monotonic() + 30
    while "listening" not in server.log:
        assert process.poll() is None, server.log
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server for plugins given as source: `start("msgpack", "-m", hello="...")`."""
    servers: list[Server] = []

    def begin_own(protocol: str, *arguments: str, environ: dict[str, str] | None = None, **plugins: str) -> Server:
        servers.append(begin(tmp_path, protocol, arguments, environ or {}, plugins))
        return servers[-1]

    yield begin_own
    for server in servers:
        end(server.process)


@pytest.fixture(scope="module")
def served() -> Iterator[dict[object, Server]]:
    """The servers that a module's tests share, by all that makes them differ."""
    servers: dict[object, Server] = {}
    yield servers
    for server in servers.values():
        end(server.process)


@pytest.fixture
def serve(served: dict[object, Server], tmp_path_factory: pytest.TempPathFactory) -> Start:
    """As `start`, for tests that leave their server as they found it: those that ask for the same share one."""

    def begin_or_share(protocol: str, *arguments: str, environ: dict[str, str] | None = None, **plugins: str) -> Server:
        key = (protocol, arguments, *sorted((environ or {}).items()), *sorted(plugins.items()))
        if key in served:
            served[key].begin_log()
        else:
            served[key] = begin(tmp_path_factory.mktemp("served"), protocol, arguments, environ or {}, plugins)
        return served[key]

    return begin_or_share
