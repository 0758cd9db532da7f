"""A plugin that turns out to block is moved to threads: everywhere, and whole."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatewright.gateways.apisix.replies import Rewrite
from gatewright.runtime.thread_bound import holds_what_is_thread_bound
from gatewright.runtime.threads import Home, PluginThreads
from gatewright.server.ipc.last_seen import LastSeen
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Peer, Refused

PLUGINS = """
import os, sqlite3, threading, time
from gatewright import Plugin

def on_loop():
    return threading.current_thread() is threading.main_thread()

class Where(Plugin):  # where it was set up, where it runs, and in which process
    ended = []
    def setup(self):
        self.set_up_on_loop = on_loop()
    def on_request(self, request):
        time.sleep(float(request.headers.get("x-hold", 0)))
        where = "loop" if on_loop() else "thread"
        request.headers["x-where"] = f"{where}, {'loop' if self.set_up_on_loop else 'thread'}"
        request.headers["x-ended"] = repr(Where.ended)
        request.headers["x-pid"] = str(os.getpid())
    def teardown(self):
        Where.ended.append("loop" if on_loop() else "thread")

class Sticks(Where):
    def setup(self):
        if on_loop():
            time.sleep(60)
        super().setup()

class Db(Plugin):
    def setup(self):
        self.deep = {"db": sqlite3.connect(":memory:")}
    def on_request(self, request):
        self.deep["db"].execute("select 1")
        time.sleep(float(request.headers.get("x-hold", 0)))
        request.headers["x-rows"] = str(self.deep["db"].execute("select 1").fetchone()[0])

class Declared(Db):
    blocking = True
    timeout = 0.5

class Checks(Plugin):  # as libraries do that keep their own count
    blocking = True
    def setup(self):
        self.mine = threading.get_ident().__eq__
    def on_request(self, request):
        if not self.mine(threading.get_ident()):
            raise RuntimeError("used from another thread")
        time.sleep(0.1)
"""


@pytest.fixture
def run(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> Callable[..., RunnerProcess]:
    def start(*arguments: str) -> RunnerProcess:
        runner = start_runner("-p", plugin_dir(p=PLUGINS), *arguments)
        runner.wait_for_log("listening")
        return runner

    return start


def where(peer: Peer, token: int, hold: str = "0") -> dict[str, str]:
    action = peer.request(token, headers=[("x-hold", hold)])
    assert isinstance(action, Rewrite)
    return {name: value or "" for name, value in action.headers}


def fails(peer: Peer) -> bool:
    """Whether what was begun is refused."""
    try:
        peer.end()
    except Refused:
        return True
    return False


def test_all_configurations_and_workers_learn_of_it_and_instances_are_made_anew(
    run: Callable[..., RunnerProcess],
) -> None:
    runner = run("--workers", "2")
    with runner.peer() as one, runner.peer() as other:
        tokens = [one.prepare(("where", f'{{"n": {n}}}'), key=f"route#{n}") for n in range(2)]
        assert [where(peer, token)["x-where"] for peer in (one, other) for token in tokens] == ["loop, loop"] * 4
        assert where(one, tokens[0])["x-pid"] != where(other, tokens[0])["x-pid"]
        # Time that it waits for a processor is not the handler's: on a busy machine one call may not tell.
        runner.wait_for(lambda: where(one, tokens[0], "0.3") and "plugin held the loop" in runner.log)
        runner.wait_for(lambda: where(other, tokens[1])["x-where"] == "thread, thread")
        assert [where(peer, token)["x-where"] for peer in (one, other) for token in tokens] == ["thread, thread"] * 4
        assert where(one, tokens[0])["x-ended"] == "['loop', 'loop']", "torn down where they were made"
        token = one.prepare(("where", '{"n": 3}'), key="route#3")
        assert where(one, token)["x-where"] == "thread, thread"
    assert runner.log.count("plugin held the loop") == 1


@pytest.mark.parametrize(("plugin", "hold"), [("where", "60"), ("sticks", "0")], ids=["handler", "setup"])
def test_the_successors_of_a_worker_that_was_killed_for_it_know(
    run: Callable[..., RunnerProcess], plugin: str, hold: str
) -> None:
    runner = run("--workers", "1", "--stuck-limit", "1")
    with runner.peer() as peer:
        token = peer.prepare((plugin, "{}"))
        peer.begin(token, headers=[("x-hold", hold)])
        runner.wait_for_log("a worker ended while this plugin blocked it")
    with runner.peer() as peer:
        assert where(peer, token)["x-where"] == "thread, thread"
    assert runner.log.count("worker is stuck; killed") == 1


@pytest.mark.parametrize("plugin", ["db", "declared", "checks"])
def test_what_belongs_to_one_thread_stays_there_however_many_call(
    run: Callable[..., RunnerProcess], plugin: str
) -> None:
    runner = run("--workers", "1")
    with runner.peer() as first:
        token = first.prepare((plugin, "{}"))
        first.request(token, headers=[("x-hold", "0.3")])
        peers = [runner.peer() for _ in range(4)]
        rounds = 2 if plugin == "checks" else 1  # the first one finds it out
        for left in range(rounds, 0, -1):
            for peer in peers:
                peer.begin(token, headers=[("x-hold", "0.05")])
            failed = sum(fails(peer) for peer in peers)
            assert not failed or left > 1, runner.log
        for peer in peers:
            peer.close()
    assert ("from now on, one after another" in runner.log) == (plugin == "checks")


def test_an_instance_whose_thread_is_lost_is_made_anew(run: Callable[..., RunnerProcess]) -> None:
    runner = run("--workers", "1")
    with runner.peer() as peer:
        token = peer.prepare(("declared", "{}"))
        assert peer.refuses(token, headers=[("x-hold", "2")])  # past its deadline
        started = time.monotonic()
        assert not peer.refuses(token)
        assert time.monotonic() - started < 1, "it doesn't wait for the old one's thread"


def test_a_new_worker_sets_no_more_up_at_once_than_there_is_room_for(run: Callable[..., RunnerProcess]) -> None:
    runner = run("--workers", "1", "--threads", "2", "--thread-queue", "1")
    with runner.peer() as peer:
        for n in range(20):
            assert not peer.refuses(peer.prepare(("declared", f'{{"n": {n}}}'), key=f"route#{n}"))
    pid = runner.workers()[0]["pid"]
    os.kill(pid, signal.SIGKILL)
    runner.wait_for(lambda: [worker for worker in runner.workers() if worker["chains"] == 20 and worker["pid"] != pid])
    with runner.peer() as peer:
        peer.prepare(("declared", '{"n": 19}'), key="route#19")
    assert "set-up failed" not in runner.log


# --- what is bound to a thread


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


def a_ring() -> Holder:
    ring = Holder(None)
    ring.held = [ring, {"more": ring}]
    return ring


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        pytest.param(lambda: sqlite3.connect(":memory:"), True, id="connection"),
        pytest.param(lambda: sqlite3.connect(":memory:", check_same_thread=False), False, id="connection for all"),
        pytest.param(threading.local, True, id="local"),
        pytest.param(asyncio.new_event_loop, True, id="loop"),
        pytest.param(lambda: {"pool": [Holder(sqlite3.connect(":memory:"))]}, True, id="connection in a pool"),
        pytest.param(lambda: list(range(10_000)), False, id="numbers"),
        pytest.param(threading.Lock, False, id="lock"),
        pytest.param(a_ring, False, id="ring"),
    ],
)
def test_what_an_instance_holds_tells_whether_it_is_bound(make: Callable[[], Any], bound: bool) -> None:
    made: list[Any] = []
    is_made, is_seen = threading.Event(), threading.Event()

    def hold() -> None:
        made.append(make())
        is_made.set()
        is_seen.wait()
        held = made.pop()
        if isinstance(held, dict):
            held = held["pool"][0].held
        if isinstance(held, sqlite3.Connection | asyncio.AbstractEventLoop):
            held.close()

    thread = threading.Thread(target=hold)
    thread.start()
    is_made.wait()
    try:
        assert holds_what_is_thread_bound(Holder(made[0])) is bound
    finally:
        is_seen.set()
        thread.join()
    gc.collect()


async def test_a_bound_instance_waits_for_its_thread_and_keeps_nobody_else_waiting() -> None:
    threads = PluginThreads(asyncio.get_running_loop(), most=2, queue=4)
    bound, free = Home(), Home()
    bound.bound = True
    gate = threading.Event()
    first = threads.submit(lambda: (gate.wait(), threading.get_ident()), "p", bound)
    second = threads.submit(threading.get_ident, "p", bound)
    others = [threads.submit(threading.get_ident, "q", free) for _ in range(3)]
    elsewhere = {(await job.outcome)[0] for job in others}
    gate.set()
    (_, where), _ = await first.outcome
    assert (await second.outcome)[0] == where
    assert where not in elsewhere
    threads.close()


async def test_when_its_thread_is_lost_a_bound_instance_is_told() -> None:
    threads = PluginThreads(asyncio.get_running_loop(), most=1, queue=4)
    told: list[int] = []
    bound, gate = Home(lambda: told.append(1)), threading.Event()
    bound.bound = True
    job = threads.submit(gate.wait, "p", bound)
    waiting = threads.submit(threading.get_ident, "p", bound)
    ended = threads.give_up(job)
    assert told == [1]
    assert (await waiting.outcome)[0] is not None, "another thread takes the lost one's place"
    gate.set()
    assert ended is not None
    await ended
    threads.close()


@pytest.mark.parametrize("name", ["auth", "Prüfung", "x" * 5000, "\ud800"])
def test_the_name_of_what_blocks_is_left_in_shared_memory(name: str) -> None:
    seen = LastSeen()
    assert seen.name == ""
    seen.blocking(name)
    assert seen.name in (name, "x" * 1024, "\\ud800")
    seen.nothing()
    assert seen.name == ""
    seen.close()
