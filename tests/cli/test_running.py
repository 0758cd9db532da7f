"""The commands that talk to a running runner, and profiling it."""

from __future__ import annotations

import json
import os
import pstats
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_doctor import run
from tests.conftest import MEASURING, RunnerProcess, StartRunner
from tests.peer import Peer

WriteFiles = Callable[..., Path]

SPIN = """
from gatewright import Plugin
def spin_around():
    return sum(range(20000))
class Spin(Plugin):
    version = "4.5"
    def on_request(self, request):
        spin_around()
        request.headers["x"] = "1"
"""


@pytest.fixture
def runner(start_runner: StartRunner, plugin_dir: WriteFiles) -> RunnerProcess:
    runner = start_runner("-p", plugin_dir(spin=SPIN), "--workers", "2")
    runner.wait_for_log("listening")
    return runner


def test_status(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        broken = peer.prepare(("nobody", "{}"), key="route#9")
        with pytest.raises(Exception, match="SERVICE_UNAVAILABLE"):
            peer.request(broken)
    shown = run("status", "--listen", f"unix:{runner.socket}")
    assert shown.returncode == 0
    assert f"unix:{runner.socket}, ready, up" in shown.stdout
    assert "spin    4.5      on_request  " in shown.stdout
    assert "1 configurations" in shown.stdout
    assert "route#9: not ready" in shown.stdout
    assert "no plugin is called 'nobody'" in shown.stdout
    os.kill(runner.workers()[1]["pid"], signal.SIGKILL)
    runner.wait_for(lambda: len(runner.workers()) == 2)
    run("reload", "--listen", f"unix:{runner.socket}")
    shown = run("status", "--listen", f"unix:{runner.socket}")
    assert "killed by SIGKILL" in shown.stdout
    assert "last reload: ok" in shown.stdout
    everything = json.loads(run("status", "--json", "--listen", f"unix:{runner.socket}").stdout)
    assert everything["workers"][0]["generation"] == 2


def test_nobody_to_ask(tmp_path: Path) -> None:
    shown = run("status", "--listen", f"unix:{tmp_path}/none.sock")
    assert shown.returncode == 2
    assert "no runner runs with this control socket" in shown.stderr
    shown = run("status", "--listen", "127.0.0.1:9")
    assert shown.returncode == 2
    assert "has no control socket" in shown.stderr


def test_the_log_level(runner: RunnerProcess) -> None:
    assert run("log-level", "debug", "--listen", f"unix:{runner.socket}").stdout == "log level: debug\n"
    runner.wait_for_log("log level set")
    assert run("log-level", "loud", "--listen", f"unix:{runner.socket}").returncode == 2


def keep_busy(socket: Path, stop: threading.Event) -> None:
    peers = [Peer.connect(socket) for _ in range(4)]
    token = peers[0].prepare(("spin", "{}"))
    while not stop.is_set():
        for peer in peers:
            peer.request(token)
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("suffix", ["svg", *(pytest.param(each, marks=pytest.mark.long) for each in ("json", "txt"))])
def test_profiling_a_worker_names_the_plugins_function(runner: RunnerProcess, tmp_path: Path, suffix: str) -> None:
    if not Path("/proc/sys/kernel").exists() or os.geteuid() != 0:
        pytest.skip("py-spy needs the right to look into another process")
    stop = threading.Event()
    busy = threading.Thread(target=keep_busy, args=(runner.socket, stop))
    busy.start()
    try:
        output = tmp_path / f"profile.{suffix}"
        shown = run("profile", "--listen", f"unix:{runner.socket}", "--seconds", 1, "--output", output)
    finally:
        stop.set()
        busy.join()
    assert shown.returncode == 0, shown.stderr
    assert "spin_around" in output.read_text()
    assert "ended unexpectedly" not in runner.log


def test_profiling_what_is_not_there(runner: RunnerProcess, tmp_path: Path) -> None:
    where = ("--listen", f"unix:{runner.socket}")
    assert "there is no worker 7; there are: 1, 2" in run("profile", *where, "--worker", 7).stderr
    assert "--output ends in .svg" in run("profile", *where, "--output", "x.png").stderr
    assert "py-spy failed" in run("profile", "--pid", 2**22 - 1, "--seconds", 1, "--output", tmp_path / "p.svg").stderr


def test_a_profiler_from_outside_sees_the_plugins(plugin_dir: WriteFiles, tmp_path: Path) -> None:
    plugins, socket, stats = plugin_dir(spin=SPIN), tmp_path / "r.sock", tmp_path / "profile.stats"
    process = subprocess.Popen(
        [sys.executable, "-m", "cProfile", "-o", str(stats), "-m", "gatewright", "run", "-p", str(plugins)],
        env={"APISIX_LISTEN_ADDRESS": f"unix:{socket}", **MEASURING}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    runner = RunnerProcess(process, socket, tmp_path / "none")
    (tmp_path / "none").touch()
    runner.wait_until_listening()
    with runner.peer() as peer:
        token = peer.prepare(("spin", "{}"))
        for _ in range(10):
            peer.request(token)
    process.terminate()
    assert process.wait(15) == 0
    functions = {name: counts[0] for (_, _, name), counts in pstats.Stats(str(stats)).stats.items()}  # type: ignore[attr-defined]
    assert functions["spin_around"] == 10


def test_one_process_without_a_supervisor(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(spin=SPIN), "--workers", "0")
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("spin", "{}"))) is not None
    assert Path(f"/proc/{runner.process.pid}/task/{runner.process.pid}/children").read_text() == ""
    assert runner.stop() == 0
    assert not runner.socket.exists()
