"""Workers end with their supervisor; what replaces them serves first; what retires is waited for, within bounds."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.gateways.apisix import calls
from gatewright.gateways.apisix.replies import Rewrite
from gatewright.observe.control import ask, ask_json
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Peer

WriteFiles = Callable[..., Path]


def call(token: int) -> bytes:
    return calls.encode_http_req_call(
        id=1, conf_token=token, src_ip=b"\x7f\0\0\1", method="GET", path="/", args=(), headers=()
    )


def reload(runner: RunnerProcess) -> None:
    assert ask_json(f"{runner.socket}.control", "/reload", method="POST", timeout=60)[1]["result"] == "ok"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


HOLDER = """
import signal
from gatewright import Plugin

class Holds(Plugin):
    def on_request(self, request):
        WHAT
"""
HOLDS = {
    "python": "while True: pass",
    "python, and has SIGALRM": "signal.signal(signal.SIGALRM, lambda *_: None)\n        while True: pass",
    "python, and hears no signal": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n        while True: pass",
    # Keeps the interpreter's lock: no thread of the process can look at anything.
    "c": "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')",
}


@pytest.mark.parametrize(
    "how", [how if how == "python" else pytest.param(how, marks=pytest.mark.long) for how in HOLDS]
)
def test_workers_end_with_their_supervisor_whatever_a_plugin_does(
    how: str, start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(holds=HOLDER.replace("WHAT", HOLDS[how])), "--workers", "2")
    runner.wait_for_log("listening")
    workers = [worker["pid"] for worker in runner.workers()]
    with runner.peer() as peer:
        peer.send(call(peer.prepare(("holds", "{}"))))
        time.sleep(0.5)
        runner.process.kill()
        runner.process.wait()
        deadline = time.monotonic() + 12
        while any(map(is_alive, workers)):
            assert time.monotonic() < deadline, [pid for pid in workers if is_alive(pid)]
            time.sleep(0.05)


SLOW_SETUP = """
import time
from gatewright import Plugin

class Db(Plugin):
    def setup(self):
        time.sleep(0.3)
    def on_request(self, request):
        request.headers["x"] = "1"
"""


def test_a_lone_workers_successor_serves_before_all_configurations_are_set_up(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(db=SLOW_SETUP), "--start-timeout", "2")
    with runner.peer() as peer:
        tokens = [peer.prepare(("db", "{}"), key=f"route#{number}") for number in range(20)]
        for token in tokens:
            peer.request(token)
    os.kill(runner.workers()[0]["pid"], signal.SIGKILL)
    began = time.monotonic()
    while True:
        try:
            with runner.peer() as peer:
                assert isinstance(peer.request(tokens[-1]), Rewrite)
            break
        except (EOFError, ConnectionError):
            assert time.monotonic() - began < 20
            time.sleep(0.02)
    assert time.monotonic() - began < 4.5, "twenty set-ups take six seconds"
    with runner.peer() as peer:
        for token in tokens:
            assert isinstance(peer.request(token), Rewrite)
    assert "does not get ready" not in runner.log
    assert len(runner.status()["worker_exits"]) == 1


def test_a_reload_with_slow_set_ups_succeeds(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(db=SLOW_SETUP), "--start-timeout", "2")
    with runner.peer() as peer:
        tokens = [peer.prepare(("db", "{}"), key=f"route#{number}") for number in range(12)]
        for token in tokens:
            peer.request(token)
        reload(runner)
        for token in tokens:
            assert isinstance(peer.request(token), Rewrite)


LONG = """
import asyncio
from gatewright import Plugin

class Long(Plugin):
    timeout = 40
    async def on_request(self, request):
        await asyncio.sleep(float(request.headers.get("x-seconds", "0")))
        request.headers["x"] = "1"
"""


def test_retirement_waits_as_long_as_a_plugin_may_take(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(long=LONG), "--timeout", "0.1")
    with runner.peer() as peer:
        token = peer.prepare(("long", "{}"))
        got = []
        headers = (("x-seconds", "7"),)  # more than the setting, and all that is added to it
        calling = threading.Thread(target=lambda: got.append(peer.request(token, headers=headers)))
        calling.start()
        time.sleep(0.3)
        reload(runner)
        calling.join()
    assert isinstance(got[0], Rewrite)
    assert "retired with calls under way" not in runner.log


@pytest.mark.long
def test_only_so_many_workers_retire_at_once(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(long=LONG), "--workers", "1")
    peers: list[Peer] = []
    with runner.peer() as first:
        token = first.prepare(("long", "{}"))
    for _ in range(8):
        peer = runner.peer()
        peers.append(peer)
        frame = calls.encode_http_req_call(
            id=1,
            conf_token=token,
            src_ip=b"\x7f\0\0\1",
            method="GET",
            path="/",
            args=(),
            headers=(("x-seconds", "39"),),
        )
        peer.send(frame)
        runner.wait_for(lambda: any(w["stage"] == "ready" and w["calls_under_way"] for w in runner.status()["workers"]))
        reload(runner)
    runner.wait_for(lambda: len(runner.status()["workers"]) <= 5)
    assert "too many workers retire at once" in runner.log
    with runner.peer() as peer:
        assert isinstance(peer.request(token), Rewrite)
    for peer in peers:
        peer.close()


def test_readyz_tells_whether_a_call_would_be_answered(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(holds=HOLDER.replace("WHAT", "import time; time.sleep(5)")))
    control = f"{runner.socket}.control"
    runner.wait_for(lambda: ask(control, "/readyz")[0] == 200)
    with runner.peer() as peer:
        peer.send(call(peer.prepare(("holds", "{}"))))
        runner.wait_for(lambda: ask(control, "/readyz")[0] == 503, 4.5)
        assert ask(control, "/healthz")[0] == 200
        runner.wait_for(lambda: ask(control, "/readyz")[0] == 200, 8)
        assert peer.receive()


def test_connections_that_no_worker_takes_wait_in_the_kernel(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    runner = start_runner("-p", plugin_dir(long=LONG), "--stuck-limit", "0")
    runner.wait_for_log("listening")
    worker = runner.workers()[0]["pid"]
    held: list[socket.socket] = []
    try:
        with runner.peer() as peer:
            token = peer.prepare(("long", "{}"))
        os.kill(worker, signal.SIGSTOP)
        for _ in range(2500):
            held.append(socket.socket(socket.AF_UNIX))
            held[-1].setblocking(False)
            try:
                held[-1].connect(str(runner.socket))
            except BlockingIOError:
                break  # the kernel has no more room, either
            time.sleep(0.0001)
        time.sleep(1)
        descriptors = len(os.listdir(f"/proc/{runner.process.pid}/fd"))
        assert 500 < descriptors < 1200
        os.kill(worker, signal.SIGCONT)
        with runner.peer() as peer:
            assert isinstance(peer.request(token), Rewrite)
    finally:
        for sock in held:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
