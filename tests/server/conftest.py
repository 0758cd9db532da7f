"""One runner process for a whole module, with plugins that do what their configuration says."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MEASURING, RunnerProcess
from tests.launching import launch
from tests.peer import Peer

PLUGINS = """
import textwrap
from gatewright import Plugin, Response
import asyncio, time

def compiled(phase, code, is_async):
    arguments = "request" if phase == "request" else "request, response"
    source = ("async " if is_async else "") + f"def run({arguments}):\\n" + textwrap.indent(code or "pass", "    ")
    space = {"Response": Response, "asyncio": asyncio, "time": time}
    exec(source, space)
    return space["run"]

class Do(Plugin):
    def __init__(self, config=None):
        super().__init__(config)
        self.run_request = compiled("request", self.config.get("request"), False)
        self.run_response = compiled("response", self.config.get("response"), False)
    def on_request(self, request):
        return self.run_request(request)
    def on_response(self, request, response):
        return self.run_response(request, response)

class DoAsync(Plugin):
    def __init__(self, config=None):
        super().__init__(config)
        self.run_request = compiled("request", self.config.get("request"), True)
        self.run_response = compiled("response", self.config.get("response"), True)
    async def on_request(self, request):
        return await self.run_request(request)
    async def on_response(self, request, response):
        return await self.run_response(request, response)

class DoBlocking(Do):
    blocking = True

class DoSkip(Do):
    on_error = "skip"

class DoQuick(Do):
    timeout = 0.2

class DoQuickAsync(DoAsync):
    timeout = 0.2

class DoQuickBlocking(Do):
    timeout = 0.2
    blocking = True
"""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunnerProcess]:
    directory = tmp_path_factory.mktemp("runner")
    (directory / "do.py").write_text(PLUGINS)
    socket, log = directory / "r.sock", directory / "log"
    with log.open("wb") as file:
        process = launch(
            [sys.executable, "-m", "gatewright", "run", "-p", str(directory / "do.py"), "--no-installed-plugins"],
            env={"APISIX_LISTEN_ADDRESS": f"unix:{socket}", **MEASURING}, output=file, cwd=directory,
        )  # fmt: skip
    started = RunnerProcess(process, socket, log)
    started.wait_until_listening()
    yield started
    assert started.stop() == 0, started.log


@pytest.fixture
def peer(runner: RunnerProcess) -> Iterator[Peer]:
    with runner.peer() as connection:
        yield connection


@pytest.fixture
def prepare(peer: Peer) -> Callable[..., int]:
    """A token for a chain of `(plugin, code)`, or of one `Do` plugin with this code."""

    def make(*codes: str | tuple[str, str], phase: str = "request") -> int:
        conf = []
        for item in codes:
            name, code = ("do", item) if isinstance(item, str) else item
            conf.append((name, json.dumps({phase: textwrap.dedent(code)})))
        return peer.prepare(*conf)

    return make


@pytest.fixture
def source_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "plugins"
    directory.mkdir()
    return directory
