"""Bad moments and bad plugins: what a runner has to get through without losing or letting through a request."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.errors import DeadlineExceededError
from gatewright.gateways.apisix import calls
from gatewright.gateways.apisix.replies import Rewrite
from gatewright.observe.control import ask, ask_json
from gatewright.observe.metrics import RunnerCounts, exposition
from gatewright.observe.report import TallyReport, WorkerReport
from gatewright.runtime.bridge import Bridge
from gatewright.runtime.stats import BOUNDS
from gatewright.runtime.strands import Strand
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Refused

WriteFiles = Callable[..., Path]

PLAIN = """
from gatewright import Plugin
class Plain(Plugin):
    def on_request(self, request):
        request.headers["x"] = "1"
class Body(Plugin):
    async def on_request(self, request):
        await request.body()
"""


def request_frame(token: int, path: str = "/") -> bytes:
    return calls.encode_http_req_call(
        id=0, conf_token=token, src_ip=b"\x7f\0\0\1", method="GET", path=path, args=(), headers=()
    )


def reload(runner: RunnerProcess) -> dict[str, object]:
    return ask_json(f"{runner.socket}.control", "/reload", method="POST", timeout=60)[1]


# --- connections


@pytest.mark.alone
@pytest.mark.long
def test_a_worker_with_very_many_connections_hands_all_of_them_over(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(plain=PLAIN))
    runner.wait_for_log("listening")
    peers = []
    for number in range(2500):
        peers.append(runner.peer())
        if number % 500 == 0:
            time.sleep(0.1)  # no more wait to be accepted than the socket's queue holds
    token = peers[0].prepare(("plain", "{}"))
    assert reload(runner)["result"] == "ok"
    for peer in peers:
        assert peer.request(token) == Rewrite(headers=[("x", "1")])
    for peer in peers:
        peer.close()


@pytest.mark.long
def test_nothing_is_lost_when_descriptors_run_short(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    command = ["prlimit", "--nofile=128:128", sys.executable, "-m", "gatewright", "run"]
    runner = start_runner("-p", plugin_dir(plain=PLAIN), "--workers", "3", command=command)
    runner.wait_for_log("listening")
    peers = []
    for _ in range(230):  # two generations of workers and the supervisor together have hardly more room
        peers.append(runner.peer())
        time.sleep(0.002)
    token = peers[0].prepare(("plain", "{}"))
    for _ in range(2):
        assert reload(runner)["result"] == "ok"
        runner.wait_for(lambda: len(runner.status()["workers"]) == 3)
    for peer in peers:
        assert peer.request(token) == Rewrite(headers=[("x", "1")])
        peer.close()


def test_connections_that_come_while_their_worker_retires_are_served(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(plain=PLAIN))
    with runner.peer() as peer:
        token = peer.prepare(("plain", "{}"))
    stop = threading.Event()

    def reload_on_and_on() -> None:
        while not stop.is_set():
            reload(runner)

    thread = threading.Thread(target=reload_on_and_on)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while max(worker["generation"] for worker in runner.status()["workers"]) <= 6:
            assert time.monotonic() < deadline, runner.log
            for _ in range(50):
                with runner.peer() as peer:
                    assert peer.request(token) == Rewrite(headers=[("x", "1")])
    finally:
        stop.set()
        thread.join()


# --- waiting


async def test_what_a_wait_waited_for_comes_too_late_to_wake_anything_else() -> None:
    """A future is done, but before the strand is woken its deadline ends the wait."""
    loop = asyncio.get_running_loop()
    done: list[object] = []

    def run() -> None:
        bridge = Bridge(loop)
        future: asyncio.Future[int] = loop.create_future()

        def first(strand: Strand, _: object) -> None:
            try:
                bridge.wait_future(future)
            except DeadlineExceededError as error:
                done.append(type(error).__name__)

        def second(strand: Strand, _: object) -> None:
            done.append("waiting")
            done.append(bridge.wait_for_resume())

        bridge.start(first, None)
        strand = next(iter(bridge._waiting))
        future.set_result(1)  # wakes the strand in the next turn
        bridge.throw(strand, DeadlineExceededError("too late"))  # ends the wait in this one
        bridge.start(second, None)  # runs in the same strand
        loop.call_later(0.05, lambda: bridge.resume(strand, "answer"))
        loop.call_later(0.1, lambda: (bridge.close(), finished.set()))

    finished = asyncio.Event()
    loop.call_soon(run)
    await finished.wait()
    assert done == ["DeadlineExceededError", "waiting", "answer"]


# --- reloads at bad moments

CRAWLS = "import time\ntime.sleep(1.5)\nraise RuntimeError('broken, after a while')\n"


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_dies_during_a_reload_that_fails_is_replaced(
    start_runner: StartRunner, plugin_dir: WriteFiles, workers: int
) -> None:
    plugins = plugin_dir(plain=PLAIN)
    runner = start_runner("-p", plugins, "--workers", str(workers))
    runner.wait_for_log("listening")
    (plugins / "crawls.py").write_text(CRAWLS)
    runner.process.send_signal(signal.SIGHUP)
    runner.wait_for_log("reloading")
    os.kill(runner.workers()[0]["pid"], signal.SIGKILL)
    runner.wait_for_log("reload failed")
    (plugins / "crawls.py").unlink()
    runner.wait_for(lambda: len(runner.workers()) == workers)
    time.sleep(0.5)
    assert sorted(worker["number"] for worker in runner.workers()) == list(range(1, workers + 1))


def test_workers_of_a_failed_reload_never_serve(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    plugins = plugin_dir(plain=PLAIN)
    runner = start_runner("-p", plugins, "--workers", "6")
    runner.wait_for_log("listening")
    (plugins / "broken.py").write_text("def x(:\n")
    for _ in range(4):
        assert reload(runner)["result"] == "failed"
    time.sleep(0.5)
    assert {worker["generation"] for worker in runner.status()["workers"]} == {1}
    assert len(runner.workers()) == 6


def test_a_wish_to_retire_during_a_reload_is_not_forgotten(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    plugins = plugin_dir(plain=PLAIN)
    runner = start_runner("-p", plugins)
    runner.wait_for_log("listening")
    pid = runner.workers()[0]["pid"]
    (plugins / "crawls.py").write_text(CRAWLS)
    runner.process.send_signal(signal.SIGHUP)
    runner.wait_for_log("reloading")
    os.kill(pid, signal.SIGTERM)
    runner.wait_for_log("reload failed")
    (plugins / "crawls.py").unlink()
    runner.wait_for(lambda: runner.workers() and runner.workers()[0]["pid"] != pid)


def test_each_request_for_a_reload_gets_its_own_result(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    plugins = plugin_dir(plain=PLAIN, slow="import time\ntime.sleep(1)\n")
    runner = start_runner("-p", plugins)
    runner.wait_for_log("listening")
    results: list[object] = []
    first = threading.Thread(target=lambda: results.append(reload(runner)["result"]))
    first.start()
    time.sleep(0.3)
    (plugins / "broken.py").write_text("def x(:\n")
    second = reload(runner)
    first.join()
    assert second["result"] == "failed"
    assert "broken.py:1" in str(second["reason"])


KILLS = """
import os
from gatewright import Plugin
class Kills(Plugin):
    async def setup(self):
        os._exit(9)
    def on_request(self, request):
        pass
"""


def test_a_configuration_whose_setup_ends_workers_costs_only_its_own_route(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(plain=PLAIN, kills=KILLS))
    with runner.peer() as peer:
        good = peer.prepare(("plain", "{}"), key="route#good")
        bad = peer.prepare(("kills", "{}"), key="route#bad")
    runner.wait_for_log("worker ended while it set configurations up")
    assert "route#bad" in runner.log
    runner.wait_for(lambda: runner.status()["ready"])
    assert reload(runner)["result"] == "ok"
    for _ in range(2):  # it's tried again when it's called, for a while
        with runner.peer() as peer, pytest.raises((EOFError, OSError)):
            peer.request(bad)
        runner.wait_for(lambda: runner.status()["ready"])
    runner.wait_for(lambda: runner.status()["ready"])
    with runner.peer() as peer, pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
        peer.request(bad)
    with runner.peer() as peer:
        assert peer.request(good) == Rewrite(headers=[("x", "1")])
    assert "it is no longer tried" in json.dumps(runner.status()["chains"])


# --- what plugins raise

RAISES = """
import asyncio, sys
from gatewright import Plugin
KINDS = {
    "cancel": asyncio.CancelledError, "keyboard": KeyboardInterrupt, "generator": GeneratorExit, "exit": SystemExit,
}
class RaisesSync(Plugin):
    def on_request(self, request):
        raise KINDS[request.path[1:]]
class RaisesAsync(Plugin):
    async def on_request(self, request):
        raise KINDS[request.path[1:]]
class RaisesLate(Plugin):
    async def on_request(self, request):
        await asyncio.sleep(0)
        raise KINDS[request.path[1:]]
class RaisesThread(Plugin):
    blocking = True
    def on_request(self, request):
        raise KINDS[request.path[1:]]
class RaisesSetup(Plugin):
    def setup(self):
        sys.exit(3)
    def on_request(self, request):
        pass
class Quotes(Plugin):
    def on_request(self, request):
        raise ValueError("bad header " + request.headers["x-a"])
"""


@pytest.mark.parametrize("kind", ["cancel", "keyboard", "generator", "exit"])
@pytest.mark.parametrize("name", ["raises-sync", "raises-async", "raises-late", "raises-thread"])
def test_whatever_is_raised_refuses_the_call(raising: RunnerProcess, name: str, kind: str) -> None:
    with raising.peer() as peer:
        token = peer.prepare((name, "{}"))
        with pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
            peer.request(token, f"/{kind}")
    with raising.peer() as peer:
        assert peer.request(peer.prepare(("plain", "{}"))) == Rewrite(headers=[("x", "1")])


@pytest.fixture(scope="module")
def raising(tmp_path_factory: pytest.TempPathFactory) -> object:
    directory = tmp_path_factory.mktemp("raising")
    (directory / "plugins.py").write_text(RAISES)
    (directory / "plain.py").write_text(PLAIN)
    socket_path, log = directory / "r.sock", directory / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "gatewright", "run", "-p", directory / "plugins.py", "-p", directory / "plain.py",
             "--listen", f"unix:{socket_path}"], stdout=file, stderr=file, cwd=directory,
        )  # fmt: skip
    runner = RunnerProcess(process, socket_path, log)
    runner.wait_until_listening()
    yield runner
    runner.stop()


def test_sys_exit_in_setup_is_a_failed_setup(raising: RunnerProcess) -> None:
    with raising.peer() as peer:
        token = peer.prepare(("raises-setup", "{}"))
        with pytest.raises(Refused):
            peer.request(token)
    assert "SystemExit: 3" in raising.log


def test_text_that_is_not_utf8_harms_neither_status_nor_connections(raising: RunnerProcess) -> None:
    with raising.peer() as peer:
        token = peer.prepare(("quotes", "{}"), key="route#\udcff")
        unknown = peer.prepare(("gr\udcfc\udcdf", "{}"))
        for each in (token, unknown):
            with pytest.raises(Refused):
                peer.request(each, headers=(("x-a", "\udcff\udcfe"),))
        pid = raising.workers()[0]["pid"]
        os.kill(pid, signal.SIGSTOP)  # so that the report and the connections are asked for at once
        asking = threading.Thread(target=raising.status)
        asking.start()
        time.sleep(0.1)
        fresh = [raising.peer() for _ in range(3)]
        os.kill(pid, signal.SIGCONT)
        asking.join()
        good = peer.prepare(("plain", "{}"))
        for each in fresh:
            assert each.request(good) == Rewrite(headers=[("x", "1")])
            each.close()
    assert "bad header" in json.dumps(raising.status()["last_errors"])
    assert ask(f"{raising.socket}.control", "/metrics")[0] == 200


def test_secrets_in_errors_are_not_shown_in_the_status(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    source = PLAIN + "class Tells(Plugin):\n    def on_request(self, r): raise ValueError('redis://u:hunter2@db')\n"
    runner = start_runner("-p", plugin_dir(plain=source))
    with runner.peer() as peer, pytest.raises(Refused):
        peer.request(peer.prepare(("tells", "{}")))
    status = json.dumps(runner.status())
    assert "redis://u:[redacted]@db" in status
    assert "hunter2" not in status


# --- stopping


def test_a_second_sigterm_ends_at_once_and_says_what_was_cut_off(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(plain=PLAIN), "--drain", "5")
    with runner.peer() as peer:
        peer.send(request_frame(peer.prepare(("body", "{}"))))
        assert peer.receive()[0] == 3
        runner.process.terminate()
        time.sleep(0.3)
        began = time.monotonic()
        runner.process.terminate()
        assert runner.process.wait(5) == 1
        assert time.monotonic() - began < 2


def test_sigterm_is_heard_while_a_worker_retires(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(plain=PLAIN))
    with runner.peer() as peer:
        peer.send(request_frame(peer.prepare(("body", "{}"))))
        assert peer.receive()[0] == 3
        assert reload(runner)["result"] == "ok"
        assert [w["stage"] for w in runner.status()["workers"]].count("retiring") == 1
        runner.process.terminate()
        peer.send(calls.encode_extra_info_result(b""))
        assert peer.receive()[0] == 2
        assert runner.process.wait(5) == 0


@pytest.mark.long
def test_http_clients_that_do_not_read_or_are_too_many_do_no_harm(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(plain=PLAIN))
    runner.wait_for_log("listening")
    idle = []
    for _ in range(80):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"{runner.socket}.control")
        idle.append(sock)
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("plain", "{}"))) == Rewrite(headers=[("x", "1")])
    for sock in idle:
        sock.close()
    deaf = socket.socket(socket.AF_UNIX)
    deaf.settimeout(1)
    deaf.connect(f"{runner.socket}.control")
    with pytest.raises(TimeoutError):
        while True:
            deaf.sendall(b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
    began = time.monotonic()
    assert runner.stop() == 0
    assert time.monotonic() - began < 3
    deaf.close()


def test_a_socket_that_can_not_be_removed_does_not_keep_the_runner_alive(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to take the right away")
    place = Path(tempfile.mkdtemp(prefix="socket-"))
    os.chown(place, 65534, 65534)
    place.chmod(0o755)
    plugins = plugin_dir(plain=PLAIN)
    for path in (plugins, *plugins.iterdir(), *plugins.parents):
        if str(path).startswith("/tmp/pytest"):
            path.chmod(0o755)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "gatewright", "run"]
    try:
        probe = subprocess.run(
            [*command[:4], sys.executable, "-c", "import gatewright"], check=False, capture_output=True
        )
        if probe.returncode:
            pytest.skip("another user can't run this Python")
        runner = start_runner(
            "-p", plugins, "--listen", f"unix:{place}/r.sock", "--socket-open-directory",
            command=command, socket=place / "r.sock",
        )  # fmt: skip
        place.chmod(0o555)
        assert runner.stop() == 0
        assert "can't be removed" in runner.log
    finally:
        shutil.rmtree(place)


@pytest.mark.alone
@pytest.mark.long
def test_workers_are_not_blamed_when_all_was_frozen(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(plain=PLAIN), "--stuck-limit", "1.5")
    runner.wait_for_log("listening")
    pids = [runner.process.pid, *(worker["pid"] for worker in runner.workers())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.5)
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
    time.sleep(1)
    assert runner.workers()[0]["pid"] == pids[1]
    assert "stuck" not in runner.log


# --- one process

SLEEPS = """
import time
from gatewright import Plugin
class Sleeps(Plugin):
    blocking = True
    timeout = 0.2
    def on_request(self, request):
        time.sleep(20)
"""


def test_one_process_survives_sighup_and_does_not_wait_for_threads(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(sleeps=SLEEPS), "--workers", "0", "--max-requests", "5")
    runner.process.send_signal(signal.SIGHUP)
    runner.wait_for_log("no reload without a supervisor")
    with runner.peer() as peer, pytest.raises(Refused):
        peer.request(peer.prepare(("sleeps", "{}")))
    began = time.monotonic()
    assert runner.stop() == 0
    assert time.monotonic() - began < 5
    assert "no effect without a supervisor" in runner.log
    assert "max_requests" in runner.log
    assert not runner.socket.exists()


@pytest.mark.alone
def test_many_routes_make_metrics_quickly() -> None:
    tallies = [TallyReport("p", "request", f'route "{n}"\n', [1] * (len(BOUNDS) + 1), 0.1) for n in range(2048)]
    began = time.monotonic()
    body, _ = exposition("", RunnerCounts(), WorkerReport(tallies=tallies), [])
    assert time.monotonic() - began < 1
    assert b'route="route \\"7\\"\\n",le="+Inf"} 22\n' in body
