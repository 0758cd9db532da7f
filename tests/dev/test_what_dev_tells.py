"""`gatewright dev` for who writes plugins: it waits, tells what is wrong, explains failures, can be stepped through."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import launching
from tests.conftest import StartRunner

WriteFiles = Callable[..., Path]

GREET = """
import msgspec
from gatewright import Plugin
class Greet(Plugin):
    class Config(msgspec.Struct):
        name: str
    async def on_request(self, request):
        self.log.info("seen by %s", self.config.name)
        print("printed", self.config.name)
        if "x-boom" in request.headers:
            raise RuntimeError("boom with token=hunter2secret")
        request.headers["x-name"] = self.config.name
"""


class Dev:
    """A `gatewright dev` that runs."""

    def __init__(self, process: launching.Process, file: Path) -> None:
        self.process, self._file = process, file

    @property
    def output(self) -> str:
        return self._file.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 30.0, *, times: int = 1) -> None:
        deadline = time.monotonic() + seconds
        while self.output.count(text) < times:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, f"no {text!r}:\n{self.output}"
            time.sleep(0.02)

    @property
    def url(self) -> str:
        self.wait_for("curl -i ")
        return self.output.partition("curl -i ")[2].split()[0]

    def get(self, headers: Mapping[str, str] | None = None) -> tuple[int, str, Mapping[str, str]]:
        try:
            asked = urllib.request.Request(self.url, headers=dict(headers or {}))
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), error.headers

    def get_until(self, status: int, seconds: float = 30.0) -> str:
        deadline = time.monotonic() + seconds
        while (got := self.get())[0] != status:
            assert time.monotonic() < deadline, f"{got}\n{self.output}"
            time.sleep(0.05)
        return got[1]


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    @contextmanager
    def start(*arguments: object, cwd: Path | None = None) -> Iterator[Dev]:
        file = tmp_path / "dev.log"
        command = [sys.executable, "-m", "gatewright", "dev", "--port", "0", *map(str, arguments)]
        process: launching.Process
        with file.open("wb") as out:
            if "--debug" in arguments:  # which somebody talks to
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out, cwd=cwd or tmp_path)
            else:
                process = launching.launch(command, env=os.environ, output=out, cwd=cwd or tmp_path)
        try:
            yield Dev(process, file)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(15)
            if isinstance(process, subprocess.Popen) and process.stdin is not None:
                process.stdin.close()

    yield start


@pytest.mark.parametrize(
    "gateway", ["apisix", *(pytest.param(each, marks=pytest.mark.long) for each in ("lean", "kong", "kong, lean"))]
)
def test_it_waits_for_plugins_and_explains_what_keeps_requests_from_passing(
    dev: Callable[..., Any], plugin_dir: WriteFiles, gateway: str
) -> None:
    directory = plugin_dir()
    as_told = {
        "lean": ("--protocol", "lean"), "kong, lean": ("--gateway", "kong", "--protocol", "lean"),
    }.get(gateway, ("--gateway", gateway))  # fmt: skip
    with dev(directory, *as_told, "--conf", 'greet={"name": "ada"}') as running:
        status, text, headers = running.get()
        assert (status, headers["x-gatewright-development"]) == (503, "failure")
        assert f"no plugins yet in {directory}" in text
        plugin_dir(greet="import nowhere\n")
        running.wait_for("plugin not loaded")
        deadline = time.monotonic() + 30
        while "No module named 'nowhere'" not in running.get_until(503):
            assert time.monotonic() < deadline, running.output
        plugin_dir(greet=GREET)
        assert '"ada"' in running.get_until(200)
        running.wait_for("printed ada")
        running.wait_for("seen by ada")

        status, text, headers = running.get({"x-boom": "1"})
        assert status == (500 if gateway == "kong" else 503)
        assert f"{directory / 'greet.py'}:11" in text
        assert 'raise RuntimeError("boom' in text
        assert f"a real gateway would have sent {status}" in text
        assert "hunter2" not in text
        status, page, headers = running.get({"x-boom": "1", "accept": "text/html,*/*"})
        assert headers["content-type"].startswith("text/html")
        assert "<h1>greet" in page
        assert "/_gatewright/#/calls/" in page
        assert "<mark>  &gt;" in page
        assert "What a real gateway would have sent" in page
        running.wait_for(", greet failed", times=2)  # at the end of the request's line
        log = running.output
        assert re.search(rf"GET /\S* -> {500 if gateway == 'kong' else 503}, [0-9.]+ ms, greet failed", log)
        assert log.count("request refused") == 2, "once for each, whatever the gateway is told"
        assert log.count('raise RuntimeError("boom') == 1, "the same traceback is shown once"
        assert "failed to receive" not in log


def test_what_is_wrong_with_routes_and_configurations_is_told_at_the_start(
    dev: Callable[..., Any], plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    conf = [{"name": "greet", "value": '{"nam": "x"}'}, {"name": "greeet", "value": "{}"}]
    plugins = {"ext-plugin-pre-req": {"conf": conf}, "ext-plugin-post-resp": {"conf": conf[:1]}}
    file = tmp_path / "apisix.yaml"
    file.write_text(json.dumps({"routes": [{"uri": "/*", "id": 1, "plugins": plugins}]}))
    with dev(plugin_dir(greet=GREET), "--routes", file) as running:
        status, text, _ = running.get()
        assert status == 503
        assert "missing required field `name`" in text
        for words in (
            "its value doesn't fit: unknown field 'nam'", "Object missing required field `name`: requests",
            "did you mean greet?",
            f"{file}:1: route 1: ext-plugin-pre-req", f"-> {tmp_path / 'plugins' / 'greet.py'}:5 says what does",
            "greet has no on_response: requests on this route are refused",
        ):  # fmt: skip
            assert words in running.output


@pytest.mark.long
def test_a_plugin_that_needs_a_configuration_refuses_and_settings_are_used(
    dev: Callable[..., Any], plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    plugin_dir(greet=GREET)
    (tmp_path / "gatewright.yaml").write_text("plugins: [plugins]\n")
    with dev(cwd=tmp_path) as running:
        status, text, _ = running.get()
        assert status == 503
        assert "missing required field `name`" in text
        assert "--conf greet='{...}'" in running.output


def test_a_runner_that_runs_already_can_be_asked(
    dev: Callable[..., Any], start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(greet=GREET))
    runner.wait_for_log("listening")
    with dev("--connect", f"unix:{runner.socket}", "--conf", 'greet={"name": "ada"}') as running:
        assert '"ada"' in running.get()[1]
        assert "which ran already" in running.output
        status, text, _ = running.get({"x-boom": "1"})
        assert (status, "greet: plugin failed: request refused: RuntimeError: boom" in text) == (503, True), text
        assert f"the log of the runner at unix:{runner.socket} has more" in text
    assert runner.process.poll() is None


@pytest.mark.parametrize(
    "flags",
    [
        ("--gateway", "apisix"),
        pytest.param(("--protocol", "lean"), marks=pytest.mark.long),
        pytest.param(("--gateway", "kong"), marks=pytest.mark.long),
        pytest.param(("--gateway", "kong", "--protocol", "lean"), marks=pytest.mark.long),
    ],
)
def test_debug_stops_at_breakpoints_takes_new_code_and_leaves_at_once(
    dev: Callable[..., Any], plugin_dir: WriteFiles, flags: tuple[str, ...]
) -> None:
    source = (
        "from gatewright import Plugin\nclass Stops(Plugin):\n    async def on_request(self, request):\n"
        "        shown = 'before'\n        if 'x-stop' in request.headers:\n            breakpoint()\n"
        "        request.headers['x-shown'] = shown\n"
    )
    with dev(plugin_dir(stops=source), "--debug", *flags) as running:
        assert "before" in running.get()[1]
        got: list[str] = []
        asking = threading.Thread(target=lambda: got.append(running.get({"x-stop": "1"})[1]))
        asking.start()
        running.wait_for("(Pdb)")
        running.process.stdin.write(b"p 40 + 2\nshown = 'by hand'\nc\n")
        running.process.stdin.flush()
        asking.join(20)
        assert "by hand" in got[0]
        assert "42" in running.output
        plugin_dir(stops=source.replace("before", "after"))
        running.wait_for("reloaded: stops")
        assert "after" in running.get()[1], running.output

        def ask() -> None:
            with pytest.raises(OSError):
                running.get({"x-stop": "1"})

        asking = threading.Thread(target=ask)
        asking.start()
        deadline = time.monotonic() + 20
        while running.output.count("(Pdb)") < 4:
            assert time.monotonic() < deadline, running.output
            time.sleep(0.02)
        began = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(10) == 130
        assert time.monotonic() - began < 5
        asking.join(20)
