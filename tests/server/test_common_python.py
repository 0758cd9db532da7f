"""Plugins as people write Python: loops of their own, neighbours that are imported, odd things at import."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatewright.gateways.apisix.replies import Rewrite
from gatewright.plugin import Plugin
from gatewright.runtime.discovery import discover
from gatewright.runtime.kong_modules import load_directory
from tests.conftest import StartRunner
from tests.kong.conftest import Start, start

__all__ = ["start"]

LOOPS = """
import asyncio
from gatewright import Plugin

async def ask(request):
    await asyncio.sleep(0.3)
    return request.headers["x-user"]

def with_runner(request):
    with asyncio.Runner() as runner:
        return runner.run(ask(request)) + runner.run(ask(request))

def with_loop(request):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(ask(request))
    finally:
        loop.close()

WAYS = {"run": lambda request: asyncio.run(ask(request)), "runner": with_runner, "loop": with_loop}

class Own(Plugin):
    def on_request(self, request):
        request.headers["x-asked"] = WAYS[request.path[1:]](request)
class InAsync(Plugin):
    async def on_request(self, request):
        coroutine = ask(request)
        try:
            asyncio.run(coroutine)
        finally:
            coroutine.close()
class Quick(Plugin):
    def on_request(self, request):
        asyncio.get_running_loop()
        request.headers["x-quick"] = "1"
"""


@pytest.mark.parametrize(("way", "asked"), [("run", "ada"), ("runner", "adaada"), ("loop", "ada")])
def test_a_def_handler_may_run_a_loop_of_its_own_and_nobody_waits(
    start_runner: StartRunner, plugin_dir: Callable[..., Path], way: str, asked: str
) -> None:
    runner = start_runner("-p", plugin_dir(p=LOOPS), "--workers", "1")
    with runner.peer() as one, runner.peer() as other:
        quick = other.prepare(("quick", "{}"))
        token = one.prepare(("own", "{}"))
        started = time.monotonic()
        one.begin(token, f"/{way}", [("x-user", "ada")])
        for _ in range(3):
            assert other.request(quick) == Rewrite(headers=[("x-quick", "1")])
        assert time.monotonic() - started < 0.25, "others don't wait for it"
        assert one.end() == Rewrite(headers=[("x-asked", asked)])
    assert "held the loop" not in runner.log


def test_in_an_async_handler_it_stays_an_error(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> None:
    runner = start_runner("-p", plugin_dir(p=LOOPS), "--workers", "1")
    with runner.peer() as peer:
        assert peer.refuses(peer.prepare(("in-async", "{}")), headers=[("x-user", "ada")])
    assert "asyncio.run() cannot be called from a running event loop" in runner.log


KONG_LOOP = """
import asyncio
version, priority, Schema = "1.0.0", 1, ()
async def ask():
    await asyncio.sleep(0.01)
    return "asked"
class Plugin:
    def __init__(self, config):
        pass
    def access(self, kong):
        kong.response.set_header("x-asked", asyncio.run(ask()))
"""


@pytest.mark.parametrize("more", [(), ("-g",)], ids=["threads", "gevent"])
def test_on_kong_too(start: Start, more: tuple[str, ...]) -> None:
    server = start("msgpack", *more, loops=KONG_LOOP)
    with server.kong() as kong:
        kong.event(kong.start("loops", {}), "access", {})
        assert kong.calls == [("kong.response.set_header", ["x-asked", "asked"])]


TURNS = {
    "lock": "with lock:\n        got.append(user(request)); ask(request); mine = got.pop()",
    "local": "kept.user = user(request); ask(request); mine = kept.user",
    "rlock": "with rlock:\n        got[:] = [user(request)]; ask(request); mine = got[0]",
}
FOR_THREADS = """
import threading
from gatewright import Plugin
from apisix.runner.plugin.core import PluginBase
lock, rlock, kept, got = threading.Lock(), threading.RLock(), threading.local(), []
def work(request, user, ask):
    WORK
    return mine
class Own(Plugin):
    def on_request(self, request):
        request.headers["x-mine"] = work(request, lambda r: r.headers["x-user"], lambda r: r.body())
class Old(PluginBase):
    def name(self): return "old"
    def filter(self, conf, request, response):
        request.set_header("x-mine", work(request, lambda r: r.get_header("x-user"), lambda r: r.get_body()))
class Stays(Plugin):
    blocking = False
    def on_request(self, request):
        request.headers["x-thread"] = threading.current_thread().name
"""


@pytest.mark.parametrize("turn", TURNS)
def test_locks_and_locals_of_def_handlers_do_what_they_are_for(
    start_runner: StartRunner, plugin_dir: Callable[..., Path], turn: str
) -> None:
    runner = start_runner("-p", plugin_dir(p=FOR_THREADS.replace("WORK", TURNS[turn])), "--workers", "1")
    asked = threading.Barrier(2 if turn == "local" else 1)  # each waits for the gateway while others are called

    def mine(plugin: str, user: str, told: list[object]) -> None:
        with runner.peer() as peer:
            token = peer.prepare((plugin, "{}"))
            answers = lambda _: (asked.wait(10), time.sleep(0.05), b"body")[2]  # noqa: E731
            told.append((peer.request(token, headers=[("x-user", user)], method="POST", answers=answers), user))

    for plugin in ("own", "old"):
        told: list[Any] = []
        threads = [threading.Thread(target=mine, args=(plugin, user, told)) for user in ("ada", "bob")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(told) == 2
        assert [action for action, _ in told] == [Rewrite(headers=[("x-mine", user)]) for _, user in told]
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("stays", "{}"))) == Rewrite(headers=[("x-thread", "MainThread")])
    assert "plugin is made for threads" in runner.log


KONGS_LOCAL = """
import threading
version, priority, Schema = "1.0.0", 1, ()
kept = threading.local()
class Plugin:
    def __init__(self, config): pass
    def access(self, kong):
        if not hasattr(kept, "user"):
            kept.user, _ = kong.request.get_header("x-user")
        kong.response.set_header("x-mine", kept.user)
"""


@pytest.mark.parametrize("more", [(), ("-g",)], ids=["threads", "gevent"])
def test_kongs_events_have_a_thread_each_where_things_are_kept_by_thread(start: Start, more: tuple[str, ...]) -> None:
    server = start("msgpack", *more, local=KONGS_LOCAL)
    with server.kong() as kong:
        instance = kong.start("local", {})
        for user in ("ada", "bob", "eve"):
            kong.event(instance, "access", {"kong.request.get_header": lambda _, user=user: user})
            assert kong.calls[-1] == ("kong.response.set_header", ["x-mine", user])


NEIGHBOURS = {
    "native.py": "import helper\nfrom gatewright import Plugin\nclass Native(Plugin):\n    name = helper.NAME\n"
                 "    def on_request(self, request): pass\n",
    "kp.py": "import helper\nversion, priority, Schema = '1.0.0', 1, ()\nclass Plugin:\n"
             "    def __init__(self, config): pass\n    def access(self, kong): pass\n",
}  # fmt: skip


@pytest.mark.parametrize("load", [load_directory, lambda directory: discover([directory])], ids=["kong", "apisix"])
def test_a_plugin_imports_what_lies_beside_it(load: Callable[[Path], object], tmp_path: Path) -> None:
    name = f"helper_{tmp_path.name}_{'kong' if load is load_directory else 'apisix'}"
    (tmp_path / f"{name}.py").write_text("NAME = 'helped'\n")
    for file, source in NEIGHBOURS.items():
        (tmp_path / file).write_text(source.replace("helper", name))
    discovery = load(tmp_path)
    assert "helped" in discovery.plugins  # type: ignore[attr-defined]
    assert not [error for error in discovery.errors if name not in str(error).partition(":")[0]]  # type: ignore[attr-defined]


CIRCLE = {
    "first": "import SECOND\nfrom gatewright import Plugin\nclass First(Plugin):\n    name = 'first'\n"
             "    def on_request(self, request): pass\n    other = property(lambda self: SECOND.Second)\n",
    "second": "from gatewright import Plugin\nimport FIRST\nclass Second(Plugin):\n    name = 'second'\n"
              "    def on_request(self, request): pass\n    other = property(lambda self: FIRST.First)\n",
}  # fmt: skip


def test_plugin_files_that_import_each_other_are_one_module_each(tmp_path: Path) -> None:
    names = {name: f"{name}_of_{tmp_path.name}" for name in CIRCLE}
    for name, source in CIRCLE.items():
        text = source.replace("FIRST", names["first"]).replace("SECOND", names["second"])
        (tmp_path / f"{names[name]}.py").write_text(text)
    plugins = discover([tmp_path]).plugins
    assert plugins["first"]().other is plugins["second"]  # type: ignore[attr-defined]
    assert plugins["second"]().other is plugins["first"]  # type: ignore[attr-defined]


def test_a_plugin_file_of_a_librarys_name_hides_none(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("from gatewright import Plugin\nclass Own(Plugin):\n    name = 'own'\n")
    assert discover([tmp_path]).plugins["own"].__module__ != "msgspec"
    assert importlib.import_module("msgspec").Struct


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("class Odd(BaseException): pass\nraise Odd('skipped')", "bad.py:2: Odd: skipped"),
        ("import sys\nsys.exit(3)", "bad.py:2: SystemExit: 3"),
        ("from gatewright import Plugin\nclass P(Plugin):\n    name = 7", "P.name is a str, not 7"),
        ("from gatewright import Plugin\nclass P(Plugin):\n    on_error = 'Skip'", 'is "fail" or "skip", not'),
        ("from gatewright import Plugin\nclass P(Plugin):\n    timeout = '5'", "is a number of seconds, or None"),
        ("from gatewright import Plugin\nclass P(Plugin):\n    timeout = 10 ** 400", "is a number of seconds, or None"),
        ("from gatewright import Plugin\nclass P(Plugin):\n    timeout = 1e300", "is a number of seconds, or None"),
        ("from gatewright import Plugin\nclass P(Plugin):\n    version = object()", "P.version is a str, not"),
        ("from gatewright import Plugin\nclass P(Plugin):\n    priority = float('nan')", "P.priority is a number, not"),
        ("from gatewright import Plugin\nclass P(Plugin):\n    max_concurrent = 0", "is a whole number from 1 up"),
        ("from gatewright import Plugin\nclass P(Plugin):\n    blocking = 'yes'", "is True or False"),
        ("from apisix.runner.plugin.core import PluginBase\nclass P(PluginBase):\n    def name(self): return 7",
         "P.name is a str, not 7"),
    ],
)  # fmt: skip
def test_what_can_not_be_a_plugin_is_named_and_keeps_no_other_from_loading(
    tmp_path: Path, source: str, told: str
) -> None:
    (tmp_path / "bad.py").write_text(source)
    good = NEIGHBOURS["native.py"].replace("helper.NAME", "'good'").replace("import helper\n", "")
    (tmp_path / "good.py").write_text(good)
    for discovery in (discover([tmp_path]), load_directory(tmp_path)):
        assert list(discovery.plugins) == ["good"]
        assert told in str(discovery.errors[0])


def test_an_interrupt_at_import_is_for_whoever_sits_before_it(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover([tmp_path])


def test_attributes_are_checked_where_they_are_written() -> None:
    with pytest.raises(TypeError, match="on_error"):
        type("P", (Plugin,), {"on_error": "ignore"})
