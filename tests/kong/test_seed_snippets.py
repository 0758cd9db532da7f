"""The snippets and commands of Kong's own document, taken from it and run as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.apisix import seeds
from tests.conftest import MEASURING, ROOT
from tests.kong.peer import MsgPackKong

DOCUMENT = "kong-python-pdk.txt"


def between(first: str, last: str, depths: str, after: str = "") -> str:
    return seeds.flat(DOCUMENT, first, last, depths, after=after)


PHASES = "custom code during the access phase, define a function named access"
OUTSIDE = "Here is an example of using the PDK functions outside of the Plugin"


def plugin_file(tmp_path: Path, body: str, name: str = "py-hello") -> Path:
    """The document's attributes, a plugin class of it, and its last lines."""
    head = between("Schema = (", "priority = 0", "01000")
    tail = between('if __name__ == "__main__":', 'start_dedicated_server("py-hello", Plugin, version, priority)', "011")
    return seeds.write(tmp_path / f"{name}.py", f"#!{sys.executable}\n{head}\n{body}\n{tail}")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., MsgPackKong]]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(file: Path, *arguments: str) -> MsgPackKong:
        log = tmp_path / "log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, str(file), "-p", str(tmp_path), *arguments], stderr=stream, stdout=stream,
                env={"PYTHONPATH": str(ROOT), **MEASURING}, cwd=tmp_path,
            )  # fmt: skip
        started.append(process)
        deadline = time.monotonic() + 20
        while True:
            try:
                return MsgPackKong(tmp_path / "py-hello.sock")
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    yield begin
    for process in started:
        process.terminate()
        process.wait(10)


def test_the_first_class_can_be_dumped(tmp_path: Path) -> None:
    body = between("class Plugin(object):", "pass", "01", after="priority = 0")
    shown = subprocess.check_output(
        [sys.executable, plugin_file(tmp_path, body), "--dump"], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert json.loads(shown)[0]["Phases"] == []


def test_a_phase_handler(run: Callable[..., MsgPackKong], tmp_path: Path) -> None:
    body = between("class Plugin(object):", "pass", "01212", after=PHASES)
    with run(plugin_file(tmp_path, body)) as kong:
        kong.event(kong.start("py-hello", {"message": "x"}), "access", {})


def test_type_hints(run: Callable[..., MsgPackKong], tmp_path: Path) -> None:
    body = between("import kong_pdk.pdk.kong as kong", 'host, err = kong.request.get_header("host")', "001212")
    with run(plugin_file(tmp_path, body)) as kong:
        kong.event(kong.start("py-hello", {}), "access", {"kong.request.get_header": lambda _: "example.com"})
        assert kong.calls == [("kong.request.get_header", ["host"])]


def test_functions_outside_of_the_class(run: Callable[..., MsgPackKong], tmp_path: Path) -> None:
    body = between("import kong_pdk.pdk.kong as kong", "example_access_phase(kong)", "001101212", after=OUTSIDE)
    with run(plugin_file(tmp_path, body)) as kong:
        kong.event(kong.start("py-hello", {}), "access", {"kong.request.get_header": lambda _: "example.com"})
        assert [method for method, _ in kong.calls] == ["kong.request.get_header", "kong.log.info"]


def commands() -> list[str]:
    return re.findall(r"^pluginserver_\w+_(?:start|query)_cmd = (.+)$", seeds.text(DOCUMENT), re.MULTILINE)


@pytest.mark.long
def test_the_commands_of_kong_conf(run: Callable[..., MsgPackKong], tmp_path: Path) -> None:
    body = between("class Plugin(object):", "pass", "01212", after=PHASES)
    file = plugin_file(tmp_path, body)
    file.chmod(0o755)
    lines = commands()
    assert {line.split()[-1] for line in lines if line.endswith("dump")} == {"--dump", "-dump"}
    for line in lines:
        words = [str(file), *line.split()[1:]]
        if "dump" in line:
            shown = subprocess.run(words, capture_output=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
            (info,) = json.loads(shown.stdout)
            assert info["Name"] == "py-hello"
            assert info["Phases"] == ["access"]
            assert info["Schema"]["fields"][0]["config"]["fields"] == [{"message": {"type": "string"}}]
    for mode in ([], ["-v"], ["-m"]):
        with run(file, *mode) as kong:
            kong.event(kong.start("py-hello", {}), "access", {})
        for name in ("py-hello.sock", "py-hello.socket"):  # the next one is not to find this one's
            (tmp_path / name).unlink()
