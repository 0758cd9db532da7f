"""Made-up handlers run as asyncio's own task runs them: the same steps at the same times, the same end."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.errors import PluginError
from gatewright.runtime.bridge import Bridge
from gatewright.runtime.strands import Strand

Program = tuple[Any, ...]


class Selector(selectors.SelectSelector):
    """Time goes on by being waited for."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += max(timeout or 0.0, 0.0)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = Selector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


class Work:
    name, route, timeout = "plugin", "route", 1e6


class Player:
    """Plays a program, and writes down what happens when."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.seen: list[tuple[Any, ...]] = []
        self.delays = itertools.count(1)

    def note(self, place: str, what: object) -> None:
        self.seen.append((place, what, round(self.loop.time() * 2**40)))  # times are sums of binary fractions

    def delay(self, units: int) -> float:
        """No two are alike, nor two sums: what comes in the same turn is nobody's promise."""
        return units + 2.0 ** -next(self.delays)

    async def play(self, program: Program, place: str = "") -> object:
        value: object = None
        for number, step in enumerate(program):
            here = f"{place}.{number}"
            try:
                value = await getattr(self, f"do_{step[0]}")(here, *step[1:])
            except BaseException as error:
                self.note(here, (type(error).__name__, error.args))
                raise
            self.note(here, repr(value))
        return value

    async def do_sleep(self, _: str, units: int) -> str:
        await asyncio.sleep(self.delay(units))
        return "slept"

    async def do_future(self, here: str, units: int, end: str) -> object:
        future = self.loop.create_future()
        ends: dict[str, Callable[[], object]] = {
            "result": lambda: future.done() or future.set_result(here),
            "error": lambda: future.done() or future.set_exception(LookupError(here)),
            "cancel": lambda: future.cancel(f"future {here}"),
        }
        self.loop.call_later(self.delay(units), ends[end])
        try:
            return await future
        finally:
            self.note(here, ("cancelled", future.cancelled()))

    async def do_task(self, here: str, program: Program) -> object:
        return await self.loop.create_task(self.play(program, here))

    async def do_gather(self, here: str, one: Program, two: Program) -> object:
        return await asyncio.gather(self.play(one, f"{here}a"), self.play(two, f"{here}b"), return_exceptions=False)

    async def do_timeout(self, here: str, units: int, program: Program) -> object:
        try:
            async with asyncio.timeout(self.delay(units)):
                return await self.play(program, here)
        except TimeoutError:
            return "late"

    async def do_wait_for(self, here: str, units: int, program: Program) -> object:
        try:
            return await asyncio.wait_for(self.play(program, here), self.delay(units))
        except TimeoutError:
            return "late"

    async def do_shield(self, here: str, program: Program) -> object:
        inner = self.loop.create_task(self.play(program, here))
        inner.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(inner)

    async def do_group(self, here: str, one: Program, body: Program) -> object:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.play(one, f"{here}a"))
                await self.play(body, f"{here}b")
        except BaseExceptionGroup as errors:
            return [type(error).__name__ for error in errors.exceptions]
        return "both"

    async def do_cancel_later(self, here: str, units: int) -> str:
        task = asyncio.current_task()
        assert task is not None
        self.loop.call_later(self.delay(units), task.cancel, f"by {here}")
        return "will be"

    async def do_cancel(self, here: str) -> str:
        if here != ".0":  # at once only where nothing else happens then
            await asyncio.sleep(self.delay(0))
        task = asyncio.current_task()
        assert task is not None
        return str(task.cancel(f"by {here}"))

    async def do_catch(self, here: str, program: Program, clean: Program, forgive: bool) -> object:
        try:
            return await self.play(program, here)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            self.note(here, ("cancelling", task.cancelling()))
            if forgive:
                while task.cancelling():
                    task.uncancel()
            await self.play(clean, f"{here}c")
            if not forgive:
                raise
            return "forgiven"

    async def do_fail(self, here: str) -> None:
        await asyncio.sleep(self.delay(0))
        raise LookupError(here)


UNITS = st.integers(1, 4)
LEAF = st.one_of(
    st.tuples(st.just("sleep"), UNITS),
    st.tuples(st.just("future"), UNITS, st.sampled_from(["result", "error", "cancel"])),
    st.tuples(st.just("cancel_later"), UNITS),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("fail")),
)


def programs(step: st.SearchStrategy[Any]) -> st.SearchStrategy[Program]:
    return st.lists(step, min_size=1, max_size=3).map(tuple)


STEP = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.tuples(st.just("task"), programs(inner)),
        st.tuples(st.just("gather"), programs(inner), programs(inner)),
        st.tuples(st.just("timeout"), UNITS, programs(inner)),
        st.tuples(st.just("wait_for"), UNITS, programs(inner)),
        st.tuples(st.just("shield"), programs(inner)),
        st.tuples(st.just("group"), programs(inner), programs(inner)),
        st.tuples(st.just("catch"), programs(inner), programs(inner), st.booleans()),
    ),
    max_leaves=8,
)

Run = Callable[[Loop, Coroutine[Any, Any, object]], "asyncio.Future[object]"]


def as_a_task(loop: Loop, coroutine: Coroutine[Any, Any, object]) -> asyncio.Future[object]:
    return loop.create_task(coroutine)


def in_a_strand(loop: Loop, coroutine: Coroutine[Any, Any, object]) -> asyncio.Future[object]:
    done: asyncio.Future[object] = loop.create_future()

    def job(strand: Strand, _: object) -> None:
        strand.work, strand.deadline = Work, 0.0
        try:
            done.set_result(bridge.run_coroutine(coroutine))
        except BaseException as error:
            done.set_exception(error)

    def begin() -> None:
        nonlocal bridge
        bridge = Bridge(loop)
        bridge.start(job, None)

    bridge: Any = None
    loop.call_soon(begin)
    done.add_done_callback(lambda _: bridge.close())
    return done


def played(program: Program, run: Run) -> dict[str, list[Any]]:
    """What was seen at each place."""
    loop = Loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    player = Player(loop)

    async def whole() -> None:
        with suppress(asyncio.CancelledError, LookupError, PluginError):
            await run(loop, player.play(program))

    try:
        loop.run_until_complete(whole())
        loop.run_until_complete(asyncio.sleep(100))  # what goes on after it
    finally:
        loop.close()
    by_place: dict[str, list[Any]] = {}
    for place, what, when in player.seen:
        by_place.setdefault(place, []).append((what, when))
    return by_place


@given(programs(STEP))
@settings(max_examples=150)
def test_the_same_steps_at_the_same_times(program: Program) -> None:
    assert played(program, in_a_strand) == played(program, as_a_task)
