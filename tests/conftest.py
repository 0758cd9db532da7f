"""Fixtures for all tests: real runner processes, and a peer that speaks APISIX's side of the protocol."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from gatewright.observe.control import ask_json
from tests.collector import Collector
from tests.launching import Process, launch
from tests.peer import Peer

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# A machine that is busy is no failure of ours.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def own_levels() -> Iterator[None]:
    """Leave the loggers' levels as they were: a command that a test runs in this process sets them for itself."""
    loggers = [logging.getLogger(name) for name in ("gatewright.runtime", "gatewright.dev")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


MEASURING = {name: value for name, value in os.environ.items() if name.startswith("COV")}
MEASURING["GATEWRIGHT_DRAIN"] = "5"
"""What the coverage measurement wants to find in an otherwise empty environment, and the time that writing its files
takes on a busy machine: a runner that ends within its drain time ends with 0."""


class RunnerProcess:
    """A runner in a process of its own, listening on a unix socket."""

    def __init__(self, process: Process, socket: Path, log: Path) -> None:
        self.process = process
        self.socket = socket
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def peer(self) -> Peer:
        return Peer.connect(self.socket)

    def status(self) -> dict[str, Any]:
        return ask_json(f"{self.socket}.control", "/status")[1]

    def workers(self) -> list[dict[str, Any]]:
        """The workers that serve."""
        return [worker for worker in self.status()["workers"] if worker["stage"] == "ready"]

    def wait_for(self, what: Callable[[], object], seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"it didn't come true:\n{self.log}"
            time.sleep(0.02)

    def wait_for_log(self, text: str, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < deadline, f"no {text!r} in the log:\n{self.log}"
            time.sleep(0.01)

    def wait_until_listening(self, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                Peer.connect(self.socket).close()
                return
            except OSError:
                assert self.process.poll() is None, f"the runner ended with {self.process.returncode}:\n{self.log}"
                assert time.monotonic() < deadline, f"the runner doesn't listen:\n{self.log}"
                time.sleep(0.02)

    def stop(self) -> int:
        self.wait_for(lambda: self.process.poll() is not None or hears_sigterm(self.process.pid))
        self.process.terminate()
        return self.process.wait(15)


def hears_sigterm(pid: int) -> bool:
    """Whether a process has a handler for it: a runner listens a moment before it has."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def end(process: Process | subprocess.Popen[Any]) -> None:
    """End a runner whatever it is at: told twice, it waits for no call."""
    for seconds in (1.5, 5):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
    if process.poll() is None:
        process.kill()
        process.wait()


StartRunner = Callable[..., RunnerProcess]


@pytest.fixture
def start_runner(tmp_path: Path) -> Iterator[StartRunner]:
    """Start `command` (by default `gatewright run`) and wait until it listens; it's ended with the test."""
    started: list[RunnerProcess] = []

    def start(
        *arguments: str | Path,
        command: Sequence[str] = (sys.executable, "-m", "gatewright", "run"),
        environ: Mapping[str, str] | None = None,
        socket: Path | None = None,
        cwd: Path | None = None,
        wait: bool = True,
    ) -> RunnerProcess:
        number = len(started)
        socket = socket or tmp_path / f"runner-{number}.sock"
        log = tmp_path / f"runner-{number}.log"
        environ = {"APISIX_LISTEN_ADDRESS": f"unix:{socket}"} if environ is None else environ
        environ = {**MEASURING, **environ}
        with log.open("wb") as file:
            process = launch([*command, *arguments], env=environ, output=file, cwd=cwd or tmp_path)
        runner = RunnerProcess(process, socket, log)
        started.append(runner)
        if wait:
            runner.wait_until_listening()
        return runner

    yield start
    for runner in started:
        end(runner.process)


@pytest.fixture
def plugin_dir(tmp_path: Path) -> Callable[..., Path]:
    """Write plugin files into a directory: `plugin_dir(greet="source")`."""

    def write(**sources: str) -> Path:
        directory = tmp_path / "plugins"
        directory.mkdir(exist_ok=True)
        for name, source in sources.items():
            (directory / f"{name}.py").write_text(source)
        return directory

    return write


@pytest.fixture
def environ() -> dict[str, str]:
    return dict(os.environ)


def shared(*parts: str) -> Path:
    """A file of the material that the project was specified with; the test is skipped where it isn't there."""
    path = Path(os.environ.get("GATEWRIGHT_SHARED", SHARED)).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not here: these cases run only beside the specification's material")
    return path


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
