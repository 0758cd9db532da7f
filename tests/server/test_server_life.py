"""The server's life with its peers: limits, slow and broken ones, sockets, signals."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gatewright
from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix.frames import MAX_PAYLOAD
from gatewright.gateways.apisix.replies import ErrorCode, Rewrite, Stop
from gatewright.observe.control import ask
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Peer, Refused

WriteFiles = Callable[..., Path]

BODY = """
from gatewright import Plugin, Response
class Body(Plugin):
    def on_request(self, request):
        return Response(200, body=str(len(request.body())))
class Plain(Plugin):
    def on_request(self, request):
        request.headers["x"] = "1"
"""


def request_frame(token: int, path: str = "/", id: int = 0) -> bytes:
    return calls.encode_http_req_call(
        id=id, conf_token=token, src_ip=b"\x7f\0\0\1", method="GET", path=path, args=[], headers=[("host", "h")]
    )


@pytest.fixture
def runner(start_runner: StartRunner, plugin_dir: WriteFiles) -> RunnerProcess:
    return start_runner("-p", plugin_dir(body=BODY))


def test_a_sync_plugin_that_waits_for_a_slow_clients_body_delays_nobody(runner: RunnerProcess) -> None:
    with runner.peer() as slow, runner.peer() as quick:
        slow.send(request_frame(slow.prepare(("body", "{}"))))
        assert slow.receive()[0] == 3  # it asks for the body, which doesn't come yet
        token = quick.prepare(("plain", "{}"))
        for _ in range(200):
            assert quick.request(token) == Rewrite(headers=[("x", "1")])
        slow.send(calls.encode_extra_info_result(b"late"))
        assert replies.decode_req_reply(slow.receive())[1] == Stop(
            200, [("content-type", "text/plain; charset=utf-8")], b"4"
        )


def test_frames_of_16_mib_less_a_byte_pass_both_ways(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        token = peer.prepare(("body", "{}"))
        size = MAX_PAYLOAD - 28  # what fits beside the table of the answer
        assert len(calls.encode_extra_info_result(bytes(size))) <= MAX_PAYLOAD + 4
        answer = peer.request(token, answers={"REQ_BODY": bytes(size)})
        assert isinstance(answer, Stop)
        assert answer.body == str(size).encode()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x02\0\0\x08" + b"\xff" * 8, b"\x09\0\0\x04\0\0\0\0", b"\0" * 64],
)
def test_garbage_ends_that_connection_with_a_log_line_and_no_other(runner: RunnerProcess, garbage: bytes) -> None:
    with runner.peer() as good, runner.peer() as bad:
        token = good.prepare(("plain", "{}"))
        bad.send(garbage)
        bad.sock.shutdown(socket.SHUT_WR)
        while bad.sock.recv(1024):
            pass
        assert good.request(token) == Rewrite(headers=[("x", "1")])
    runner.wait_for_log("the peer broke the protocol")


def test_a_peer_that_closed_its_sending_side_still_gets_its_answer(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        peer.send(request_frame(peer.prepare(("plain", "{}"))))
        peer.sock.shutdown(socket.SHUT_WR)
        assert replies.decode_req_reply(peer.receive())[1] == Rewrite(headers=[("x", "1")])
        assert peer.sock.recv(1) == b""


def test_a_gateway_that_goes_away_in_mid_call_leaves_nothing_behind(runner: RunnerProcess) -> None:
    with runner.peer() as other:
        token = other.prepare(("body", "{}"))
        for _ in range(50):
            with runner.peer() as peer:
                peer.send(request_frame(token))
                assert peer.receive()[0] == 3
        assert isinstance(other.request(token, answers={"REQ_BODY": b"x"}), Stop)
    assert runner.stop() == 0
    assert "internal error" not in runner.log
    assert "Traceback" not in runner.log


def test_2000_connections_at_once(runner: RunnerProcess) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    peers = [runner.peer() for _ in range(2000)]
    token = peers[0].prepare(("plain", "{}"))
    for peer in peers:
        peer.send(request_frame(token))
    for peer in peers:
        assert replies.decode_req_reply(peer.receive())[1] == Rewrite(headers=[("x", "1")])
        peer.close()


def test_one_connection_too_many_is_closed_and_the_others_go_on(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(body=BODY), "--max-connections", "3", wait=False)
    runner.wait_for_log("listening")
    peers = [runner.peer() for _ in range(3)]
    token = peers[0].prepare(("plain", "{}"))
    with runner.peer() as extra:
        assert extra.sock.recv(1) == b""
    assert peers[2].request(token) == Rewrite(headers=[("x", "1")])
    for peer in peers:
        peer.close()
    assert "too many connections" in runner.log


def test_one_call_too_many_is_refused_at_once(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(body=BODY), "--max-calls", "1")
    with runner.peer() as first, runner.peer() as second:
        token = first.prepare(("body", "{}"))
        first.send(request_frame(token))
        assert first.receive()[0] == 3
        with pytest.raises(Refused) as refused:
            second.request(token)
        assert refused.value.code is ErrorCode.SERVICE_UNAVAILABLE
    assert "too many calls under way" in runner.log


def test_a_frame_that_stays_incomplete_ends_the_connection(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(body=BODY), "--stall-timeout", "0.3")
    with runner.peer() as peer:
        peer.send(b"\x02\0\1")
        assert peer.sock.recv(1) == b""
    assert "a frame stayed incomplete" in runner.log


def test_a_frame_over_the_configured_limit_is_refused(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(body=BODY), "--max-frame", "2048")
    with runner.peer() as peer:
        peer.send(b"\x02\xff\xff\xff")
        assert replies.decode_error(peer.receive()) == ErrorCode.BAD_REQUEST
    assert "the limit (max_frame) is 2048" in runner.log


HOLD = """
import time
from gatewright import Plugin
class Hold(Plugin):
    def on_request(self, request):
        import threading
        time.sleep(0.3)
        request.headers["x-thread"] = threading.current_thread().name
"""


def test_a_handler_that_holds_the_loop_is_moved_to_a_thread_and_named(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(hold=HOLD))
    with runner.peer() as peer:
        token = peer.prepare(("hold", "{}"))
        first = peer.request(token)
        runner.wait_for(lambda: peer.request(token) != first)  # what it waits for a processor isn't the handler's time
        second = peer.request(token)
    assert first == Rewrite(headers=[("x-thread", "MainThread")])
    assert isinstance(second, Rewrite)
    assert second.headers[0][1].startswith("gatewright-plugin")
    assert "plugin held the loop" in runner.log
    assert "plugin=hold" in runner.log


THREADS = """
import time
from gatewright import Plugin
class Sleeper(Plugin):
    blocking = True
    def on_request(self, request):
        time.sleep(0.5)
        request.headers["x-body"] = str(len(request.body()))
"""


@pytest.mark.alone
def test_blocking_handlers_run_side_by_side_and_may_ask_the_gateway(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(sleeper=THREADS))
    peers = [runner.peer() for _ in range(8)]
    token = peers[0].prepare(("sleeper", "{}"))
    began = time.monotonic()
    for peer in peers:
        peer.send(request_frame(token))
    for peer in peers:
        assert peer.receive()[0] == 3
        peer.send(calls.encode_extra_info_result(b"body"))
        assert replies.decode_req_reply(peer.receive())[1] == Rewrite(headers=[("x-body", "4")])
        peer.close()
    assert time.monotonic() - began < 2


ASYNCIO = """
import asyncio, contextvars
from gatewright import Plugin
seen = contextvars.ContextVar("seen", default="nobody")
class Tasks(Plugin):
    async def on_request(self, request):
        assert asyncio.current_task() is not None
        before = seen.get()
        seen.set(request.path)
        if request.path == "/slow":
            async with asyncio.timeout(5):
                await asyncio.sleep(0.01)
        if request.path == "/times-out":
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(5)
            except TimeoutError:
                request.headers["x-timed-out"] = "1"
        assert seen.get() == request.path
        assert asyncio.current_task() is not None
        request.headers["x-before"] = before
"""


def test_async_handlers_find_a_current_task_and_a_context_of_their_own(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(tasks=ASYNCIO))
    with runner.peer() as peer:
        token = peer.prepare(("tasks", "{}"))
        for path in ("/", "/slow", "/times-out", "/", "/slow", "/"):
            action = peer.request(token, path)
            assert isinstance(action, Rewrite), runner.log
            assert dict(action.headers)["x-before"] == "nobody"


HOOKS = """
import asyncio, pathlib
from gatewright import Plugin
class Hooks(Plugin):
    async def setup(self):
        await asyncio.sleep(1)
        flag = pathlib.Path(self.config["dir"], "ready")
        if not flag.exists():
            flag.touch()
            raise ConnectionError("database is starting")
        self.ready = True
    async def teardown(self):
        await asyncio.sleep(0)
        pathlib.Path(self.config["dir"], "torn-down").touch()
    async def on_request(self, request):
        request.headers["x-ready"] = str(self.ready)
"""


@pytest.mark.alone
def test_prepare_conf_is_answered_at_once_and_calls_wait_for_setup(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    runner = start_runner("-p", plugin_dir(hooks=HOOKS))
    conf = ("hooks", f'{{"dir": "{tmp_path}"}}')
    with runner.peer() as peer:
        began = time.monotonic()
        token = peer.prepare(conf)
        assert time.monotonic() - began < 0.8
        with pytest.raises(Refused):  # the first set-up fails
            peer.request(token)
        assert "database is starting" in runner.log
    deadline = time.monotonic() + 10
    while True:  # and is tried again after a pause
        with runner.peer() as peer:
            try:
                assert peer.request(token) == Rewrite(headers=[("x-ready", "True")])
                break
            except Refused:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert runner.stop() == 0
    assert (tmp_path / "torn-down").exists()


# --- signals and sockets


@pytest.mark.alone
def test_sigterm_lets_calls_under_way_end_and_removes_the_socket(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    source = (
        "from gatewright import Plugin\nimport asyncio\nclass Nap(Plugin):\n    async def on_request(self, request):\n"
    )
    runner = start_runner("-p", plugin_dir(nap=source + "        await asyncio.sleep(0.4)\n"))
    with runner.peer() as busy, runner.peer() as idle:
        busy.send(request_frame(busy.prepare(("nap", "{}"))))
        idle.prepare(("nap", "{}"))
        began = time.monotonic()
        runner.process.send_signal(signal.SIGTERM)
        assert idle.sock.recv(1) == b""
        assert replies.decode_req_reply(busy.receive()) == (0, None)
        assert runner.process.wait(5) == 0
        assert time.monotonic() - began < 3
    assert not runner.socket.exists()


@pytest.mark.alone
def test_sigterm_ends_within_a_second_whatever_plugins_do(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(body=BODY), "--drain", "0.8")
    with runner.peer() as peer:
        peer.send(request_frame(peer.prepare(("body", "{}"))))
        assert peer.receive()[0] == 3
        began = time.monotonic()
        assert runner.stop() == 1
        assert time.monotonic() - began < 2.5  # measured for coverage, processes end more slowly
    assert "calls under way were cut off" in runner.log


HANGS = """
import asyncio, atexit, threading, time
from gatewright import Plugin
atexit.register(time.sleep, 60)
threading.Thread(target=time.sleep, args=(60,)).start()
class Hangs(Plugin):
    timeout = 0.1
    async def on_request(self, request):
        await asyncio.to_thread(time.sleep, 60)
    async def teardown(self):
        await asyncio.sleep(60)
class HangsApart(Plugin):
    timeout = 0.1
    blocking = True
    def on_request(self, request):
        time.sleep(60)
    def teardown(self):
        time.sleep(60)
class Holds(Plugin):
    def on_request(self, request):
        while True:
            pass
"""


@pytest.mark.alone
@pytest.mark.parametrize("last", ["hangs-apart", "holds"])
def test_sigterm_ends_soon_whatever_hangs_in_plugins(
    start_runner: StartRunner, plugin_dir: WriteFiles, last: str
) -> None:
    runner = start_runner("-p", plugin_dir(hangs=HANGS), "--drain", "0.8")
    for plugin in ("hangs", "hangs-apart"):
        with runner.peer() as peer, pytest.raises(Refused):
            peer.request(peer.prepare((plugin, "{}")))
    with runner.peer() as peer:
        peer.begin(peer.prepare((last, "{}")))
        time.sleep(0.3)
        began = time.monotonic()
        runner.process.terminate()
        runner.process.wait(15)
        assert time.monotonic() - began < 2.5  # measured for coverage, processes end more slowly


def test_a_stale_socket_is_replaced(start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    runner = start_runner("-p", plugin_dir(body=BODY), "--listen", f"unix:{path}", socket=path)
    runner.peer().close()


def failed_start(runner: RunnerProcess) -> str:
    assert runner.process.wait(10) == 2
    return runner.log


def test_a_live_socket_is_never_taken_over(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    plugins = plugin_dir(body=BODY)
    first = start_runner("-p", plugins)
    second = start_runner("-p", plugins, "--listen", f"unix:{first.socket}", wait=False)
    assert "is in use by another running process" in failed_start(second)
    first.peer().close()


def test_a_file_that_is_no_socket_is_left_alone(start_runner: StartRunner, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("data")
    runner = start_runner("--listen", f"unix:{file}", wait=False)
    assert "is not a socket" in failed_start(runner)
    assert file.read_text() == "data"


def test_a_missing_directory_is_named(start_runner: StartRunner, tmp_path: Path) -> None:
    runner = start_runner("--listen", f"unix:{tmp_path}/none/r.sock", wait=False)
    assert f"the directory {tmp_path}/none does not exist" in failed_start(runner)


def test_only_ones_own_socket_is_removed_on_exit(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(body=BODY))
    runner.wait_for_log("listening")
    runner.socket.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(runner.socket))
        assert runner.stop() == 0
        assert runner.socket.exists()


@pytest.mark.parametrize("workers", ["1", "0"])
def test_the_control_socket_that_somebody_removes_is_made_again(
    workers: str, start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(), "--workers", workers)
    runner.wait_for_log("listening")
    control = Path(f"{runner.socket}.control")
    control.unlink()
    runner.wait_for(control.exists, 5)
    assert runner.status()["workers"]
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    assert runner.stop() == 0
    assert not control.exists()


@pytest.mark.parametrize("workers", ["1", "0"])
def test_a_socket_that_somebody_removes_is_made_again(
    workers: str, start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    metrics = tmp_path / "metrics.sock"
    source = "from gatewright import Plugin\nclass Tag(Plugin):\n    def on_request(self, request):\n"
    plugins = plugin_dir(tag=source + "        request.headers['x'] = '1'\n")
    options = "--socket-mode", "0600", "--metrics", f"unix:{metrics}", "--workers", workers
    runner = start_runner("-p", plugins, *options)
    with runner.peer() as old:
        token = old.prepare(("tag", "{}"))
        runner.socket.unlink()
        runner.wait_for_log("somebody removed the socket's file: it's made again")
        with runner.peer() as new:
            assert new.request(token) is not None
        assert old.request(token) is not None
        assert stat.S_IMODE(runner.socket.stat().st_mode) == 0o600
        runner.socket.unlink()
        runner.socket.write_text("somebody's")
        runner.wait_for(lambda: ask(str(metrics), "/readyz")[0] == 503)
        assert "another file has taken its place" in runner.log
        runner.socket.unlink()
        runner.wait_for(lambda: ask(str(metrics), "/readyz")[0] == 200)
        with runner.peer() as new:
            assert new.request(token) is not None
    assert runner.stop() == 0
    assert not runner.socket.exists()


@pytest.mark.parametrize("workers", ["1", "0"])
def test_a_directory_that_somebody_removes_is_made_again(
    workers: str, start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    place = tmp_path / "above" / "run"
    place.mkdir(parents=True)
    place.chmod(0o2750)
    path = place / "r.sock"
    metrics = tmp_path / "metrics.sock"
    options = "--listen", f"unix:{path}", "--metrics", f"unix:{metrics}", "--workers", workers
    runner = start_runner("-p", plugin_dir(body=BODY), *options, wait=False)
    runner.wait_for_log("listening")
    shutil.rmtree(place)
    runner.wait_for(lambda: path.exists() and Path(f"{path}.control").exists(), 10)
    assert "somebody removed the socket's directory: it's made again" in runner.log
    assert stat.S_IMODE(place.stat().st_mode) == 0o2750
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        peer = Peer(sock)
        assert peer.request(peer.prepare(("plain", "{}"))) == Rewrite(headers=[("x", "1")])
    shutil.rmtree(place.parent)  # who made that is to make it again
    runner.wait_for(lambda: ask(str(metrics), "/readyz")[0] == 503, 10)
    assert "the directory" in runner.log
    place.mkdir(parents=True)
    runner.wait_for(lambda: ask(str(metrics), "/readyz")[0] == 200, 10)
    assert path.exists()
    assert runner.stop() == 0
    assert not list(place.iterdir())


def test_an_upgrade_under_a_running_runner_is_told_and_not_mixed_in(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    package = tmp_path / "site" / "gatewright"
    shutil.copytree(Path(gatewright.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    environ = {"APISIX_LISTEN_ADDRESS": f"unix:{tmp_path / 'runner-0.sock'}", "PYTHONPATH": str(package.parent)}
    runner = start_runner("-p", plugin_dir(body=BODY), "--workers", "1", environ=environ)
    version = package / "_version.py"
    of_now = version.read_text()

    def reload(result: str) -> None:
        runner.process.send_signal(signal.SIGHUP)
        runner.wait_for(lambda: (runner.status()["last_reload"] or {}).get("result") == result)

    with runner.peer() as peer:
        token = peer.prepare(("plain", "{}"))
        version.write_text('"""The one place."""\n\n__version__ = "9.0.0"\n')
        reload("failed")
        assert "gatewright 9.0.0 was installed in the place of" in runner.status()["last_reload"]["reason"]
        assert isinstance(peer.request(token), Rewrite)
        os.kill(runner.status()["workers"][0]["pid"], signal.SIGKILL)
        runner.wait_for_log("a worker starts from files that don't belong to this process")
    with runner.peer() as peer:  # what it loads from there may do all the same
        assert isinstance(peer.request(peer.prepare(("plain", "{}"))), Rewrite)
        version.unlink()
        runner.process.send_signal(signal.SIGHUP)
        runner.wait_for(lambda: "are gone: install it again" in (runner.status()["last_reload"]["reason"] or ""))
        version.write_text(of_now)
        reload("ok")
        assert isinstance(peer.request(peer.prepare(("plain", "{}"))), Rewrite)
    assert runner.stop() == 0


def test_the_socket_is_closed_to_strangers_by_default(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(body=BODY))
    assert stat.S_IMODE(runner.socket.stat().st_mode) == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
def test_owner_group_and_mode_are_settings(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner(
        "-p", plugin_dir(body=BODY), "--socket-owner", "nobody", "--socket-group", "0", "--socket-mode", "0600"
    )
    found = runner.socket.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 0, 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a gateway with other workers")
def test_started_by_a_root_gateway_the_socket_goes_to_its_workers_user(tmp_path: Path, plugin_dir: WriteFiles) -> None:
    """A stand-in for nginx: a master of this name as root, a worker as nobody, and a runner as the master's child."""
    path = tmp_path / "managed.sock"
    master = textwrap.dedent(
        f"""
        import os, subprocess, sys, ctypes, time
        prctl = ctypes.CDLL(None).prctl
        prctl(15, b"nginx")
        worker = os.fork()
        if worker == 0:
            os.setuid(65534)
            time.sleep(60)
        time.sleep(0.2)
        child = subprocess.Popen(
            [sys.executable, "-m", "gatewright", "run", "-p", {str(plugin_dir(body=BODY))!r}],
            env={{"APISIX_LISTEN_ADDRESS": "unix:{path}"}},
        )
        while not os.path.exists({str(path)!r}):
            time.sleep(0.01)
        time.sleep(0.1)
        print(os.stat({str(path)!r}).st_uid)
        child.terminate(); child.wait()
        os.kill(worker, 9); os.waitpid(worker, 0)
        """
    )
    run = subprocess.run([sys.executable, "-c", master], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.strip() == "65534", run.stderr


def test_tcp_works_like_a_unix_socket(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    runner = start_runner("-p", plugin_dir(body=BODY), "--listen", f"tcp://127.0.0.1:{port}", wait=False)
    runner.wait_for_log("listening")
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        peer = Peer(sock)
        assert peer.request(peer.prepare(("plain", "{}"))) == Rewrite(headers=[("x", "1")])


def test_the_stock_loop_serves_too(start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path) -> None:
    hidden = tmp_path / "hide"
    hidden.mkdir()
    (hidden / "uvloop.py").write_text("raise ImportError('hidden')")
    environ = {"APISIX_LISTEN_ADDRESS": f"unix:{tmp_path / 'runner-0.sock'}", "PYTHONPATH": str(hidden)}
    runner = start_runner("-p", plugin_dir(body=BODY, tasks=ASYNCIO), environ=environ)
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("plain", "{}"))) == Rewrite(headers=[("x", "1")])
        assert isinstance(peer.request(peer.prepare(("body", "{}")), answers={"REQ_BODY": b"x"}), Stop)
        for path in ("/", "/slow", "/times-out"):
            assert isinstance(peer.request(peer.prepare(("tasks", "{}")), path), Rewrite)


def test_prints_of_plugins_do_not_disturb(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    source = (
        "from gatewright import Plugin\nprint('loaded')\nclass P(Plugin):\n    def on_request(self, r): print('{x}')\n"
    )
    runner = start_runner("-p", plugin_dir(p=source))
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("p", "{}"))) is None


@pytest.mark.parametrize("shown", [["--log-format", "json"], []])
def test_logs_go_to_stderr_or_a_file(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path, shown: list[str]
) -> None:
    file = tmp_path / "own.log"
    runner = start_runner("-p", plugin_dir(body=BODY), "--log-file", str(file), *shown)
    with runner.peer() as peer:
        peer.prepare(("plain", "{}"))
    runner.stop()
    assert "listening" in file.read_text()
    assert runner.log == ""


def test_an_expired_configuration_is_torn_down_and_unknown(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    source = (
        "import pathlib\nfrom gatewright import Plugin\nclass P(Plugin):\n    def on_request(self, r): pass\n"
        f"    async def teardown(self): pathlib.Path({str(tmp_path)!r}, 'gone').touch()\n"
    )
    environ = {"APISIX_LISTEN_ADDRESS": f"unix:{tmp_path / 'runner-0.sock'}", "APISIX_CONF_EXPIRE_TIME": "1"}
    runner = start_runner("-p", plugin_dir(p=source), environ=environ)
    with runner.peer() as peer:
        began = time.monotonic()
        token = peer.prepare(("p", "{}"))
        while not (tmp_path / "gone").exists():
            assert time.monotonic() - began < 10
            time.sleep(0.02)
        assert time.monotonic() - began >= 2, "at least twice the expiry time"
        time.sleep(1)  # the supervisor keeps it a little longer, so that it knows all that a worker has
        with pytest.raises(Refused, match="CONF_TOKEN_NOT_FOUND"):
            peer.request(token)


def test_the_control_socket_is_taken_over_from_a_runner_that_still_ends_its_calls(
    start_runner: StartRunner, plugin_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """A gateway that reloads starts the new runner at the same address while the old one has a call under way."""
    plugins = plugin_dir(slow="import asyncio\nfrom gatewright import Plugin\nclass Slow(Plugin):\n"
                         "    async def on_request(self, request): await request.body()\n")  # fmt: skip
    path = tmp_path / "r.sock"
    old = start_runner("-p", plugins, "--drain", "5", "--no-installed-plugins", socket=path)
    with old.peer() as peer:
        token = peer.prepare(("slow", "{}"))
        peer.send(
            calls.encode_http_req_call(
                id=1, conf_token=token, src_ip=b"\x7f\0\0\1", method="POST", path="/", args=[], headers=[]
            )
        )
        assert peer.receive()[0] == 3
        old.process.terminate()
        old.wait_for(lambda: not path.exists())
        new = start_runner("-p", plugins, "--no-installed-plugins", socket=path)
        assert old.process.poll() is None
    old.process.wait(10)
    new.wait_for_log("taken over from an earlier runner")
    assert new.status()["ready"]
