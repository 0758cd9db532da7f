"""Whatever a runner says, nginx lives on and lets no request through that it didn't clearly allow."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatewright.gateways.lean.frames import Kind
from tests.lean.hostile import NONSENSE, HostileRunner, frame
from tests.lean.nginx import Nginx
from tests.lean.standins import with_standins


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileRunner]:
    runner = HostileRunner(tmp_path_factory.mktemp("hostile") / "r.sock")
    yield runner
    runner.stop()


@pytest.fixture(scope="module")
def nginx(hostile: HostileRunner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    started = Nginx(tmp_path_factory.mktemp("nginx"), Path(hostile._socket))
    yield started
    started.stop()


@pytest.mark.parametrize("way", ["pool", "mux"])
@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_refused(nginx: Nginx, hostile: HostileRunner, way: str, what: str) -> None:
    hostile.answer = NONSENSE[what]
    answer = nginx.ask(f"/{way}/", "any")
    assert (answer.status, answer.header("x-upstream")) == (503, [])
    hostile.answer = lambda call, _: frame(call, b"H", b"x-checked", b"yes")
    for _ in range(5):  # a call may still have been put on the connection that was just closed
        answer = nginx.ask(f"/{way}/", "any")
        if answer.status == 200:
            break
    assert answer.saw("x-checked") == ["yes"]  # and what is right goes on


def test_kong_refuses_an_answer_with_nothing_of_the_services(hostile: HostileRunner, tmp_path: Path) -> None:
    kong = with_standins(tmp_path, Path(hostile._socket))
    hostile.closes = False  # the response's call follows at once
    try:
        hostile.answer = lambda call, _: frame(call, b"H", b"x-checked", b"yes")
        hostile.early = lambda call, _: frame(call, b"R", b"x-early", b"1", kind=Kind.RESPONSE)
        answer = kong.ask("/kong-early/x", "any")
        assert (answer.status, answer.header("x-early"), answer.header("x-upstream")) == (200, ["1"], ["echo"])
        hostile.early = lambda call, _: frame(call, b"z", b"x", kind=Kind.RESPONSE)
        answer = kong.ask("/kong-early/x", "any")
        assert (answer.status, answer.header("x-upstream")) == (503, [])
        assert answer.body == b"The service is unavailable"
    finally:
        hostile.closes = True
        kong.stop()


def flood(nginx: Nginx, hostile: HostileRunner, seconds: float, *, least: int = 0) -> int:
    """For so long, nonsense of all kinds, and right answers spoiled in one place; gives how many there were."""
    chance = random.Random(seconds)
    whole = frame(1, b"NHRSb", b"path", b"x-a", b"1", b"x-b", b"2", b"200", b"body", flags=1)
    asked = 0

    def spoiled(id: int, chance: random.Random) -> bytes:
        data = bytearray(frame(id, b"NHRSb", b"path", b"x-a", b"1", b"x-b", b"2", b"200", b"body", flags=1))
        data[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        return bytes(data)

    end = time.monotonic() + seconds
    connection = nginx.connect()
    while time.monotonic() < end or asked < least:
        hostile.answer = spoiled if chance.random() < 0.7 else NONSENSE[chance.choice(list(NONSENSE)[1:])]
        answer = nginx.ask(f"/{chance.choice(('pool', 'mux'))}/", "any", connection=connection)
        asked += 1
        # All right answers are for the client, and so are those that one bit was changed of: but where that bit was the
        # one that says so, the request goes on.
        if answer.header("x-upstream"):
            assert answer.saw("x-a") == ["1"], "let through without an answer"
        assert answer.status in range(200, 1000)
        if answer.status >= 500 or "close" in answer.header("connection"):
            connection.close()
            connection = nginx.connect()
    connection.close()
    assert nginx.process.poll() is None
    assert "signal" not in nginx.log
    return asked


def test_a_flood_of_nonsense(nginx: Nginx, hostile: HostileRunner) -> None:
    flood(nginx, hostile, 2, least=30)


@pytest.mark.long
def test_a_long_flood_leaks_nothing(nginx: Nginx, hostile: HostileRunner) -> None:
    flood(nginx, hostile, 10)
    before = memory_of_workers(nginx)
    asked = flood(nginx, hostile, 60)
    assert memory_of_workers(nginx) < before + 20 * 1024, f"after {asked} answers"


def memory_of_workers(nginx: Nginx) -> int:
    """KiB."""
    pid = nginx.process.pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for worker in workers:
        status = Path(f"/proc/{worker}/status").read_text()
        total += int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
    return total


def test_a_late_answer_is_nobodys(nginx: Nginx, hostile: HostileRunner) -> None:
    """Nor is the same answer once more, when the place of its call belongs to another."""
    began, calls = threading.Event(), list[int]()

    def answer(call: int, _: random.Random) -> bytes:
        calls.append(call)
        own = frame(call, b"H", b"x-checked", b"own")
        if len(calls) == 1:
            began.set()
            return b""
        return own if len(calls) == 2 else frame(calls[0], b"H", b"x-checked", b"late") + own

    hostile.answer, hostile.closes = answer, False
    given_up: list[int] = []
    slow = threading.Thread(target=lambda: given_up.append(nginx.ask("/mux/", "any").status))
    try:
        slow.start()
        assert began.wait(10)
        assert nginx.ask("/mux/", "any").saw("x-checked") == ["own"]  # so the connection is no dead one
        slow.join(10)
        assert given_up == [503]
        for _ in range(4):
            assert nginx.ask("/mux/", "any").saw("x-checked") == ["own"]
        assert len(set(calls)) == len(calls) == 6, "no id was used twice"
    finally:
        hostile.closes = True


def test_a_connection_that_is_lost_fails_the_calls_on_it_and_no_other(nginx: Nginx, hostile: HostileRunner) -> None:
    calls: list[int] = []

    def answer(call: int, _: random.Random) -> bytes:
        calls.append(call)
        return b"" if len(calls) < 20 else frame(0, b"no", kind=Kind.ERROR, argument=1)

    hostile.answer, hostile.closes = answer, False
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(nginx.ask("/mux/", "any").status)) for _ in range(20)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert statuses == [503] * 20
        hostile.answer = lambda call, _: frame(call, b"H", b"x-checked", b"yes")
        assert {nginx.ask("/mux/", "any").status for _ in range(20)} == {200}
    finally:
        hostile.closes = True


def test_an_answer_to_a_question_that_never_ends_is_bounded_by_the_deadline(
    nginx: Nginx, hostile: HostileRunner
) -> None:
    hostile.answer = lambda call, _: b"".join(frame(call, b"path", kind=Kind.ASK, argument=n) for n in range(100))
    for way in ("pool", "mux"):
        assert nginx.ask(f"/{way}/", "any").status == 503
