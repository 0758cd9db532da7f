"""One runner and one nginx for a module, with plugins that do what their configuration says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MEASURING, RunnerProcess
from tests.lean.nginx import Nginx
from tests.lean.plugins import SOURCE
from tests.server.conftest import PLUGINS

CONFORMING = Path(__file__).with_name("conforming.py")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunnerProcess]:
    directory = tmp_path_factory.mktemp("runner")
    (directory / "do.py").write_text(PLUGINS)
    (directory / "phases.py").write_text(SOURCE)
    socket, log = directory / "r.sock", directory / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "gatewright", "run", "-p", str(directory), "-p", str(CONFORMING),
             "--no-installed-plugins"],
            env={"APISIX_LISTEN_ADDRESS": f"unix:{socket}", **MEASURING}, stdout=file, stderr=file, cwd=directory,
        )  # fmt: skip
    started = RunnerProcess(process, socket, log)
    started.wait_until_listening()
    yield started
    assert started.stop() == 0, started.log


@pytest.fixture(scope="module")
def nginx(runner: RunnerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    started = Nginx(tmp_path_factory.mktemp("nginx"), runner.socket)
    yield started
    started.stop()


@pytest.fixture
def plugin_file(tmp_path: Path) -> Path:
    path = tmp_path / "do.py"
    path.write_text(PLUGINS)
    return path
