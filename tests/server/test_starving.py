"""A worker that has to wait for a processor doesn't take that for its plugins' fault."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gatewright.gateways.apisix.replies import Rewrite
from gatewright.runtime.starving import Starving
from tests.conftest import StartRunner

PLUGIN = """
import time
from gatewright import Plugin

class Computes(Plugin):
    def on_request(self, request):
        end = time.thread_time() + 0.15
        while time.thread_time() < end:
            pass
        request.headers["x-done"] = "yes"

class Sleeps(Plugin):
    def on_request(self, request):
        time.sleep(0.6)
"""


@contextmanager
def busy_processor(*pids: int) -> Iterator[None]:
    """These processes have a small part of one processor."""
    one = min(os.sched_getaffinity(0))
    spin = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{one}}})\nwhile True: pass"]
    others = [subprocess.Popen(spin) for _ in range(8)]
    try:
        for pid in pids:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {one})
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.alone
def test_a_handler_that_had_no_processor_stays_where_it_is(
    start_runner: StartRunner, plugin_dir: Callable[..., Path]
) -> None:
    plugins = plugin_dir(them=PLUGIN)
    runner = start_runner("--plugins", plugins, "--hold-limit", "0.25", "--workers", "1")
    with runner.peer() as peer:
        token = peer.prepare(("computes", "{}"))
        with busy_processor(runner.workers()[0]["pid"]):
            runner.wait_for(lambda: peer.request(token) and "had to wait for a processor" in runner.log, 60)
        assert "held the loop" not in runner.log
        assert isinstance(peer.request(token), Rewrite)
        token = peer.prepare(("sleeps", "{}"))
        peer.request(token)
        runner.wait_for_log("plugin held the loop")


def test_nothing_is_waited_for_where_there_is_a_processor_for_all() -> None:
    seen: list[float] = []

    def looks() -> None:
        starving = Starving()
        starving.look()
        threading.Event().wait(0.3)
        seen.append(starving.since_look())

    thread = threading.Thread(target=looks)
    thread.start()
    thread.join()
    assert 0 <= seen[0] < 0.25, "waiting for an event is not waiting for a processor"
