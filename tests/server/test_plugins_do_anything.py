"""What plugins do to the process that they run in, as any Python program may: the runner's promises hold."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatewright.gateways.apisix.replies import Rewrite
from tests.conftest import MEASURING, RunnerProcess, StartRunner, end

# Each would be a file of its own; what they do at import is done before the runner serves.
AT_IMPORT = {
    "signals": """
import signal
def mine(number, frame):
    raise SystemExit("told to go")
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, mine)
signal.set_wakeup_fd(-1)
class Signals(Plugin):
    def setup(self):
        signal.signal(signal.SIGTERM, mine)
    def on_request(self, request):
        signal.signal(signal.SIGTERM, mine)
        signal.setitimer(signal.ITIMER_REAL, 5)  # a time-out as scripts have it
        signal.signal(signal.SIGALRM, mine)
        signal.setitimer(signal.ITIMER_REAL, 0)
""",
    "threads": """
import threading, time
ticks = []
def tick():
    while True:
        time.sleep(0.01)
        ticks.append(1)
threading.Thread(target=tick).start()  # no daemon
class Threads(Plugin):
    def on_request(self, request):
        before = len(ticks)
        time.sleep(0.05)
        request.headers["x-ticks"] = str(len(ticks) > before)
""",
    "exits": """
import asyncio, atexit, os
atexit.register(print, "plugin's farewell", os.getpid(), flush=True)
@atexit.register
def fails():
    raise OSError("can't say farewell")
class Sleeps(Plugin):
    async def on_request(self, request):
        await asyncio.sleep(60)
class Exits(Plugin):
    def on_request(self, request):
        pass
""",
    "children": """
import multiprocessing, os, signal
from concurrent.futures import ProcessPoolExecutor
def square(n):
    return n * n
class Children(Plugin):
    blocking = True
    def setup(self):
        self.pool = multiprocessing.get_context("fork").Pool(1)
        self.executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
        self.executor.submit(square, 2).result()
    def on_request(self, request):
        request.headers["x-squares"] = f"{self.pool.apply(square, (3,))} {self.executor.submit(square, 4).result()}"
        request.headers["x-children"] = f"{self.pool.apply(os.getpid)} {self.executor.submit(os.getpid).result()}"
        with multiprocessing.get_context("fork").Pool(1) as pool:  # ended by SIGTERM
            pool.apply(square, (1,))
""",
    "closes": """
import os
class Closes(Plugin):
    def on_request(self, request):
        os.closerange(0, 3)
        request.headers["x-closed"] = "yes"
""",
    "forks": """
import os
class Forks(Plugin):
    def on_request(self, request):
        request.headers["x-child"] = str(os.fork())
""",
    "spawns": """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
class Cube:
    def __init__(self, n):
        self.n = n
    def of(self):
        return self.n ** 3
class Spawns(Plugin):
    blocking = True
    def on_request(self, request):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
            request.headers["x-cube"] = str(executor.submit(Cube(3).of).result(30))
""",
    "warns": """
import warnings
warnings.simplefilter("error")
class Warns(Plugin):
    def on_request(self, request):
        if "ask" in request.headers:
            warnings.simplefilter("always")
            warnings.warn("this is old", DeprecationWarning)
            warnings.simplefilter("error")
""",
    "leaves": """
import contextvars, decimal, locale, os, random, sys
var = contextvars.ContextVar("user", default="nobody")
class Leaves(Plugin):
    def on_request(self, request):
        request.headers["x-leaves"] = var.get()
        var.set("alice")
        decimal.getcontext().prec = 2
        os.chdir("/")
        os.umask(0)
        sys.setrecursionlimit(2000)
class Finds(Plugin):
    def on_request(self, request):
        request.headers["x-finds"] = f"{var.get()} {decimal.getcontext().prec}"
class FindsAsync(Plugin):
    async def on_request(self, request):
        request.headers["x-finds-async"] = var.get()
class LeavesAtSetup(Plugin):
    def setup(self):
        var.set("admin")
    def on_request(self, request):
        request.headers["x-of-setup"] = var.get()
""",
}  # fmt: skip


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunnerProcess]:
    directory = tmp_path_factory.mktemp("anything")
    for name, source in AT_IMPORT.items():
        (directory / f"{name}.py").write_text("from gatewright import Plugin\n" + source)
    with running(directory) as runner:
        yield runner


@contextlib.contextmanager
def running(directory: Path, *arguments: str) -> Iterator[RunnerProcess]:
    socket, log = directory / "r.sock", directory / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "gatewright", "run", "-p", str(directory), "--no-installed-plugins", *arguments],
            env={"APISIX_LISTEN_ADDRESS": f"unix:{socket}", **MEASURING}, stdout=file, stderr=file,
        )  # fmt: skip
    runner = RunnerProcess(process, socket, log)
    try:
        runner.wait_until_listening()
        runner.wait_for_log("listening")
        yield runner
    finally:
        end(process)


def of(runner: RunnerProcess, *plugins: str, headers: tuple[tuple[str, str], ...] = ()) -> dict[str, str | None]:
    """What plugins set on a request."""
    with runner.peer() as peer:
        action = peer.request(peer.prepare(*((plugin, "{}") for plugin in plugins)), headers=headers)
    return dict(action.headers) if isinstance(action, Rewrite) else {}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_of(runner: RunnerProcess) -> int:
    (worker,) = runner.workers()
    pid = worker["pid"]
    assert isinstance(pid, int)
    return pid


def test_context_variables_of_one_handler_reach_no_other(runner: RunnerProcess) -> None:
    for _ in range(2):
        assert of(runner, "leaves", "finds", "finds-async", "leaves-at-setup", "leaves") == {
            "x-leaves": "nobody", "x-finds": "nobody 28", "x-finds-async": "nobody", "x-of-setup": "nobody",
        }  # fmt: skip


def test_a_thread_started_at_import_runs_where_the_plugin_does(runner: RunnerProcess) -> None:
    assert of(runner, "threads") == {"x-ticks": "True"}


def test_warnings_are_logged_and_where_they_are_errors_they_are_the_plugins_own(runner: RunnerProcess) -> None:
    assert of(runner, "warns", headers=(("ask", "1"),)) == {}
    runner.wait_for_log("this is old")
    assert of(runner, "finds", "exits") == {"x-finds": "nobody 28"}


def test_a_plugins_signal_handlers_do_not_end_its_worker(runner: RunnerProcess) -> None:
    pid = pid_of(runner)
    assert of(runner, "signals") == {}
    runner.wait_for(lambda: "handler for a signal" in runner.log)
    os.kill(pid, signal.SIGTERM)
    runner.wait_for(lambda: pid_of(runner) != pid if len(runner.workers()) == 1 else False)
    assert "reason=SIGTERM" in runner.log
    assert "told to go" not in runner.log


def test_children_of_a_plugin_are_no_part_of_the_worker(runner: RunnerProcess) -> None:
    pid = pid_of(runner)
    with runner.peer() as peer:
        token = peer.prepare(("sleeps", "{}"))
        squares = of(runner, "children")
        assert squares.pop("x-squares") == "9 16"
        children = [int(child) for child in (squares["x-children"] or "").split()]
        assert pid_of(runner) == pid, "a SIGTERM to a child is not its worker's"
        peer.begin(token)
        runner.wait_for(lambda: runner.workers()[0]["calls_under_way"])  # what it has not read is the next one's
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises((EOFError, ConnectionResetError)):
            peer.receive()
        assert time.monotonic() - started < 5, "nobody else has the gateway's connection"
    for child in children:  # which wait for work from one who is dead
        os.kill(child, signal.SIGKILL)


def test_a_child_that_a_plugin_forks_and_lets_go_on_is_no_second_worker(runner: RunnerProcess) -> None:
    child = int(of(runner, "forks")["x-child"] or "")
    runner.wait_for(lambda: not is_alive(child), 5)
    assert of(runner, "forks").keys() == {"x-child"}
    assert f"child={child}" in runner.log


def test_a_connection_gets_no_number_of_standard_descriptors_that_a_plugin_has_closed(runner: RunnerProcess) -> None:
    for _ in range(3):  # each time over a new connection
        assert of(runner, "closes") == {"x-closed": "yes"}


def test_a_process_that_a_plugin_spawns_finds_what_it_is_sent(runner: RunnerProcess) -> None:
    assert of(runner, "spawns") == {"x-cube": "27"}


def test_what_is_registered_to_be_done_at_exit_is_done_and_children_go(tmp_path: Path) -> None:
    for name in ("exits", "children"):
        (tmp_path / f"{name}.py").write_text("from gatewright import Plugin\n" + AT_IMPORT[name])
    with running(tmp_path) as runner:
        assert of(runner, "exits") == {}
        children = (of(runner, "children")["x-children"] or "").split()
        pid = pid_of(runner)
        assert runner.stop() == 0
    assert f"plugin's farewell {pid}" in runner.log
    assert "can't say farewell" in runner.log
    assert not any(Path(f"/proc/{child}").exists() for child in children)


LOGGING = """
import logging, logging.config
from gatewright import Plugin

logging.basicConfig(level=logging.CRITICAL, format="MINE %(message)s", force=True)
logging.config.dictConfig({
    "version": 1,  # disables all loggers that there are, unless told not to
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "mine"}},
    "formatters": {"mine": {"format": "MINE %(name)s %(message)s"}},
    "loggers": {"theirs": {"handlers": ["console"], "level": "INFO", "propagate": False}},
    "root": {"handlers": ["console"], "level": "ERROR"},
})
class Logs(Plugin):
    def on_request(self, request):
        self.log.info("of a plugin")
        logging.getLogger("theirs").info("as set up")
        logging.getLogger("another").error("by the root")
        if "shut" in request.headers:
            logging.shutdown()
            logging.disable()
        raise OSError("it failed")
"""


def test_a_plugin_may_set_logging_up_for_itself_and_the_runners_lines_still_come(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(LOGGING)
    with running(tmp_path) as runner:
        for headers in ((), (("shut", "1"),), ()):
            with runner.peer() as peer:
                assert peer.refuses(peer.prepare(("logs", "{}")), headers=headers)
        runner.wait_for(lambda: runner.log.count("plugin failed: request refused") >= 3)
        runner.wait_for_log("[gatewright.plugin.logs]")
        log = runner.log
        assert "MINE theirs as set up" in log
        assert "MINE another by the root" in log
        assert "MINE of a plugin" not in log
        assert "MINE gatewright" not in log, "each line comes once"
        assert log.count("plugin failed: request refused") == log.count("of a plugin") == 3
        assert log.count("OSError: it failed\n") == 1, "the same traceback is not told again at once"
        assert runner.stop() == 0
        assert "stopped" in runner.log


def test_one_process_ends_too_though_a_plugins_thread_goes_on(tmp_path: Path) -> None:
    for name in ("threads", "exits"):
        (tmp_path / f"{name}.py").write_text("from gatewright import Plugin\n" + AT_IMPORT[name])
    with running(tmp_path, "--workers", "0") as runner:
        assert of(runner, "threads") == {"x-ticks": "True"}
        assert runner.stop() == 0
        assert "plugin threads still run: left behind" in runner.log
        assert "plugin's farewell" in runner.log


LEAKS = """
import os
from gatewright import Plugin
kept = []
class Leaks(Plugin):
    def on_request(self, request):
        request.headers["x-worker"] = str(os.getpid())
        if request.path == "/leak":
            try:
                while True:
                    kept.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
"""


def test_a_worker_whose_descriptors_a_plugin_has_used_up_is_replaced_and_others_serve_meanwhile(
    start_runner: StartRunner, plugin_dir: Callable[..., Path]
) -> None:
    command = ["prlimit", "--nofile=160:160", sys.executable, "-m", "gatewright", "run"]
    runner = start_runner("-p", plugin_dir(leaks=LEAKS), "--log-format", "json", command=command)
    runner.wait_for_log("listening")
    (first,) = runner.workers()
    with runner.peer() as old:
        token = old.prepare(("leaks", "{}"))
        assert isinstance(old.request(token, "/leak"), Rewrite)
        with runner.peer() as new:
            assert isinstance(new.request(token), Rewrite)
        by_first = Rewrite(headers=[("x-worker", str(first["pid"]))])
        runner.wait_for(lambda: old.request(token) != by_first)  # connections that there were have moved, too
    assert runner.log.count("no room for a connection") <= 2
    assert "a plugin keeps them open" in runner.log
