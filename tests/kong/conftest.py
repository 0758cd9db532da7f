"""A plugin server in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MEASURING
from tests.kong.messages import messages
from tests.kong.peer import MsgPackKong, ProtoBufKong


class Server:
    """A plugin server that listens."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path, log: Path, protocol: str) -> None:
        self.process, self.path, self._log, self.protocol = process, path, log, protocol

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

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


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server for plugins given as source: `start("msgpack", "-m", hello="...")`."""
    servers: list[Server] = []

    def begin(protocol: str, *arguments: str, environ: dict[str, str] | None = None, **plugins: str) -> Server:
        directory = tmp_path / "plugins"
        directory.mkdir(exist_ok=True)
        for name, source in plugins.items():
            (directory / f"{name}.py").write_text(source)
        path, log = tmp_path / "k.sock", tmp_path / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "kong_pdk.cli", "-d", directory, "-p", tmp_path, "--socket-name", "k.sock",
                 "--protocol", protocol, "-v", *arguments],
                env={**MEASURING, **(environ or {})}, stdout=file, stderr=file,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while "listening" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        servers.append(Server(process, path, log, protocol))
        return servers[-1]

    yield begin
    for server in servers:
        server.process.terminate()
        server.process.wait(10)
