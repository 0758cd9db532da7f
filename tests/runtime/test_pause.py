"""Coroutines that wait for the gateway's answers: their strand drives them, and a task only once it has to."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from gatewright.errors import DeadlineExceededError, PluginError
from gatewright.runtime.bridge import Bridge
from gatewright.runtime.strands import Strand


class Gateway:
    """Answers questions after a while; counts those whose asker was gone."""

    def __init__(self, bridge: Bridge, seconds: float = 0.02) -> None:
        self.bridge = bridge
        self.seconds = seconds
        self.waiter: Strand | asyncio.Future[str] | None = None
        self.unwanted = 0
        self.driven_by: list[str] = []

    async def ask(self, question: str) -> str:
        loop, strand = self.bridge.loop, self.bridge.strand_of_task()
        future: asyncio.Future[str] = loop.create_future()
        self.waiter = strand or future
        loop.call_later(self.seconds, self.answer, self.waiter, f"{question}!")
        self.driven_by.append("strand" if strand is not None else "task")
        return await future if strand is None else str(await self.bridge.pause(self.forget))

    def answer(self, waiter: Any, value: str) -> None:
        if waiter is not self.waiter:
            self.unwanted += 1
        elif isinstance(waiter, Strand):
            self.bridge.resume(waiter, value)
        elif not waiter.done():
            waiter.set_result(value)

    def forget(self, strand: Strand) -> None:
        assert self.waiter is strand
        self.waiter = None


def name_of_task() -> str:
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


class Limit:
    name, route, timeout = "plugin", "route", 0.1


class Patience(Limit):
    timeout = 30.0


Handler = Callable[[Gateway], Coroutine[Any, Any, Any]]


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def run_test(new_loop: Any, **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(**arguments))

    given = inspect.signature(test)  # pytest asks the function which arguments it wants
    loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run_test.__signature__ = given.replace(parameters=[*given.parameters.values(), loop])  # type: ignore[attr-defined]
    return run_test


@asynccontextmanager
async def bridge_at_top() -> AsyncIterator[Bridge]:
    """A bridge whose hub is the loop's own greenlet, as in a worker."""
    made: asyncio.Future[Bridge] = asyncio.get_running_loop().create_future()
    made.get_loop().call_soon(lambda: made.set_result(Bridge(made.get_loop())))
    bridge = await made
    yield bridge
    bridge.close()
    await asyncio.sleep(0.01)


async def run(
    bridge: Bridge,
    gateway: Gateway,
    handler: Handler,
    before: Callable[[], object] | None = None,
    limit: type[Limit] = Limit,
) -> Any:
    """What a handler gives, or the error that it ends in."""
    done: asyncio.Future[Any] = bridge.loop.create_future()

    def job(strand: Strand, _: object) -> None:
        strand.work, strand.deadline = limit, 0.0
        try:
            if before is not None:
                before()
            done.set_result(bridge.run_coroutine(handler(gateway)))
        except BaseException as error:
            done.set_result(error)

    bridge.loop.call_soon(bridge.start, job, None)
    return await asyncio.wait_for(done, 30)


@on_both_loops
async def test_answers_come_without_a_task_of_its_own() -> None:
    async with bridge_at_top() as bridge:
        tasks: set[int] = set()

        async def handler(gateway: Gateway) -> list[str]:
            tasks.add(id(asyncio.current_task()))
            answers = [await gateway.ask(f"{n}") for n in range(3)]
            tasks.add(id(asyncio.current_task()))
            return answers

        for _ in range(3):
            gateway = Gateway(bridge)
            assert await run(bridge, gateway, handler) == ["0!", "1!", "2!"]
            assert gateway.driven_by == ["strand"] * 3
        assert len(tasks) == 1, "one stands for all, as none of them needed it"


@on_both_loops
@pytest.mark.parametrize("trace", ["kept", "kept weakly", "watched", "cancelled later", "named", "marked"])
async def test_a_task_that_somebody_knows_is_not_given_to_another(trace: str) -> None:
    async with bridge_at_top() as bridge:
        known: Any = weakref.WeakKeyDictionary() if trace == "kept weakly" else {}
        told: list[str] = []

        async def handler(gateway: Gateway) -> str:
            task = asyncio.current_task()
            assert task is not None
            if trace.startswith("kept"):
                known[task] = None
            elif trace == "marked":
                task.user = "ada"  # type: ignore[attr-defined]
            elif trace == "named":
                task.set_name("ada's")
            elif trace == "watched":
                task.add_done_callback(lambda task: told.append(task.get_name() + str(task.result())))
            else:
                asyncio.get_running_loop().call_later(0.03, task.cancel)
            await gateway.ask("a")
            return name_of_task()

        async def longer(gateway: Gateway) -> str:
            await gateway.ask("b")
            await gateway.ask("c")
            assert not hasattr(asyncio.current_task(), "user")
            return name_of_task()

        first = await run(bridge, Gateway(bridge), handler)
        assert await run(bridge, Gateway(bridge), longer) not in {first}
        if trace == "watched":
            assert told == [f"{first}None"]


@on_both_loops
async def test_handlers_at_the_same_time_have_different_tasks() -> None:
    async with bridge_at_top() as bridge:

        async def handler(gateway: Gateway) -> Any:
            before = asyncio.current_task()
            await gateway.ask("a")
            assert asyncio.current_task() is before
            return before

        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(run(bridge, Gateway(bridge), handler)) for _ in range(100)]
        assert len({each.result() for each in runs}) == 100


@on_both_loops
async def test_a_timeout_of_the_handlers_own_ends_the_wait() -> None:
    async with bridge_at_top() as bridge:

        async def handler(gateway: Gateway) -> list[str]:
            first = await gateway.ask("first")
            try:
                async with asyncio.timeout(0.01):
                    await gateway.ask("slow")
            except TimeoutError:
                return [first, "late", await gateway.ask("third")]
            return ["not late"]

        gateway = Gateway(bridge)
        assert await run(bridge, gateway, handler) == ["first!", "late", "third!"]
        assert gateway.unwanted == 1
        assert gateway.driven_by == ["strand", "strand", "task"]
        assert await run(bridge, Gateway(bridge), handler) == ["first!", "late", "third!"]


@on_both_loops
async def test_an_answer_that_comes_together_with_a_cancellation_is_too_late() -> None:
    async with bridge_at_top() as bridge:

        async def handler(gateway: Gateway) -> str:
            task = asyncio.current_task()
            assert task is not None

            def both() -> None:
                task.cancel()
                gateway.answer(gateway.waiter, "now")

            asyncio.get_running_loop().call_later(0.01, both)
            try:
                await gateway.ask("a")
            except asyncio.CancelledError:
                task.uncancel()
                return await gateway.ask("b")
            return "not cancelled"

        assert await run(bridge, Gateway(bridge, 0.05), handler) == "b!"


@on_both_loops
async def test_a_deadline_cancels_the_handler_and_lets_it_clean_up() -> None:
    async with bridge_at_top() as bridge:
        cleaned: list[str] = []

        async def handler(gateway: Gateway) -> None:
            try:
                await gateway.ask("slow")
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                cleaned.append("up")
                raise

        gateway = Gateway(bridge, 0.5)
        assert isinstance(await run(bridge, gateway, handler), DeadlineExceededError)
        assert gateway.waiter is None
        await asyncio.sleep(0.05)
        assert cleaned == ["up"]


@on_both_loops
@pytest.mark.parametrize("warm", [False, True])
async def test_one_that_cancels_itself_hears_of_it_and_the_next_one_is_not_touched(warm: bool) -> None:
    async with bridge_at_top() as bridge:
        heard: list[str] = []

        async def cancels_itself(gateway: Gateway) -> str:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            try:
                return await gateway.ask("a")
            finally:
                heard.append("of it")

        async def cancels_its_wait(gateway: Gateway) -> None:
            task, future = asyncio.current_task(), asyncio.get_running_loop().create_future()
            assert task is not None
            task.cancel()
            try:
                await future
            finally:
                heard.append(f"future cancelled: {future.cancelled()}")

        async def ends_at_once(gateway: Gateway) -> str:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return "ended"

        async def plain(gateway: Gateway) -> str:
            await asyncio.sleep(0)
            return await gateway.ask("b")

        if warm:
            await run(bridge, Gateway(bridge), ends_at_once)
        for _ in range(2):
            assert isinstance(await run(bridge, Gateway(bridge, 1), cancels_itself), PluginError)
            assert heard.pop() == "of it"
            assert isinstance(await run(bridge, Gateway(bridge), cancels_its_wait), PluginError)
            assert heard.pop() == "future cancelled: True"
            assert await run(bridge, Gateway(bridge), ends_at_once) == "ended"
            assert await run(bridge, Gateway(bridge), plain) == "b!"


@on_both_loops
async def test_other_tasks_of_the_handlers_wait_in_the_usual_way() -> None:
    async with bridge_at_top() as bridge:

        async def handler(gateway: Gateway) -> list[str]:
            return [
                await asyncio.create_task(gateway.ask("in a task")),
                await asyncio.wait_for(gateway.ask("with a limit"), 1),
                await gateway.ask("here"),
            ]

        gateway = Gateway(bridge)
        assert await run(bridge, gateway, handler) == ["in a task!", "with a limit!", "here!"]
        assert gateway.driven_by[0] == "task"
        assert gateway.driven_by[2] == "strand", "it waited for its other tasks, and needed none of its own"


@on_both_loops
async def test_context_variables_stay_with_their_handler() -> None:
    async with bridge_at_top() as bridge:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

        async def handler(gateway: Gateway) -> list[str]:
            before = variable.get()
            variable.set("set")
            await gateway.ask("a")
            return [before, variable.get()]

        for _ in range(3):
            assert await run(bridge, Gateway(bridge), handler) == ["unset", "set"]
        assert variable.get() == "unset"


@on_both_loops
async def test_what_other_handlers_of_the_call_set_is_for_this_call_only() -> None:
    async with bridge_at_top() as bridge:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

        async def handler(gateway: Gateway) -> str:
            await gateway.ask("a")
            return variable.get()

        for value in ("one", "unset", "two"):
            before = None if value == "unset" else functools.partial(variable.set, value)
            assert await run(bridge, Gateway(bridge), handler, before=before) == value


@on_both_loops
async def test_an_error_after_an_answer_is_the_handlers() -> None:
    async with bridge_at_top() as bridge:

        async def handler(gateway: Gateway) -> None:
            raise LookupError(await gateway.ask("a"))

        error = await run(bridge, Gateway(bridge), handler)
        assert isinstance(error, LookupError)
        assert str(error) == "a!"


@on_both_loops
async def test_a_bridge_that_is_closed_leaves_no_strand_behind() -> None:
    async with bridge_at_top() as bridge:

        async def handler(_: Gateway) -> None: ...

        await run(bridge, Gateway(bridge), handler)
        idle = [*bridge.idle]
        assert idle
    assert all(strand.dead for strand in idle)
