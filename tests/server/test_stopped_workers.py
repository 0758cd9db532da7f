"""A worker that somebody has stopped, or that a plugin holds, keeps nobody waiting who could be another's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from selectors import DefaultSelector

import pytest

from gatewright.gateways.apisix.replies import Rewrite
from gatewright.server.ipc.handover import Handover
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Peer

WriteFiles = Callable[..., Path]

PLAIN = """
from gatewright import Plugin
class Plain(Plugin):
    def on_request(self, request):
        request.headers["x-seen"] = "yes"
"""


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def with_two(start_runner: StartRunner, plugin_dir: WriteFiles) -> tuple[RunnerProcess, int]:
    runner = start_runner("-p", plugin_dir(plain=PLAIN), "--workers", "2")
    runner.wait_for_log("listening")
    return runner, runner.workers()[0]["pid"]


def test_connections_that_a_stopped_worker_has_not_come_for_go_to_another_one(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner, pid = with_two(start_runner, plugin_dir)
    with runner.peer() as peer:
        token = peer.prepare(("plain", "{}"))
    peers: list[Peer] = []
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        for _ in range(6):  # half of them are given to the one that was heard of a moment ago
            peers.append(runner.peer())
            assert isinstance(peers[-1].request(token), Rewrite)
        assert time.monotonic() - began < 10, "not as long as the worker may be silent"
        assert "connections that a worker has not come for go to another one" in runner.log
        assert "stuck" not in runner.log
        os.kill(pid, signal.SIGCONT)
        runner.wait_for(lambda: all(worker["loop_lag"] < 1 for worker in runner.workers()))
        for peer in peers:
            assert isinstance(peer.request(token), Rewrite), "nobody else reads from them"
        for _ in range(6):
            peers.append(runner.peer())
            assert isinstance(peers[-1].request(token), Rewrite)
    finally:
        os.kill(pid, signal.SIGCONT)
        for peer in peers:
            peer.close()


def test_where_somebody_has_stopped_the_only_worker_another_one_takes_over(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(plain=PLAIN))
    runner.wait_for_log("listening")
    pid = runner.workers()[0]["pid"]
    with runner.peer() as old, runner.peer() as new:
        token = old.prepare(("plain", "{}"))
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with runner.peer() as early:  # it's heard of still
                assert isinstance(early.request(token), Rewrite)
            assert time.monotonic() - began < 10, "not as long as a worker may be silent"
            assert "somebody has stopped it (SIGSTOP)" in runner.log
            assert "stuck" not in runner.log
        finally:
            os.kill(pid, signal.SIGCONT)
        assert isinstance(old.request(token), Rewrite), "its connections go on with it, or after it"
        assert isinstance(new.request(token), Rewrite)
    runner.wait_for(lambda: state_of(pid) == "Z", 15)
    assert runner.stop() == 0


def test_a_stopped_worker_whose_supervisor_is_killed_ends_too(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner, pid = with_two(start_runner, plugin_dir)
    os.kill(pid, signal.SIGSTOP)
    runner.process.kill()
    runner.process.wait()
    try:  # its group is its own, and without a parent in the session the kernel lets it go on
        runner.wait_for(lambda: state_of(pid) == "Z", 7)
    finally:
        if state_of(pid) != "Z":
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def handover() -> Iterator[Handover]:
    loop = asyncio.SelectorEventLoop(DefaultSelector())
    made = Handover(loop)
    yield made
    made.close()
    loop.close()


def test_what_was_taken_back_does_not_arrive_and_what_has_arrived_is_not_taken_back(handover: Handover) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        given = [handover.give(slot, b"read", ours) for slot in (3, 4, 5)]
        first = handover.receive()
        assert first is not None
        assert first[:3] == (given[0], 3, b"read")
        assert first.connection is not None
        first.connection.close()
        assert handover.take_back() == set(given[1:])
        assert handover.receive() is None
        again = handover.give(6, b"", ours)
        after = handover.receive()
        assert after is not None
        assert after[:3] == (again, 6, b"")
        assert after.connection is not None
        after.connection.sendall(b"hello")
        after.connection.close()
        assert theirs.recv(9) == b"hello"


def test_what_there_is_no_room_for_waits_and_can_be_taken_back_too(handover: Handover) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        given = [handover.give(-1, b"x" * 4096, ours) for _ in range(300)]
        assert handover.take_back() == set(given)
