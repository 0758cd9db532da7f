"""Mistakes of who writes plugins are told once, where they are, and with their cure."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from gatewright.cli import main
from gatewright.observe.short_traceback import short_stack
from gatewright.runtime.failures import FailureLog
from tests.dev.test_what_dev_tells import GREET, dev  # noqa: F401 - a fixture

WriteFiles = Callable[..., Path]


def test_the_answer_says_where_and_how_to_mend_it(
    dev: Callable[..., Any],  # noqa: F811
    plugin_dir: WriteFiles,
) -> None:
    directory = plugin_dir(greet=GREET.replace("(self, request)", "(self, request, more)"))
    with dev(directory, "--conf", 'greet={"name": "ada"}') as running:
        status, text, _ = running.get()
        assert status == 503
        assert f"{directory / 'greet.py'}:7: greet.on_request can't be called: missing a required argument" in text
        assert "-> async def on_request(self, request)" in text
        assert "recorded.py" not in text, "the runner's own frames say nothing to an author"

        plugin_dir(greet="import nowhere\n")
        running.wait_for("not reloaded, all stays as it was")
        assert running.output.count("No module named 'nowhere'") == 1

        plugin_dir(greet=GREET.replace("name: str", "name: int"))
        running.wait_for("reloaded: greet")
        text = running.get()[1]
        assert "Expected `int`, got `str`" in text
        assert f"-> {directory / 'greet.py'}:5 says what does: gatewright schema greet" in text
        running.wait_for(" -> 503", times=2)
        assert running.output.count("plugin configuration is invalid") == 1
        assert "worker=" not in running.output


@pytest.mark.parametrize("gateway", ["apisix", pytest.param("kong", marks=pytest.mark.long)])
def test_a_port_that_is_taken_is_told_with_the_flag_for_another(plugin_dir: WriteFiles, gateway: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        directory = plugin_dir(a="from gatewright import Plugin\nclass A(Plugin):\n    def on_request(self, r): ...\n")
        ran = subprocess.run(
            [sys.executable, "-m", "gatewright", "dev", directory, "--port", "0", "--gateway", gateway,
             "--inspect-port", "0", "--admin", "--admin-port", str(port)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert ran.returncode == 2
    assert f"127.0.0.1:{port}: Address already in use; choose another one with --admin-port" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_repeats_of_a_failure_are_counted() -> None:
    failures = FailureLog()
    with capture_logs() as lines:
        for words in ("one", "one", "one", "two"):
            failures.report("plugin failed", plugin="greet", error=ValueError(words), traceback=True)
    assert [line.get("times") for line in lines] == [None, 2, 3, None]
    assert [line["exc_info"] is not None for line in lines] == [True, False, False, True]


def test_of_a_stack_that_holds_the_loop_the_own_frames_are_shown() -> None:
    outer, inner = (
        f'  File "{__file__}", line {line}, in {name}\n    {name}()\n' for line, name in ((1, "a"), (2, "b"))
    )
    library = f'  File "{json.__file__}", line 3, in loads\n    return 1\n'
    assert short_stack(library + outer + library + inner + library) == inner + outer
    assert short_stack(library) == library, "there is nothing else to show"


@pytest.mark.parametrize("address", ["unix:/nowhere/x.sock", "tcp:127.0.0.1:1"])
def test_nobody_to_connect_to_is_told(address: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "gatewright", "dev", "--port", "0", "--inspect-port", "0", "--connect", address],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "nobody listens at /nowhere/x.sock" in ran.stderr or "--connect tcp:127.0.0.1:1: Connection" in ran.stderr


@pytest.mark.parametrize("flags", [(), pytest.param(("--debug",), marks=pytest.mark.long)])
def test_whatever_changes_is_taken_however_soon(
    dev: Callable[..., Any],  # noqa: F811
    plugin_dir: WriteFiles,
    tmp_path: Path,
    flags: tuple[str, ...],
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "words.txt").write_text("one")
    directory = plugin_dir(
        late=f"from gatewright import Plugin\nWORDS = open({str(data / 'words.txt')!r}).read()\n"
        "class Late(Plugin):\n    async def on_request(self, request):\n        import _lazy\n"
        "        request.headers['x-said'] = WORDS + _lazy.MORE\n",
        _lazy="MORE = '-1'\n",
    )
    with dev(directory, "--watch", data, *flags) as running:
        assert '"one-1"' in running.get()[1]
        lazy = directory / "_lazy.py"
        before = lazy.stat()
        lazy.write_text("MORE = '-2'\n")
        os.utime(lazy, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if within the same second
        running.wait_for("reloaded: late")
        assert '"one-2"' in running.get()[1]
        (data / "words.txt").write_text("two")
        deadline = time.monotonic() + 30
        running.wait_for("words.txt")  # alone or, on a busy machine, with what changed before
        while '"two-2"' not in running.get()[1]:
            assert time.monotonic() < deadline, running.output


class TestKongsForm:
    def test_it_is_called_by_name_as_kong_does(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert CliRunner().invoke(main, ["new", "rate", "--kong"]).exit_code == 0
        assert "access, response" in CliRunner().invoke(main, ["check"]).output
        ran = CliRunner().invoke(main, ["call", "rate", "/x", "-H", "x-user: ada"])
        assert ran.exit_code == 0, ran.output
        assert "x-greeting: hello ada" in ran.output

    def test_as_apisix_the_flag_is_told(self, dev: Callable[..., Any], plugin_dir: WriteFiles) -> None:  # noqa: F811
        directory = plugin_dir(
            rate="Schema = ()\nclass Plugin:\n    def __init__(self, c): ...\n    def access(self, k): ...\n"
        )
        with dev(directory) as running:
            assert "rate: in kong-pdk's form, for Kong alone: gatewright dev --gateway kong" in running.get()[1]
