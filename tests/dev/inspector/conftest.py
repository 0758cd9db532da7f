"""A development gateway of each kind, followed, for all tests of a module."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

PLUGINS = Path(__file__).with_name("plugins.py")


class Development:
    """`gatewright dev` with an inspector."""

    def __init__(self, gateway: str, process: subprocess.Popen[str], record: Path) -> None:
        self.gateway = gateway
        self.record = record
        self.place = record.parent / "plugins"
        self._process = process
        self._log: list[str] = []
        self._errors: list[str] = []
        assert process.stderr is not None
        self._reading = [threading.Thread(target=self._errors.extend, args=(process.stderr,))]
        self._reading[0].start()
        self.port = self._read_port()
        assert process.stdout is not None
        self._reading.append(threading.Thread(target=self._log.extend, args=(process.stdout,)))
        self._reading[1].start()

    def _read_port(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._log.append(line)
            found = re.search(r"curl -i http://127.0.0.1:(\d+)", line)
            if found:
                return int(found[1])
        raise AssertionError(f"it didn't start:\n{''.join(self._log)}{''.join(self._errors)}")

    @property
    def log(self) -> str:
        return "".join([*self._log, *self._errors])

    @property
    def page(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+/_gatewright/", self.log)
        assert found, self.log
        return found[0]

    def ask(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, target, body, headers or {})
        status = connection.getresponse().status
        connection.close()
        return status

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def recorded(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> dict[str, Any]:
        """A request's record."""
        before = len(self.records())
        self.ask(method, target, headers, body)
        self.wait_for(lambda: len(self.records()) > before)
        return self.records()[-1]

    def wait_for(self, what: Callable[[], object], seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"it didn't come true:\n{self.log}"
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)
        for thread in self._reading:
            thread.join(5)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


def start(gateway: str, directory: Path, arguments: Sequence[str] = ()) -> Development:
    place = directory / "plugins"
    place.mkdir()
    (place / "plugins.py").write_text(PLUGINS.read_text())
    record = directory / "record.jsonl"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gatewright", "dev", str(place), "--gateway", gateway, "--port", "0"),
            *("--record", str(record), *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GATEWRIGHT_DRAIN": "5"},
    )
    try:
        return Development(gateway, process, record)
    except BaseException:
        process.kill()
        raise


def _running(gateway: str, factory: pytest.TempPathFactory) -> Iterator[Development]:
    running = start(gateway, factory.mktemp(gateway), ["--inspect-port", "0"])
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def as_apisix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Development]:
    yield from _running("apisix", tmp_path_factory)


@pytest.fixture(scope="session")
def as_kong(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Development]:
    yield from _running("kong", tmp_path_factory)


@pytest.fixture(params=["apisix", "kong"])
def development(request: pytest.FixtureRequest) -> Development:
    running: Development = request.getfixturevalue(f"as_{request.param}")
    return running
