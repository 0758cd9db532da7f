"""Whatever is raised, wherever in a plugin: the call is answered, the worker lives, and the next one has its turn."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatewright.errors import words_of
from gatewright.gateways.apisix.replies import Rewrite
from gatewright.runtime.discovery import discover
from tests.conftest import MEASURING, RunnerProcess, StartRunner
from tests.launching import launch
from tests.peer import Refused

KINDS = """
import asyncio, sys
from greenlet import GreenletExit
from gatewright.errors import GatewayClosedError, DeadlineExceededError

class Own(BaseException): pass
def untold(raises):
    class Untold(Exception):
        def __str__(self):
            if raises is None:
                return 5
            raise raises("not even this")
    Untold.__name__ = f"Untold{raises and raises.__name__}"
    return Untold
def boom(*_):
    raise RuntimeError("when it's looked at")
class LiesOfClass(Exception):
    __class__ = property(boom)
class SaysClosed(Exception):
    __class__ = property(lambda self: GatewayClosedError)
class NoTraceback(Exception):
    __traceback__ = __cause__ = __context__ = property(boom)
class NoAttributes(Exception):
    __getattribute__ = boom
class Unequal(Exception):
    __eq__ = __hash__ = __bool__ = boom
class Text(str):
    __len__ = __format__ = __getitem__ = __hash__ = __str__ = boom
class SaysText(Exception):
    def __str__(self):
        return Text("its own")
class Wide(ExceptionGroup):
    def __new__(cls, *_):
        return super().__new__(cls, "wide", [OSError()] * 100_000)
    __init__ = lambda *_: None
KINDS = {kind.__name__: kind for kind in (
    LiesOfClass, SaysClosed, NoTraceback, NoAttributes, Unequal, SaysText, Wide,
    KeyboardInterrupt, SystemExit, GreenletExit, GeneratorExit, asyncio.CancelledError, Own, StopIteration,
    StopAsyncIteration, MemoryError, RecursionError, GatewayClosedError, DeadlineExceededError, ExceptionGroup,
    untold(RuntimeError), untold(GreenletExit), untold(SystemExit), untold(Own), untold(None),
)}
def fail(kind):
    raise KINDS[kind]("as meant", [OSError()]) if kind == "ExceptionGroup" else KINDS[kind]("as meant")
"""
NAMES = (
    "KeyboardInterrupt", "SystemExit", "GreenletExit", "GeneratorExit", "CancelledError", "Own", "StopIteration",
    "StopAsyncIteration", "MemoryError", "RecursionError", "GatewayClosedError", "DeadlineExceededError",
    "LiesOfClass", "SaysClosed", "NoTraceback", "NoAttributes", "Unequal", "SaysText", "Wide",
    "ExceptionGroup", "UntoldRuntimeError", "UntoldGreenletExit", "UntoldSystemExit", "UntoldOwn", "UntoldNone",
)  # fmt: skip
PLUGINS = """
from gatewright import Plugin
class Passes(Plugin):
    def on_request(self, request):
        request.headers["x"] = "1"
class Fails(Passes):
    abstract = True
    def fail(self):
        fail(self.config["kind"])

class Init(Fails):
    def __init__(self, config=None):
        super().__init__(config)
        self.fail()
class InitApart(Init):
    blocking = True
class Setup(Fails):
    def setup(self):
        self.fail()
class SetupApart(Setup):
    blocking = True
class SetupLate(Fails):
    async def setup(self):
        await asyncio.sleep(0.01)
        self.fail()
class Finds(Fails):
    @property
    def on_request(self):
        self.fail()
class FindsPhases(Fails):
    def phase_handlers(self):
        self.fail()
class SetupYields(Fails):
    def setup(self):
        yield
class Handles(Fails):
    def on_request(self, request):
        self.fail()
class HandlesAsync(Fails):
    async def on_request(self, request):
        self.fail()
class HandlesLate(Fails):
    async def on_request(self, request):
        await asyncio.sleep(0.01)
        self.fail()
class HandlesApart(Handles):
    blocking = True
class Skipped(Handles):
    on_error = "skip"
class SkippedLate(HandlesLate):
    on_error = "skip"
class SkippedApart(HandlesApart):
    on_error = "skip"
class SkippedInit(Init):
    on_error = "skip"
class SkippedSetup(Setup):
    on_error = "skip"
class Ends(Fails):
    def teardown(self):
        self.fail()
class Waits(Plugin):
    async def on_request(self, request):
        await asyncio.sleep(0.5)
        request.headers["x"] = "1"
class ExitsInATask(Passes):
    async def on_request(self, request):
        async def exits():
            sys.exit("in a task")
        self.task = asyncio.create_task(exits())
        await asyncio.sleep(0.01)
        request.headers["x"] = repr(self.task.exception())
class CancelsAll(Plugin):
    async def on_request(self, request):
        mine = asyncio.create_task(asyncio.sleep(60))
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.wait([mine])
        request.headers["x"] = str(mine.cancelled())
class NoInstance(Fails):
    def __new__(cls, config=None):
        return None
"""
REFUSED = (
    "init", "init-apart", "setup", "setup-apart", "setup-late", "setup-yields", "finds", "finds-phases",
    "handles", "handles-async", "handles-late", "handles-apart", "no-instance",
)  # fmt: skip
SKIPPED = ("skipped", "skipped-late", "skipped-apart", "skipped-init", "skipped-setup", "ends")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunnerProcess]:
    directory = tmp_path_factory.mktemp("anywhere")
    (directory / "plugins.py").write_text(KINDS + PLUGINS)
    (directory / "raises.py").write_text(KINDS + "fail('UntoldSystemExit')")
    with (directory / "log").open("wb") as file:
        process = launch(
            [sys.executable, "-m", "gatewright", "run", "-p", directory / "plugins.py", "-p", directory / "raises.py",
             "--listen", f"unix:{directory}/r.sock", "--no-installed-plugins"],
            env=MEASURING, output=file, cwd=directory,
        )  # fmt: skip
    started = RunnerProcess(process, directory / "r.sock", directory / "log")
    started.wait_until_listening()
    started.wait_for_log("listening")
    yield started
    assert started.stop() == 0, "whatever the teardowns raise"
    assert "internal error" not in started.log
    assert "Logging error" not in started.log
    assert "Unequal" in started.log


@pytest.mark.parametrize("plugin", REFUSED + SKIPPED)
def test_the_call_is_answered_and_the_worker_lives(runner: RunnerProcess, plugin: str) -> None:
    pids = [worker["pid"] for worker in runner.workers()]
    for kind in NAMES:
        with runner.peer() as peer:
            token = peer.prepare((plugin, json.dumps({"kind": kind})), ("passes", "{}"), key=f"{plugin}#{kind}")
            if plugin in SKIPPED:
                assert peer.request(token) == Rewrite(headers=[("x", "1")]), kind
            else:
                with pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
                    peer.request(token)
    assert [worker["pid"] for worker in runner.workers()] == pids


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        ("exits-in-a-task", 'PluginError("a task can\'t end the process: SystemExit: in a task")'),
        ("cancels-all", "True"),
    ],
)
def test_tasks_of_a_plugins_own_end_neither_the_worker_nor_others_calls(
    runner: RunnerProcess, plugin: str, told: str
) -> None:
    pids = [worker["pid"] for worker in runner.workers()]
    with runner.peer() as other, runner.peer() as peer:
        other.begin(other.prepare(("waits", "{}")))
        runner.wait_for(lambda: runner.workers()[0]["calls_under_way"])
        assert peer.request(peer.prepare((plugin, "{}"))) == Rewrite(headers=[("x", told)])
        assert other.end() == Rewrite(headers=[("x", "1")])
    assert [worker["pid"] for worker in runner.workers()] == pids


def test_a_file_that_raises_what_can_not_be_told_keeps_no_other_from_loading(runner: RunnerProcess) -> None:
    assert "raises.py" in runner.log
    assert "(its text can't be had)" in runner.log


def test_words_are_found_for_any_exception(tmp_path: Path) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    assert words_of(Silent()) == "Silent: (its text can't be had)"
    assert words_of(ValueError("so")) == "ValueError: so"
    assert words_of(ValueError()) == "ValueError"
    (tmp_path / "bad.py").write_text("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E")
    assert "bad.py:3: E: (its text can't be had)" in str(discover([tmp_path]).errors[0])


# --- what plugins make of logging, and of the process's descriptors

SPOILS = """
import logging, os, signal, structlog, sys

def boom(*args, **more):
    raise RuntimeError("of the plugin's logging")
class Handler(logging.Handler):
    emit = boom
class Filter(logging.Filter):
    filter = boom

logging.getLogger("gatewright").addFilter(Filter())
logging.getLogger("gatewright.runtime").addFilter(lambda record: False)
for logger in (logging.getLogger(), logging.getLogger("gatewright"), logging.getLogger("gatewright.plugin.raises")):
    for handler in logger.handlers:
        handler.addFilter(Filter())
        handler.setLevel(logging.CRITICAL)
        handler.setFormatter(logging.Formatter("MINE %(message)s"))
    logger.addHandler(Handler())
logging.setLogRecordFactory(boom)
structlog.configure(processors=[boom])
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
sys.stdout = sys.stderr = None
for descriptor in (0, 1, 2):
    os.close(descriptor)

import asyncio
from gatewright import Plugin
class Raises(Plugin):
    def on_request(self, request):
        self.log.warning("about to fail")
        raise ValueError("password=hunter2")
class Skips(Raises):
    on_error = "skip"
class RaisesThen(Plugin):
    def on_response(self, request, response):
        raise ValueError("then")
class Waits(Plugin):
    async def on_request(self, request):
        await asyncio.sleep(0.2)
"""


def test_a_plugin_that_spoils_logging_and_descriptors_costs_no_answer_no_line_and_no_worker(
    start_runner: StartRunner, plugin_dir: Callable[..., Path]
) -> None:
    runner = start_runner("-p", plugin_dir(spoils=SPOILS))
    runner.wait_for_log("listening")
    pids = [worker["pid"] for worker in runner.workers()]
    with runner.peer() as peer, pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
        peer.request(peer.prepare(("raises", "{}")))
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("skips", "{}"))) is None
        token = peer.prepare(("raises-then", "{}"), key="route#1#ext-plugin-post-resp#1")
        assert peer.response(token).status == 503
    with runner.peer() as peer:  # it goes before its answer is there
        peer.begin(peer.prepare(("waits", "{}")))
        runner.wait_for(lambda: runner.workers()[0]["calls_under_way"])
    runner.wait_for(lambda: not runner.workers()[0]["calls_under_way"])
    assert [worker["pid"] for worker in runner.workers()] == pids
    assert "plugin failed: request refused" in runner.log
    assert "[gatewright.plugin.raises]" in runner.log
    assert "ValueError: password=[redacted]" in runner.log
    assert "hunter2" not in runner.log
    assert runner.stop() == 0


MOVES = """
import os
os.chdir("/")
os.umask(0)
from gatewright import Plugin
class Raises(Plugin):
    def on_request(self, request):
        raise ValueError("moved")
"""


def test_a_log_file_stays_where_it_is_though_a_plugin_goes_elsewhere(
    start_runner: StartRunner, plugin_dir: Callable[..., Path], tmp_path: Path
) -> None:
    runner = start_runner("-p", plugin_dir(moves=MOVES), "--log-file", "runner.log")
    log = tmp_path / "runner.log"
    runner.wait_for(lambda: log.exists() and "listening" in log.read_text())
    mode = log.stat().st_mode
    log.rename(tmp_path / "runner.log.1")
    runner.process.send_signal(signal.SIGUSR1)
    runner.wait_for(log.exists)

    def is_told() -> bool:
        with runner.peer() as peer:
            assert peer.refuses(peer.prepare(("raises", "{}")))
        return "moved" in log.read_text()

    runner.wait_for(is_told)
    assert log.stat().st_mode == mode


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_plugin_that_makes_greenlets_of_threads_is_told_that_it_can_not_be(
    start_runner: StartRunner, plugin_dir: Callable[..., Path], workers: str
) -> None:
    pytest.importorskip("gevent")
    plugins = plugin_dir(patches="from gevent import monkey\nmonkey.patch_all()\n")
    runner = start_runner("-p", plugins, "--workers", workers, wait=False)
    runner.wait_for_log("a plugin has replaced the threads of the standard library", 20)
