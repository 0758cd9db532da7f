"""`benchmark/compare.sh`, against a gateway that has nothing to do with it but its routes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.plugins.redis_servers import free_port

COMPARE = ROOT / "benchmark" / "compare.sh"


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMPARE, *arguments], capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.long
def test_lua_and_python_on_one_gateway(tmp_path: Path) -> None:
    pytest.importorskip("jwt")
    port = free_port()
    only = ["--only", "header change", "token check"]
    printed = compare("--print-routes", *only, "--upstream", f"127.0.0.1:{port}")
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.endswith("#END\n")
    assert len(yaml.safe_load(printed.stdout)["routes"]) == 6
    assert "&id" not in printed.stdout, "APISIX's reader knows no references"
    routes = tmp_path / "apisix.yaml"
    routes.write_text(printed.stdout)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gatewright", "dev", str(ROOT / "benchmarks" / "plugins"), "--routes", str(routes)]
    with out.open("w") as file:
        gateway = subprocess.Popen([*command, "--port", "0"], stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 60
        while "Listening on" not in out.read_text():
            assert gateway.poll() is None, out.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        url = out.read_text().partition("Listening on ")[2].partition(",")[0]
        address = url.removeprefix("http://")
        run = compare("-u", address, *only, "--upstream", f":{port}", "-s", "0.3", "-r", "1", "-c", "4")
    finally:
        gateway.send_signal(signal.SIGINT)
        gateway.wait(20)
    assert run.returncode == 1, run.stdout + run.stderr
    missing = "| token check | Lua | lets requests without a token pass: is jwt-auth enabled there? |"
    assert missing in run.stdout, "APISIX passes over a plugin that it doesn't have"
    rows = re.findall(r"^\| ([a-z ]+) \| (\S+) \| ([\d,]+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \| (\d+|-) \|$",
                      run.stdout, re.MULTILINE)  # fmt: skip
    assert [row[:2] for row in rows] == [
        ("nothing", "-"), ("nothing", "Python"), ("header change", "Lua"), ("header change", "Python"),
        ("token check", "Python"),
    ]  # fmt: skip


def test_a_gateway_without_its_routes_is_told_of_in_words() -> None:
    run = compare("-u", f"http://127.0.0.1:{free_port()}", "--only", "header change")
    assert run.returncode == 1
    assert run.stdout.count("Connection refused") == 4


def test_work_that_is_none_is_refused() -> None:
    run = compare("--only", "haeder change")
    assert run.returncode == 2
    assert "header change" in run.stderr
