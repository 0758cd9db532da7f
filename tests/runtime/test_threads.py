"""Threads of plugins: what goes on past its deadline is its own plugin's loss, and `max_concurrent` counts it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.errors import OverloadedError
from gatewright.gateways.apisix.replies import Rewrite
from gatewright.runtime.threads import Home, PluginThreads
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Refused

PLUGINS = """
import asyncio, threading, time
from gatewright import Plugin

GATE = threading.Event()
class Hangs(Plugin):
    blocking = True
    timeout = 0.1
    def on_request(self, request):
        GATE.wait(60)
class HangsLimited(Hangs):
    max_concurrent = 2
class Fine(Plugin):
    blocking = True
    def on_request(self, request):
        pass
class SetsUpApart(Fine):
    def __init__(self, config=None):
        super().__init__(config)
        self.log.warning("made")
        GATE.wait(60)
    def setup(self):
        if not self.config.get("late"):
            raise ConnectionError("not yet")
        self.where = threading.get_ident()
    def on_request(self, request):
        request.headers["x-same"] = str(threading.get_ident() == self.where)
class SlowToFail(Plugin):
    tries = 0
    where = []
    def setup(self):
        SlowToFail.where.append(threading.current_thread() is threading.main_thread())
        if len(SlowToFail.where) == 1:
            time.sleep(0.2)
            raise ConnectionError("away")
    def on_request(self, request):
        request.headers["x-where"] = repr(SlowToFail.where)
class Seen(Plugin):
    made = []
    def setup(self):
        Seen.made.append(threading.current_thread() is threading.main_thread())
    def on_request(self, request):
        if "slow" in request.query:
            time.sleep(0.2)
        request.headers["x-made"] = repr(Seen.made)
class HangsInAsync(Plugin):
    timeout = 0.1
    async def on_request(self, request):
        if "first" in request.query:
            await asyncio.to_thread(GATE.wait, 60)
        await asyncio.gather(asyncio.to_thread(GATE.wait, 60), asyncio.sleep(60))
class FineInAsync(Plugin):
    async def on_request(self, request):
        one, other = await asyncio.gather(asyncio.to_thread(lambda: "1"), asyncio.to_thread(lambda: "2"))
        request.headers["x"] = one + other
class Opens(Plugin):
    def on_request(self, request):
        GATE.set()
class Stubborn(Plugin):
    max_concurrent = 2
    timeout = 0.1
    running = 0
    gate = None
    async def on_request(self, request):
        Stubborn.gate = Stubborn.gate or asyncio.Event()
        Stubborn.running += 1
        try:
            while not Stubborn.gate.is_set():
                try:
                    await Stubborn.gate.wait()
                except asyncio.CancelledError:
                    pass
        finally:
            Stubborn.running -= 1
class Count(Plugin):
    async def on_request(self, request):
        request.headers["x-running"] = str(Stubborn.running)
class OpensStubborn(Plugin):
    async def on_request(self, request):
        Stubborn.gate.set()
"""


@pytest.fixture
def runner(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> RunnerProcess:
    runner = start_runner("-p", plugin_dir(p=PLUGINS), "--workers", "1", "--threads", "4", "--thread-queue", "1")
    runner.wait_for_log("listening")
    return runner


def passes(runner: RunnerProcess, plugin: str) -> bool:
    with runner.peer() as peer:
        return not peer.refuses(peer.prepare((plugin, "{}")))


@pytest.mark.parametrize("plugin", ["hangs", "hangs-limited"])
def test_threads_lost_to_one_plugin_are_no_others_loss(runner: RunnerProcess, plugin: str) -> None:
    assert not any(passes(runner, plugin) for _ in range(6))
    assert all(passes(runner, "fine") for _ in range(3))
    assert runner.log.count("plugin missed its deadline") == 2  # then no more are begun
    assert passes(runner, "opens")
    runner.wait_for(lambda: passes(runner, plugin))


def test_a_task_that_heeds_no_deadline_counts_until_it_ends(runner: RunnerProcess) -> None:
    assert not any(passes(runner, "stubborn") for _ in range(5))
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("count", "{}"))).headers == [("x-running", "2")]
    assert passes(runner, "opens-stubborn")
    runner.wait_for(lambda: passes(runner, "stubborn"))


def test_a_blocking_plugin_is_made_and_set_up_in_a_thread(runner: RunnerProcess) -> None:
    with runner.peer() as waiting, runner.peer() as other:
        token = waiting.prepare(("sets-up-apart", '{"late": true}'))
        runner.wait_for_log("made")
        other.request(other.prepare(("opens", "{}"), key="route#2"))  # the loop goes round meanwhile
        assert waiting.request(token).headers == [("x-same", "True")]
        assert other.refuses(other.prepare(("sets-up-apart", "{}"), key="route#3"))
    runner.wait_for_log("not yet")


def test_a_set_up_that_held_the_loop_and_failed_is_tried_again_in_a_thread(runner: RunnerProcess) -> None:
    runner.wait_for(lambda: passes(runner, "slow-to-fail"))
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("slow-to-fail", "{}"))).headers == [("x-where", "[True, False]")]


def test_what_is_learnt_of_a_plugin_holds_for_its_other_configurations(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        peer.request(peer.prepare(("seen", "{}")), args=(("slow", "1"),))
        assert peer.request(peer.prepare(("seen", '{"other": 1}'))).headers == [("x-made", "[True, False]")]


async def test_an_instance_gets_its_thread_again_if_that_is_idle() -> None:
    threads = PluginThreads(asyncio.get_running_loop(), most=2, queue=1)
    homes = Home(), Home()

    async def where(home: Home) -> int:
        result, _ = await threads.submit(threading.get_ident, "p", home).outcome
        assert isinstance(result, int)
        return result

    gate = threading.Event()
    first = threads.submit(gate.wait, "p", homes[0])
    second = await where(homes[1])
    gate.set()
    await first.outcome
    assert [await where(home) for home in (homes[1], homes[0], homes[1])][::2] == [second, second]
    assert await where(homes[0]) != second
    threads.close()


async def test_a_job_that_has_waited_in_vain_is_never_run() -> None:
    threads = PluginThreads(asyncio.get_running_loop(), most=1, queue=1)
    gate, ran = threading.Event(), []
    first = threads.submit(gate.wait, "p", Home())
    second = threads.submit(lambda: ran.append(1), "p", Home())
    with pytest.raises(OverloadedError, match="queue is full"):
        threads.submit(gate.wait, "p", Home())
    assert threads.give_up(second) is None
    assert threads.in_use == 1
    gate.set()
    await first.outcome
    await threads.submit(lambda: None, "p", Home()).outcome
    assert ran == []
    threads.close()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_threads_that_asyncio_gives_to_one_plugin_are_no_others_and_nobody_waits_for_them(
    start_runner: StartRunner, plugin_dir: Callable[..., Path], workers: str
) -> None:
    runner = start_runner("-p", plugin_dir(p=PLUGINS), "--workers", workers, "--threads", "4")
    runner.wait_for_log("listening")
    with runner.peer() as peer:
        fine = peer.prepare(("fine-in-async", "{}"))
    for number in range(12):
        with runner.peer() as peer, pytest.raises(Refused):
            peer.request(peer.prepare(("hangs-in-async", "{}")), args=[("first", "1")] if number % 2 else [])
    with runner.peer() as peer:
        assert peer.request(fine) == Rewrite(headers=[("x", "12")])
    started = time.monotonic()
    assert runner.stop() == 0
    assert time.monotonic() - started < 5


async def test_fresh_ones_have_run_nothing_before() -> None:
    threads = PluginThreads(asyncio.get_running_loop(), most=2, queue=10)
    fresh, other = Home(), Home()
    fresh.fresh = True

    def note() -> bool:
        here = threading.current_thread()
        was_here = hasattr(here, "seen")
        here.seen = True  # type: ignore[attr-defined]
        time.sleep(0.01)
        return was_here

    jobs = [threads.submit(note, "it", home) for home in (other, other, fresh, fresh, other, fresh) for _ in range(2)]
    seen = [(job.home is fresh, (await job.outcome)[0]) for job in jobs]
    assert (True, True) not in seen
    assert threads.in_use == 0
    assert (await threads.submit(note, "it", fresh).outcome)[0] is False
    threads.close()
