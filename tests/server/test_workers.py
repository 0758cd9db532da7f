"""Several workers: spread, tokens, death, reload, recycling; with real processes and real sockets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.endure import under_load
from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix.replies import Rewrite
from gatewright.settings import Settings, control_address
from tests import launching
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Peer, Refused

WriteFiles = Callable[..., Path]

WHO = """
import os
from gatewright import Plugin
class Who(Plugin):
    async def on_request(self, request):
        if request.path == "/body":
            await request.body()
        if request.path == "/die":
            os._exit(9)
        request.headers["x-pid"] = str(os.getpid())
        request.headers["x-conf"] = str(self.config.get("id"))
        request.headers["x-code"] = "{code}"
"""


@pytest.fixture
def two(start_runner: StartRunner, plugin_dir: WriteFiles) -> RunnerProcess:
    runner = start_runner("-p", plugin_dir(who=WHO.format(code="one")), "--workers", "2")
    runner.wait_for_log("listening")
    return runner


def answer(peer: Peer, token: int, path: str = "/", **more: object) -> dict[str, str | None]:
    action = peer.request(token, path, **more)  # type: ignore[arg-type]
    assert isinstance(action, Rewrite)
    return dict(action.headers)


def conf(number: int) -> tuple[str, str]:
    return ("who", f'{{"id": {number}}}')


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def request_frame(token: int, path: str = "/") -> bytes:
    return calls.encode_http_req_call(
        id=0, conf_token=token, src_ip=b"\x7f\0\0\1", method="GET", path=path, args=(), headers=()
    )


# --- spread and tokens


def test_64_connections_are_spread_evenly(two: RunnerProcess) -> None:
    peers = [two.peer() for _ in range(64)]
    token = peers[0].prepare(conf(1))
    seen = [answer(peer, token)["x-pid"] for peer in peers]
    assert {seen.count(pid) for pid in set(seen)} == {32}
    assert len(set(seen)) == 2
    for peer in peers:
        peer.close()
    two.wait_for(lambda: all(worker["connections"] == 0 for worker in two.workers()))


def test_connections_are_spread_anew_when_a_worker_has_lost_its_own(two: RunnerProcess) -> None:
    peers = [two.peer() for _ in range(20)]
    token = peers[0].prepare(conf(1))
    for peer in peers:
        answer(peer, token)
    os.kill(two.workers()[0]["pid"], signal.SIGKILL)
    two.wait_for(lambda: len(two.workers()) == 2)
    two.wait_for(lambda: sorted(worker["connections"] for worker in two.workers()) == [5, 5])
    two.wait_for(lambda: [peer.is_closed() for peer in peers].count(True) == 10)
    for peer in peers:
        if not peer.is_closed():
            answer(peer, token)
        peer.close()


def test_a_token_is_valid_in_all_workers_at_once(two: RunnerProcess) -> None:
    with two.peer() as one, two.peer() as other:
        pids = set()
        for number in range(200):
            token = (one, other)[number % 2].prepare(conf(number))
            seen = answer((other, one)[number % 2], token)
            assert seen["x-conf"] == str(number)
            pids.add(seen["x-pid"])
        assert len(pids) == 2


def test_a_token_outlives_the_worker_that_gave_it(two: RunnerProcess) -> None:
    with two.peer() as peer:
        token = peer.prepare(conf(1))
        before = answer(peer, token)["x-pid"]
    os.kill(int(before or 0), signal.SIGKILL)
    two.wait_for(lambda: before not in {str(w["pid"]) for w in two.workers()} and len(two.workers()) == 2)
    for _ in range(2):
        with two.peer() as peer:
            assert answer(peer, token)["x-conf"] == "1"


def test_a_restarted_runner_never_takes_a_token_for_another_configuration(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    plugins, path = plugin_dir(who=WHO.format(code="one")), tmp_path / "same.sock"
    arguments = ("-p", plugins, "--workers", "2", "--listen", f"unix:{path}")
    first = start_runner(*arguments, socket=path)
    with first.peer() as peer:
        tokens = {number: peer.prepare(conf(number)) for number in range(50)}
    assert first.stop() == 0
    second = start_runner(*arguments, socket=path)
    with second.peer() as peer:  # other configurations first, in another order, as after a change
        for number in reversed(range(100, 150)):
            peer.prepare(conf(number))
        for number, token in tokens.items():
            with second.peer() as asking, pytest.raises(Refused, match="CONF_TOKEN_NOT_FOUND"):
                asking.request(token)
            assert peer.prepare(conf(number)) == token
            assert answer(peer, token)["x-conf"] == str(number)


def test_the_same_configuration_prepared_by_all_at_once_has_one_token(two: RunnerProcess) -> None:
    peers = [two.peer() for _ in range(10)]
    frame = calls.encode_prepare_conf("route#1#ext-plugin-pre-req#1", [conf(7)])
    for peer in peers:
        peer.send(frame)
    tokens = {replies.decode_conf_token(peer.receive()) for peer in peers}
    assert len(tokens) == 1
    for peer in peers:
        assert answer(peer, next(iter(tokens)))["x-conf"] == "7"
        peer.close()


def test_a_key_that_is_not_utf8_reaches_other_workers_unharmed(two: RunnerProcess) -> None:
    with two.peer() as one, two.peer() as other:
        token = one.prepare(conf(1), key="route#\udcff")
        assert answer(one, token)["x-conf"] == "1"
        assert answer(other, token)["x-conf"] == "1"


# --- death


def test_a_worker_that_dies_costs_only_its_own_call(two: RunnerProcess) -> None:
    with two.peer() as one, two.peer() as other:
        token = one.prepare(conf(1))
        one.send(request_frame(token, "/die"))
        with pytest.raises(EOFError):
            one.receive()
        assert answer(other, token)["x-conf"] == "1"
    two.wait_for(lambda: len(two.workers()) == 2)
    assert two.status()["worker_exits"][0]["how"] == "exit code 9"
    assert "worker ended unexpectedly" in two.log


def test_workers_that_never_start_end_the_runner_with_code_3(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(bad="import os\nos._exit(5)\n"), wait=False)
    assert runner.process.wait(20) == 3
    assert "workers can't be started; giving up" in runner.log
    assert "exit code 5" in runner.log
    assert not runner.socket.exists()


def test_a_plugin_file_that_calls_sys_exit_is_an_error_of_its_own(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(bad="import sys\nsys.exit(5)\n", who=WHO.format(code="one")))
    with runner.peer() as peer:
        assert answer(peer, peer.prepare(conf(1)))["x-conf"] == "1"
    assert "SystemExit: 5" in runner.log


def test_a_crash_loop_backs_off_and_says_why(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    plugins = plugin_dir(who=WHO.format(code="one"))
    runner = start_runner("-p", plugins)
    runner.wait_for_log("listening")
    (plugins / "bad.py").write_text("import os\nos._exit(5)\n")
    os.kill(runner.workers()[0]["pid"], signal.SIGKILL)
    runner.wait_for_log("ended_in_a_row=4 replaced_in=1.0")
    assert runner.process.poll() is None
    assert not runner.status()["ready"]
    (plugins / "bad.py").unlink()
    runner.wait_for(lambda: runner.status()["ready"])
    with runner.peer() as peer:
        assert answer(peer, peer.prepare(conf(1)))["x-conf"] == "1"


def test_workers_end_with_their_supervisor(two: RunnerProcess) -> None:
    pids = [worker["pid"] for worker in two.workers()]
    two.process.kill()
    two.process.wait()
    deadline = time.monotonic() + 3
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


STUCK = """
import time
from gatewright import Plugin
class Stuck(Plugin):
    async def on_request(self, request):
        if request.path == "/stuck":
            time.sleep(60)
        request.headers["x"] = "1"
"""


def test_a_blocked_loop_is_named_with_its_stack_and_its_worker_replaced(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    limits = ("--block-limit", "0.2", "--stuck-limit", "1.5")
    runner = start_runner("-p", plugin_dir(stuck=STUCK), "--workers", "2", *limits)
    runner.wait_for_log("listening")
    with runner.peer() as one, runner.peer() as other:
        token = one.prepare(("stuck", "{}"))
        one.send(request_frame(token, "/stuck"))
        runner.wait_for_log("the loop is blocked")
        assert other.request(token) == Rewrite(headers=[("x", "1")])
        with pytest.raises(EOFError):
            one.receive()
    assert "plugin=stuck" in runner.log
    assert "time.sleep(60)" in runner.log
    assert "worker is stuck; killed" in runner.log
    runner.wait_for(lambda: len(runner.workers()) == 2)


@pytest.mark.alone
def test_sigterm_ends_a_blocked_runner_within_a_second(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(stuck=STUCK), "--drain", "0.8")
    with runner.peer() as peer:
        peer.send(request_frame(peer.prepare(("stuck", "{}")), "/stuck"))
        time.sleep(0.2)
        began = time.monotonic()
        assert runner.stop() == 1
        assert time.monotonic() - began < 3
    assert not runner.socket.exists()


# --- reload


def test_reload_brings_new_code_over_the_same_connections(two: RunnerProcess) -> None:
    plugins = Path(two.workers() and two.status()["plugins"][0]["source"])
    with two.peer() as idle, two.peer() as busy:
        token = idle.prepare(conf(1))
        assert answer(idle, token)["x-code"] == "one"
        busy.send(request_frame(token, "/body"))
        assert busy.receive()[0] == 3
        plugins.write_text(WHO.format(code="two"))
        two.process.send_signal(signal.SIGHUP)
        two.wait_for_log("reloaded")
        two.wait_for(lambda: answer(idle, token)["x-code"] == "two")
        busy.send(calls.encode_extra_info_result(b"late"))  # a call under way ends with the code it began with
        _, action = replies.decode_req_reply(busy.receive())
        assert isinstance(action, Rewrite)
        assert dict(action.headers)["x-code"] == "one"
        assert answer(busy, token)["x-code"] == "two"
    two.wait_for(lambda: len(two.status()["workers"]) == 2)
    assert {worker["generation"] for worker in two.status()["workers"]} == {2}


def test_a_plugin_that_no_longer_imports_leaves_the_old_workers_in_place(two: RunnerProcess) -> None:
    before = {worker["pid"] for worker in two.workers()}
    source = Path(two.status()["plugins"][0]["source"])
    source.write_text("def broken(:\n")
    run = gatewright("reload", "--listen", f"unix:{two.socket}")
    assert run.returncode == 1
    assert f"{source}:1: SyntaxError" in run.stderr
    assert "reload failed" in two.log
    assert {worker["pid"] for worker in two.workers()} == before
    with two.peer() as peer:
        assert answer(peer, peer.prepare(conf(1)))["x-code"] == "one"
    source.write_text(WHO.format(code="two"))
    assert gatewright("reload", "--listen", f"unix:{two.socket}").returncode == 0
    with two.peer() as peer:
        assert answer(peer, peer.prepare(conf(1)))["x-code"] == "two"


def test_settings_are_read_anew_and_invalid_ones_refused(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    file = tmp_path / "gatewright.yaml"
    file.write_text("workers: 1\n")
    runner = start_runner("-p", plugin_dir(who=WHO.format(code="one")), "-c", file)
    runner.wait_for_log("listening")
    file.write_text("workers: 3\nsocket_mode: '0666'\n")
    runner.process.send_signal(signal.SIGHUP)
    runner.wait_for(lambda: len(runner.workers()) == 3)
    assert "a changed setting needs a restart" in runner.log
    file.write_text("workers: many\n")
    run = gatewright("reload", "--listen", f"unix:{runner.socket}")
    assert run.returncode == 1
    assert "workers is auto or a number" in run.stderr
    assert len(runner.workers()) == 3


def test_a_configuration_is_set_up_in_new_workers_before_they_serve(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    source = (
        "import asyncio, os, pathlib\nfrom gatewright import Plugin\nclass Slow(Plugin):\n"
        "    async def setup(self):\n        await asyncio.sleep(0.3)\n"
        f"        pathlib.Path({str(tmp_path)!r}, f'set-up-{{os.getpid()}}').touch()\n"
        "    def on_request(self, r): r.headers['x-pid'] = str(os.getpid())\n"
    )
    runner = start_runner("-p", plugin_dir(slow=source))
    with runner.peer() as peer:
        token = peer.prepare(("slow", "{}"))
        first = answer(peer, token)["x-pid"]
        runner.process.send_signal(signal.SIGHUP)
        runner.wait_for_log("reloaded")
        second = runner.workers()[0]["pid"]
        assert (tmp_path / f"set-up-{second}").exists()
        runner.wait_for(lambda: answer(peer, token)["x-pid"] != first)


def test_a_worker_is_replaced_after_max_requests_and_on_sigterm_without_a_loss(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(who=WHO.format(code="one")), "--max-requests", "50")
    with runner.peer() as peer:
        token = peer.prepare(conf(1))
        seen = set()
        deadline = time.monotonic() + 15
        while len(seen) < 3:
            assert time.monotonic() < deadline
            seen.add(answer(peer, token)["x-pid"])
            time.sleep(0.002)
        assert "calls served (max_requests)" in runner.log
        pid = runner.workers()[0]["pid"]
        os.kill(pid, signal.SIGTERM)
        runner.wait_for(lambda: str(pid) != answer(peer, token)["x-pid"])
    assert "ended unexpectedly" not in runner.log


@pytest.mark.parametrize("kind", ["reload", "kill"])
@pytest.mark.alone
@pytest.mark.long
def test_under_full_load(kind: str) -> None:
    outcome = under_load(kind, seconds=4, every=0.9)
    assert outcome.faults == []
    assert outcome.done == 4
    assert outcome.result["refused"] == 0
    assert outcome.result["calls"] > 1000


# --- life with the gateway

SPAWN = """
import os, subprocess, sys, time
subprocess.Popen(sys.argv[1:])
print("spawned", flush=True)
time.sleep(60)
"""


@pytest.fixture
def spawn(tmp_path: Path, plugin_dir: WriteFiles) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Path]]]:
    """Start a runner from a process that can be killed."""
    started = []

    def start(*arguments: str, environ: dict[str, str]) -> tuple[subprocess.Popen[str], Path]:
        socket = tmp_path / "spawned.sock"
        command = [sys.executable, "-m", "gatewright", "run", "-p", str(plugin_dir(who=WHO.format(code="one")))]
        process = subprocess.Popen(
            [sys.executable, "-c", SPAWN, *command, *arguments],
            env={"APISIX_LISTEN_ADDRESS": f"unix:{socket}", **environ}, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        deadline = time.monotonic() + 20
        while True:
            try:
                with Peer.connect(socket) as peer:
                    peer.prepare(conf(1))
                return process, socket
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [(("--die-with-parent", "yes"), {}), ((), {"APISIX_CONF_EXPIRE_TIME": "3600"})],
    ids=["asked for", "started as APISIX does"],
)
def test_the_runner_ends_with_the_gateway_that_started_it(
    spawn: Callable[..., tuple[subprocess.Popen[str], Path]], arguments: tuple[str, ...], environ: dict[str, str]
) -> None:
    process, socket = spawn(*arguments, environ=environ)
    process.kill()
    deadline = time.monotonic() + 15
    while socket.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_runner_started_by_hand_outlives_its_shell(
    spawn: Callable[..., tuple[subprocess.Popen[str], Path]],
) -> None:
    process, socket = spawn(environ={"HOME": "/"})
    runner = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    process.kill()
    process.wait()
    time.sleep(0.8)
    Peer.connect(socket).close()
    os.kill(runner, signal.SIGTERM)


# --- settings


def test_where_the_control_socket_is() -> None:
    assert str(control_address(Settings(listen="unix:/a/b.sock"))) == "unix:/a/b.sock.control"
    assert control_address(Settings(listen="127.0.0.1:1")) is None
    assert control_address(Settings(control="off")) is None
    assert str(control_address(Settings(control="/c"))) == "unix:/c"


def gatewright(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return launching.run([sys.executable, "-m", "gatewright", *arguments])
