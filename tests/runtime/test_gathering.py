"""Calls that come in one turn of the loop are started together where there are many, else each at once."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gatewright.runtime.gathering import Gathering
from gatewright.runtime.strands import Strand

MARK = contextvars.ContextVar("MARK", default="unset")


class Started:
    """Jobs that note that they have run."""

    def __init__(self) -> None:
        self.bridge = Gathering(asyncio.get_running_loop(), max_idle=64)
        self.ran: list[Any] = []
        self.strands: list[Strand] = []

    def job(self, strand: Strand, argument: object) -> None:
        assert (strand.call, strand.work, MARK.get()) == (None, None, "unset"), "an earlier job's"
        strand.call = argument
        MARK.set("set")
        self.strands.append(strand)
        if isinstance(argument, asyncio.Future):
            argument = self.bridge.wait_future(argument)
        self.ran.append(argument)

    def many(self) -> None:
        """So many in one turn that it is noticed."""
        for _ in range(64):
            self.gather("many")

    def gather(self, argument: object, job: Callable[..., None] | None = None) -> None:
        """As a connection does."""
        (self.bridge.start_soon if self.bridge.gathers else self.bridge.start_counted)(job or self.job, argument)


def in_callbacks(*turns: Callable[[Started], None]) -> None:
    """Do something in each of some turns of a loop; strands belong to where the loop runs callbacks."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def steps(started: Started) -> Iterator[None]:
            for turn in turns:
                turn(started)
                yield
            started.bridge.close()

        def take(left: Iterator[None]) -> None:
            try:
                next(left)
            except StopIteration:
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)
            else:
                loop.call_later(0.001, take, left)

        loop.call_soon(lambda: take(steps(Started())))
        await done

    asyncio.run(run())


def test_few_are_started_at_once() -> None:
    def few(started: Started) -> None:
        for number in range(4):
            started.gather(number)
            assert started.ran[-1] == number

    in_callbacks(*[few] * 30)


def test_many_are_started_in_the_next_turn_in_order_and_in_one_strand() -> None:
    def gather(started: Started) -> None:
        started.ran, started.strands = [], []
        for number in range(20):
            started.gather(number)
        assert (started.ran, started.bridge.gathered) == ([], 20)

    def look(started: Started) -> None:
        assert (started.ran, started.bridge.gathered) == (list(range(20)), 0)
        assert len(set(started.strands)) == 1

    in_callbacks(Started.many, gather, look)


def test_once_few_come_for_a_while_they_are_started_at_once_again() -> None:
    def few(started: Started) -> None:
        started.ran = []
        for number in range(3):
            started.gather(number)

    def at_once(started: Started) -> None:
        few(started)
        assert started.ran == [0, 1, 2]

    in_callbacks(Started.many, *[few] * 8, at_once, at_once)


@pytest.mark.parametrize("way", ["gather", "start_each"])
def test_those_after_one_that_waits_do_not_wait_for_it(way: str) -> None:
    future: list[asyncio.Future[str]] = []

    def start(started: Started) -> None:
        started.ran = []
        future.append(asyncio.get_running_loop().create_future())
        if way == "start_each":
            started.bridge.start_each(started.job, [1, future[0], 2, 3])
        else:
            for argument in (1, future[0], 2, 3, 4, 5):
                started.gather(argument)

    def look(started: Started) -> None:
        assert started.ran[:3] == [1, 2, 3]
        future[0].set_result("waited")

    def look_again(started: Started) -> None:
        assert started.ran[-1] == "waited"
        assert len(started.ran) == {"start_each": 4, "gather": 6}[way]

    in_callbacks(Started.many, start, look, look_again)


def test_a_job_that_raises_costs_no_other_job(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    def start(started: Started) -> None:
        started.ran = []
        for job in (started.job, fail, started.job, fail, started.job, started.job):
            started.gather("good", job)

    def look(started: Started) -> None:
        assert started.ran == ["good"] * 4

    in_callbacks(Started.many, start, lambda _: None, look)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError] * 2


def test_who_waits_is_resumed_in_the_next_turn_unless_it_has_gone_on_meanwhile() -> None:
    def begin(started: Started) -> None:
        started.ran, started.strands = [], []

        def wait(strand: Strand, _: object) -> None:
            for _ in range(2):
                try:
                    started.ran.append(started.bridge.wait_for_resume())
                except TimeoutError:
                    started.ran.append("timed out")

        for _ in range(2):
            started.bridge.start(wait, None)
        started.strands = list(started.bridge._waiting)

    def answer(started: Started) -> None:
        one, other = started.strands
        started.bridge.resume_soon(one, "answer")
        started.bridge.resume_soon(other, "answer")
        assert started.ran == []
        started.bridge.throw(other, TimeoutError())  # and waits anew

    def look(started: Started) -> None:
        assert sorted(started.ran) == ["answer", "timed out"]
        for strand in started.strands:
            started.bridge.resume(strand, "last")
        assert sorted(started.ran) == ["answer", "last", "last", "timed out"]

    in_callbacks(begin, answer, look)
