"""Coroutines that await futures: their strand waits, and to the coroutine it's as if its task did."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gatewright.errors import DeadlineExceededError, PluginError
from gatewright.runtime.bridge import Bridge
from gatewright.runtime.spare_tasks import CURRENT
from tests.runtime.test_pause import Gateway, Patience, bridge_at_top, on_both_loops, run


@asynccontextmanager
async def handed_over(bridge: Bridge) -> AsyncIterator[list[Any]]:
    """What has been handed over to tasks meanwhile."""
    given: list[Any] = []
    hand_over = bridge._hand_over

    def counted(spare: Any, waits_for: Any, strand: Any) -> Any:
        given.append(waits_for)
        return hand_over(spare, waits_for, strand)

    bridge._hand_over = counted  # type: ignore[method-assign]
    yield given


async def answers(value: str, seconds: float = 0.01) -> str:
    await asyncio.sleep(seconds)
    return value


async def fails(seconds: float = 0.01) -> str:
    await asyncio.sleep(seconds)
    raise LookupError("not here")


# --- what it waits for


@on_both_loops
async def test_futures_tasks_and_turns_need_no_task_of_its_own() -> None:
    async with bridge_at_top() as bridge, handed_over(bridge) as given:
        tasks: set[Any] = set()

        async def handler(gateway: Gateway) -> list[Any]:
            tasks.add(asyncio.current_task())
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, "future")
            got = [await future, await asyncio.create_task(answers("task"))]
            await asyncio.sleep(0)
            got += await asyncio.gather(answers("one"), answers("two", 0.02))
            async with asyncio.TaskGroup() as group:
                three = group.create_task(answers("three"))
            got.append(three.result())
            lock, event = asyncio.Lock(), asyncio.Event()
            asyncio.get_running_loop().call_later(0.01, event.set)
            async with lock:
                await event.wait()
            got.append(await gateway.ask("gateway"))
            tasks.add(asyncio.current_task())
            return got

        wanted = ["future", "task", "one", "two", "three", "gateway!"]
        assert await run(bridge, Gateway(bridge), handler, limit=Patience) == wanted
        assert len(tasks) == 1
        assert not given


@on_both_loops
async def test_the_same_task_stands_for_the_next_handler() -> None:
    async with bridge_at_top() as bridge:

        async def handler(_: Gateway) -> int:
            await asyncio.sleep(0.001)
            return id(asyncio.current_task())

        assert len({await run(bridge, Gateway(bridge), handler, limit=Patience) for _ in range(20)}) == 1


@on_both_loops
async def test_many_at_once_have_tasks_of_their_own() -> None:
    async with bridge_at_top() as bridge, handed_over(bridge) as given:

        async def handler(_: Gateway) -> Any:
            before = asyncio.current_task()
            for _turn in range(3):
                await asyncio.sleep(0.001)
                assert asyncio.current_task() is before
            return before

        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(run(bridge, Gateway(bridge), handler, limit=Patience)) for _ in range(500)]
        assert len({each.result() for each in runs}) == 500
        assert not given


@on_both_loops
async def test_others_run_meanwhile_in_the_name_of_no_task() -> None:
    async with bridge_at_top() as bridge:
        seen: list[Any] = []

        async def handler(_: Gateway) -> None:
            asyncio.get_running_loop().call_later(0.005, lambda: seen.append(asyncio.current_task()))
            await asyncio.sleep(0.02)

        await run(bridge, Gateway(bridge), handler, limit=Patience)
        assert seen == [None]


@on_both_loops
async def test_tasks_that_it_makes_know_what_they_run_for_and_the_next_handler_does_not() -> None:
    async with bridge_at_top() as bridge:

        async def known() -> Any:
            return CURRENT.get()

        async def handler(_: Gateway) -> tuple[Any, Any]:
            before = CURRENT.get()
            await asyncio.sleep(0)
            return before, await asyncio.create_task(known())

        for _ in range(3):
            before, later = await run(bridge, Gateway(bridge), handler, limit=Patience)
            assert before is None
            assert later[1].name == "plugin"


@on_both_loops
@pytest.mark.parametrize("what", ["error", "cancelled", "error of a task", "cancelled task"])
async def test_how_a_future_ends_is_thrown_where_it_is_awaited(what: str) -> None:
    async with bridge_at_top() as bridge, handed_over(bridge) as given:

        async def handler(_: Gateway) -> str:
            loop = asyncio.get_running_loop()
            future: asyncio.Future[str] = loop.create_task(fails()) if "task" in what else loop.create_future()
            if what == "error":
                loop.call_later(0.01, future.set_exception, LookupError("not here"))
            elif "cancelled" in what:
                loop.call_later(0.005, future.cancel)
            try:
                await future
            except (LookupError, asyncio.CancelledError) as error:
                await asyncio.sleep(0)
                return f"{type(error).__name__}: {error}"
            return "nothing thrown"

        got = await run(bridge, Gateway(bridge), handler, limit=Patience)
        assert got == ("CancelledError: " if "cancelled" in what else "LookupError: not here")
        assert not given


@on_both_loops
async def test_an_awaitable_of_its_own_gets_the_error_thrown_in() -> None:
    async with bridge_at_top() as bridge:

        @types.coroutine
        def watching(future: asyncio.Future[str]) -> Generator[Any, Any, str]:
            future._asyncio_future_blocking = True
            try:
                yield future
            except LookupError as error:
                return f"thrown: {error}"
            return "not thrown"

        async def handler(_: Gateway) -> str:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_exception, LookupError("it"))
            return await watching(future)

        assert await run(bridge, Gateway(bridge), handler, limit=Patience) == "thrown: it"


@on_both_loops
async def test_one_that_ends_cancelled_is_a_failed_plugin() -> None:
    async with bridge_at_top() as bridge:

        async def handler(_: Gateway) -> None:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.cancel)
            await future

        async def raises(_: Gateway) -> None:
            raise asyncio.CancelledError

        for each in (handler, raises):
            error = await run(bridge, Gateway(bridge), each, limit=Patience)
            assert isinstance(error, PluginError)
            assert str(error) == "the handler was cancelled"


@on_both_loops
@pytest.mark.parametrize("what", ["bare future", "itself", "another loop's", "number"])
async def test_what_no_task_can_wait_for_is_told(what: str) -> None:
    async with bridge_at_top() as bridge:
        other = asyncio.new_event_loop()

        @types.coroutine
        def bare(value: Any) -> Generator[Any, Any, None]:
            yield value

        async def handler(_: Gateway) -> None:
            if what == "bare future":
                await bare(asyncio.get_running_loop().create_future())
            elif what == "itself":
                await asyncio.current_task()  # type: ignore[misc]
            elif what == "number":
                await bare(5)
            else:
                await other.create_future()

        error = await run(bridge, Gateway(bridge), handler, limit=Patience)
        other.close()
        assert isinstance(error, RuntimeError)
        told = {"bare future": "yield was used instead of yield from", "itself": "Task cannot await on itself",
                "another loop's": "attached to a different loop", "number": "Task got bad yield"}  # fmt: skip
        assert told[what] in str(error)


# --- cancelling


@on_both_loops
@pytest.mark.parametrize("when", ["before its first turn", "later"])
async def test_a_timeout_of_its_own(when: str) -> None:
    async with bridge_at_top() as bridge:

        async def handler(gateway: Gateway) -> list[str]:
            if when == "later":
                await asyncio.sleep(0.005)
            future = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(0.01 if when == "later" else 0):
                    await future
            except TimeoutError:
                task = asyncio.current_task()
                assert task is not None
                return [f"cancelled: {future.cancelled()}", str(task.cancelling()), await gateway.ask("then")]
            return ["not late"]

        for _ in range(2):
            assert await run(bridge, Gateway(bridge), handler, limit=Patience) == ["cancelled: True", "0", "then!"]


@on_both_loops
async def test_a_task_that_fails_in_its_group_ends_the_wait_in_its_body() -> None:
    async with bridge_at_top() as bridge:

        async def handler(_: Gateway) -> str:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fails(0.005))
                    await asyncio.sleep(5)
            except ExceptionGroup as errors:
                return str(errors.exceptions[0])
            return "slept"

        assert await run(bridge, Gateway(bridge), handler, limit=Patience) == "not here"


@on_both_loops
async def test_it_ends_when_what_it_waits_for_has_ended() -> None:
    """As a task, which gets its CancelledError once the other task has cleaned up."""
    async with bridge_at_top() as bridge:
        order: list[str] = []

        async def cleans_up() -> None:
            try:
                await asyncio.sleep(5)
            finally:
                await asyncio.sleep(0.01)
                order.append("inner")

        async def handler(_: Gateway) -> list[str]:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    try:
                        await asyncio.create_task(cleans_up())
                    finally:
                        order.append("outer")
            return order

        assert await run(bridge, Gateway(bridge), handler, limit=Patience) == ["inner", "outer"]


@on_both_loops
async def test_what_does_not_heed_it_gives_its_value() -> None:
    async with bridge_at_top() as bridge:

        async def stubborn() -> str:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                return "done all the same"
            return "slept"

        async def handler(_: Gateway) -> str:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.01, task.cancel)
            return await asyncio.create_task(stubborn())

        assert await run(bridge, Gateway(bridge), handler, limit=Patience) == "done all the same"


@on_both_loops
async def test_together_with_its_result_it_is_heard() -> None:
    async with bridge_at_top() as bridge:

        async def handler(_: Gateway) -> str:
            task, future = asyncio.current_task(), asyncio.get_running_loop().create_future()
            assert task is not None

            def both() -> None:
                future.set_result("now")
                task.cancel()

            asyncio.get_running_loop().call_later(0.005, both)
            try:
                await future
            except asyncio.CancelledError:
                return "cancelled"
            return "not cancelled"

        assert await run(bridge, Gateway(bridge), handler, limit=Patience) == "cancelled"


@on_both_loops
@pytest.mark.parametrize("waits_for", ["future", "turn"])
async def test_one_whose_task_has_not_begun_yet_hears_of_it_soon(waits_for: str) -> None:
    async with bridge_at_top() as bridge:

        async def handler(_: Gateway) -> str:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)  # comes before the task's own first step, or with it
            try:
                if waits_for == "future":
                    await asyncio.get_running_loop().create_future()
                else:
                    while True:
                        await asyncio.sleep(0)
            except asyncio.CancelledError:
                return "heard"

        assert await run(bridge, Gateway(bridge), handler, limit=Patience) == "heard"


@on_both_loops
async def test_a_task_that_is_cancelled_in_the_same_turn_as_it_was_made_hears_of_it() -> None:
    async with bridge_at_top() as bridge:
        made: list[Any] = []

        def cancel() -> None:
            made[0].cancel()

        async def handler(_: Gateway) -> str:
            made.append(asyncio.current_task())
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                return "heard"
            return "not heard"

        make = bridge._spares.make

        def cancelled_soon(context: Any) -> Any:
            bridge.loop.call_soon(cancel)  # before the task's first step
            return make(context)

        bridge._spares.make = cancelled_soon  # type: ignore[method-assign]
        got = bridge.loop.create_task(run(bridge, Gateway(bridge), handler, limit=Patience))
        await asyncio.sleep(0.01)
        bridge._spares.make = make  # type: ignore[method-assign]
        assert await got == "heard"


@on_both_loops
@pytest.mark.parametrize("begun", [False, True], ids=["not begun", "begun"])
@pytest.mark.parametrize("waits_for", ["future", "task", "answer"])
async def test_the_message_says_who_cancelled(waits_for: str, begun: bool) -> None:
    async with bridge_at_top() as bridge:

        async def handler(gateway: Gateway) -> tuple[Any, ...]:
            task, loop = asyncio.current_task(), asyncio.get_running_loop()
            assert task is not None
            if begun:
                await asyncio.sleep(0.005)
                loop.call_later(0.005, task.cancel, "by us")
            else:
                task.cancel("by us")
            try:
                if waits_for == "future":
                    await loop.create_future()
                elif waits_for == "task":
                    await loop.create_task(asyncio.sleep(5))
                else:
                    await gateway.ask("slow")
            except asyncio.CancelledError as error:
                return error.args
            return ()

        assert await run(bridge, Gateway(bridge, 0.05), handler, limit=Patience) == ("by us",)


@on_both_loops
async def test_scopes_and_groups_of_anyio() -> None:
    anyio = pytest.importorskip("anyio")
    async with bridge_at_top() as bridge:

        async def handler(gateway: Gateway) -> list[Any]:
            got: list[Any] = []
            with anyio.move_on_after(0.01) as scope:
                await anyio.sleep(5)
            got.append(scope.cancelled_caught)
            try:
                with anyio.fail_after(0.01):
                    await anyio.Event().wait()
            except TimeoutError:
                got.append("late")
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 5)
                await anyio.sleep(0.005)
                group.cancel_scope.cancel()
            got.append(await anyio.to_thread.run_sync(lambda: "thread"))
            got.append(await gateway.ask("gateway"))
            return got

        for _ in range(3):
            assert await run(bridge, Gateway(bridge), handler, limit=Patience) == [True, "late", "thread", "gateway!"]


# --- deadlines


@on_both_loops
async def test_what_it_waits_for_is_cancelled_and_it_cleans_up() -> None:
    async with bridge_at_top() as bridge:
        cleaned: list[str] = []

        async def inner() -> None:
            try:
                await asyncio.sleep(5)
            finally:
                cleaned.append("inner")

        async def handler(_: Gateway) -> None:
            try:
                await asyncio.create_task(inner())
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                cleaned.append("outer")
                raise

        assert isinstance(await run(bridge, Gateway(bridge), handler), DeadlineExceededError)
        await asyncio.sleep(0.05)
        assert cleaned == ["inner", "outer"]


@on_both_loops
async def test_a_result_that_comes_later_lets_nobody_else_go_on() -> None:
    async with bridge_at_top() as bridge:
        loop = asyncio.get_running_loop()
        kept: list[asyncio.Future[str]] = []

        async def waits(_: Gateway) -> None:
            kept.append(loop.create_future())
            await asyncio.shield(kept[0])

        async def next_one(_: Gateway) -> str:
            kept[0].set_result("late")
            return await answers("its own", 0.02)

        assert isinstance(await run(bridge, Gateway(bridge), waits), DeadlineExceededError)
        assert await run(bridge, Gateway(bridge), next_one) == "its own"


@on_both_loops
async def test_all_waits_together_have_one() -> None:
    async with bridge_at_top() as bridge:

        async def handler(_: Gateway) -> None:
            for _turn in range(100):
                await asyncio.sleep(0.01)

        before = asyncio.get_running_loop().time()
        assert isinstance(await run(bridge, Gateway(bridge), handler), DeadlineExceededError)
        assert asyncio.get_running_loop().time() - before < 0.9
