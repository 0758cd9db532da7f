"""What a plugin does to the process that it shares with others costs itself at most: never its neighbours' calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatewright.gateways.apisix.replies import Rewrite
from tests.conftest import MEASURING, RunnerProcess, StartRunner
from tests.launching import launch
from tests.peer import Refused

NEIGHBOURS = """
import asyncio, time
from gatewright import Plugin
class Waits(Plugin):
    async def on_request(self, request):
        await asyncio.sleep(0.4)
        request.headers["x"] = "waited"
class InThread(Plugin):
    async def on_request(self, request):
        request.headers["x"] = await asyncio.to_thread(lambda: "from a thread")
class InTask(Plugin):
    async def on_request(self, request):
        async def work():
            await asyncio.sleep(0)
            return "from a task"
        request.headers["x"] = await asyncio.create_task(work())
"""
DEEDS = {
    "stops": "asyncio.get_running_loop().stop()",
    "stops-later": "asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)",
    "stops-from-thread": "loop = asyncio.get_running_loop()\n"
    "threading.Thread(target=lambda: loop.call_soon_threadsafe(loop.stop)).start()",
    "closes": "asyncio.get_running_loop().close()",
    "exits-in-callback": "asyncio.get_running_loop().call_soon(sys.exit, 3)",
    "exits-in-timer": "asyncio.get_running_loop().call_later(0.05, sys.exit, 3)",
    "interrupts-in-timer": "asyncio.get_running_loop().call_later(0.05, raises, KeyboardInterrupt)",
    "exits-after-task": "t = asyncio.create_task(asyncio.sleep(0)); kept.append(t)\n"
    "t.add_done_callback(lambda _: sys.exit(4))",
    "exits-in-own-task": "kept.append(asyncio.Task(exits(), loop=asyncio.get_running_loop()))",
    "exits-on-signal": "asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, sys.exit, 1)\n"
    "os.kill(os.getpid(), signal.SIGUSR2)",
    "exits-in-exception-handler": "loop = asyncio.get_running_loop()\n"
    "loop.set_exception_handler(lambda *_: sys.exit(5)); loop.call_soon(raises, OSError)",
    "raises-on-alarm": "signal.signal(signal.SIGALRM, lambda *_: raises(SystemExit))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.05)",
    "has-an-executor": "loop = asyncio.get_running_loop()\nloop.set_default_executor(ThreadPoolExecutor(1))\n"
    "for _ in range(9): kept.append(loop.run_in_executor(None, time.sleep, 0.5))",
    "ends-executor": "await asyncio.get_running_loop().shutdown_default_executor()",
    "makes-tasks": "asyncio.get_running_loop().set_task_factory(lambda *_, **__: 1 / 0)",
    "hides-the-loop": "asyncio._set_running_loop(None)",
    "ends-its-group": "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "os.killpg(0, signal.SIGINT)",
    "slows-threads": "sys.setswitchinterval(100)",
    "replaces-sockets": "socket.socket = Proxied",
}  # fmt: skip
REFUSED = ("stops", "closes")
HEAD = """
import asyncio, os, signal, socket, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from gatewright import Plugin
kept = []
def raises(kind):
    raise kind("as meant")
async def exits():
    raise SystemExit(3)
class Proxied(socket.socket):  # as libraries for proxies have it
    def __init__(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, proto=0, fileno=None):
        super().__init__(family, kind, proto, fileno)
"""
TOLD = {
    "stops": "a plugin can't stop the loop",
    "stops-later": "a plugin has stopped the loop: it goes on",
    "exits-in-timer": "a callback raised SystemExit: it goes on",
    "interrupts-in-timer": "a callback raised KeyboardInterrupt: it goes on",
    "makes-tasks": "a plugin's task factory is not taken",
    "raises-on-alarm": "a plugin's handler for SIGALRM raised SystemExit while that plugin was not at work",
}


def source_of_deeds() -> str:
    classes = []
    for name, deed in DEEDS.items():
        lines = "".join(f"        {line}\n" for line in deed.splitlines())
        classes.append(
            f"class D{len(classes)}(Plugin):\n    name = {name!r}\n    async def on_request(self, request):\n{lines}"
        )
    return HEAD + "\n".join(classes)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunnerProcess]:
    directory = tmp_path_factory.mktemp("neighbours")
    (directory / "neighbours.py").write_text(NEIGHBOURS)
    (directory / "deeds.py").write_text(source_of_deeds())
    with (directory / "log").open("wb") as file:
        process = launch(
            [sys.executable, "-m", "gatewright", "run", "-p", directory, "--listen", f"unix:{directory}/r.sock",
             "--no-installed-plugins"],
            env=MEASURING, output=file, cwd=directory,
        )  # fmt: skip
    started = RunnerProcess(process, directory / "r.sock", directory / "log")
    started.wait_until_listening()
    started.wait_for_log("listening")
    yield started
    assert started.stop() == 0
    assert "internal error" not in started.log
    assert "worker failed" not in started.log


@pytest.mark.parametrize("deed", DEEDS)
def test_neighbours_calls_go_on(runner: RunnerProcess, deed: str) -> None:
    pids = [worker["pid"] for worker in runner.workers()]
    with runner.peer() as waits, runner.peer() as does, runner.peer() as then:
        waits.begin(waits.prepare(("waits", "{}")))
        runner.wait_for(lambda: runner.workers()[0]["calls_under_way"])
        token = does.prepare((deed, "{}"))
        assert does.refuses(token) is (deed in REFUSED)
        if deed == "hides-the-loop":  # until it's seen: at the first failure, or within half a second
            then.refuses(then.prepare(("in-task", "{}")))
        for plugin, told in (("in-task", "from a task"), ("in-thread", "from a thread"), ("in-task", "from a task")):
            assert then.request(then.prepare((plugin, "{}"))) == Rewrite(headers=[("x", told)])
        assert waits.end() == Rewrite(headers=[("x", "waited")])
    assert [worker["pid"] for worker in runner.workers()] == pids
    if deed in TOLD:
        runner.wait_for_log(TOLD[deed])


SPINS = """
import asyncio, socket, sys
from gatewright import Plugin
kept = socket.socketpair()
class Spins(Plugin):
    async def on_request(self, request):
        kept[1].send(b"x")
        asyncio.get_running_loop().add_reader(kept[0], sys.exit, 1)
class Waits(Plugin):
    async def on_request(self, request):
        await asyncio.sleep(0.4)
"""


def test_a_callback_that_exits_without_end_costs_its_worker_once_all_others_are_done(
    start_runner: StartRunner, plugin_dir: Callable[..., Path]
) -> None:
    runner = start_runner("-p", plugin_dir(spins=SPINS))
    runner.wait_for_log("listening")
    (before,) = runner.workers()
    with runner.peer() as waits, runner.peer() as spins:
        waits.begin(waits.prepare(("waits", "{}")))
        runner.wait_for(lambda: runner.workers()[0]["calls_under_way"])
        assert spins.request(spins.prepare(("spins", "{}"))) is None
        assert waits.end() is None
        runner.wait_for(lambda: [worker["pid"] for worker in runner.workers()] != [before["pid"]])
        assert waits.request(waits.prepare(("waits", "{}"))) is None, "over the same connection"
    assert "end the loop again and again" in runner.log


OWN_ALARM = """
import signal, time
from gatewright import Plugin
def too_long(*_):
    raise TimeoutError("too long")
signal.signal(signal.SIGALRM, too_long)
class Limits(Plugin):
    def on_request(self, request):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            time.sleep(0.05)
        except TimeoutError:
            request.headers["x"] = "in time"
"""


def test_a_plugins_own_alarm_ends_what_it_waits_for_itself(
    start_runner: StartRunner, plugin_dir: Callable[..., Path]
) -> None:
    runner = start_runner("-p", plugin_dir(limits=OWN_ALARM))
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("limits", "{}"))) == Rewrite(headers=[("x", "in time")])


CLOSES = """
import os, stat
from gatewright import Plugin
class Closes(Plugin):
    def on_request(self, request):
        if request.path == "/close":
            for fd in range(3, 300):
                try:
                    if stat.S_ISSOCK(os.fstat(fd).st_mode):
                        os.close(fd)
                except OSError:
                    pass
"""


def test_a_worker_whose_sockets_a_plugin_has_closed_ends_at_once(
    start_runner: StartRunner, plugin_dir: Callable[..., Path]
) -> None:
    runner = start_runner("-p", plugin_dir(closes=CLOSES))
    runner.wait_for_log("listening")
    (before,) = runner.workers()
    with runner.peer() as peer:
        token = peer.prepare(("closes", "{}"))
        with pytest.raises((EOFError, ConnectionResetError, Refused)):
            peer.request(token, "/close")
    with runner.peer() as peer:
        assert peer.request(token) is None
    assert not Path(f"/proc/{before['pid']}").exists()
