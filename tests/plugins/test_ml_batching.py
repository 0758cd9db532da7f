"""Dynamic batching: who goes with whom, who waits how long, and who is refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from gatewright import PluginError
from gatewright.plugins.ml_model.batching import Batcher, ModelDownError, QueueFullError
from gatewright.plugins.ml_model.tensors import Tensors


class Model:
    """Doubles what it's given; runs when it's let."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, tensors: Tensors) -> Tensors:
        self.batches.append(tensors["x"].shape[0])
        await self.free.wait()
        if (tensors["x"] == 666).any():
            raise PluginError("poison")
        return {"y": tensors["x"] * 2}


def row(*values: float) -> Tensors:
    return {"x": np.array([[value] for value in values], "f4")}


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def batcher(model: Callable[[Tensors], Awaitable[Tensors]], **options: Any) -> Batcher:
    return Batcher(model, **{"max_rows": 8, "max_wait": 0.0, "max_queue": 100, **options})


async def test_while_the_model_is_busy_requests_gather() -> None:
    model = Model()
    model.free.clear()
    queue = batcher(model)
    asked = [asyncio.create_task(queue.infer(row(number), 5)) for number in range(20)]
    await settled()
    assert model.batches == [1]
    model.free.set()
    answers = await asyncio.gather(*asked)
    assert [float(answer["y"][0, 0]) for answer in answers] == [2.0 * number for number in range(20)]
    assert model.batches == [1, 8, 8, 3]


async def test_an_idle_model_waits_for_company_but_not_longer_than_it_may() -> None:
    model = Model()
    queue = batcher(model, max_wait=0.05)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(queue.infer(row(number), 5) for number in range(3)))
    assert model.batches == [3]
    assert loop.time() - began >= 0.045
    began = loop.time()
    await asyncio.gather(*(queue.infer(row(number), 5) for number in range(8)))  # full: nobody waits
    assert model.batches == [3, 8]
    assert loop.time() - began < 0.04


async def test_only_what_is_alike_goes_together() -> None:
    model = Model()
    model.free.clear()
    queue = batcher(model)
    first = asyncio.create_task(queue.infer(row(1), 5))
    await settled()
    wide = {"x": np.ones((1, 2), "f4")}
    doubles = {"x": np.ones((1, 1), "f8")}
    asked = [asyncio.create_task(queue.infer(tensors, 5)) for tensors in (wide, row(2), doubles, row(3), wide)]
    await settled()
    model.free.set()
    answers = await asyncio.gather(first, *asked)
    assert model.batches == [1, 2, 2, 1]
    assert [answer["y"].shape for answer in answers] == [(1, 1), (1, 2), (1, 1), (1, 1), (1, 1), (1, 2)]
    assert answers[3]["y"].dtype == "f8"


async def test_a_full_queue_refuses_at_once() -> None:
    model = Model()
    model.free.clear()
    queue = batcher(model, max_queue=3)
    asked = [asyncio.create_task(queue.infer(row(1), 5)) for _ in range(4)]
    await settled()
    assert queue.waiting == 3
    for _ in range(5):
        with pytest.raises(QueueFullError, match="3 requests wait"):
            await asyncio.wait_for(queue.infer(row(1), 5), 0.01)
    model.free.set()
    await asyncio.gather(*asked)
    assert queue.waiting == 0
    await queue.infer(row(1), 5)


async def test_who_is_too_late_or_gone_is_not_run() -> None:
    model = Model()
    model.free.clear()
    queue = batcher(model)
    first = asyncio.create_task(queue.infer(row(1), 5))
    await settled()
    late = asyncio.create_task(queue.infer(row(2), 0.01))
    gone = asyncio.create_task(queue.infer(row(3), 5))
    stays = asyncio.create_task(queue.infer(row(4), 5))
    await settled()
    gone.cancel()
    with pytest.raises(TimeoutError):
        await late
    model.free.set()
    await asyncio.gather(first, stays)
    assert model.batches == [1, 1]


async def test_one_that_spoils_a_batch_fails_alone() -> None:
    model = Model()
    model.free.clear()
    queue = batcher(model)
    asked = [asyncio.create_task(queue.infer(row(number), 5)) for number in (0, 1, 666, 3)]
    await settled()
    model.free.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(answer, PluginError) for answer in answers] == [False, False, True, False]
    assert model.batches == [1, 3, 1, 1, 1]


async def test_a_model_that_is_down_is_not_asked_again_for_each() -> None:
    calls = []

    async def down(tensors: Tensors) -> Tensors:
        calls.append(tensors["x"].shape[0])
        raise ModelDownError("no route to host")

    queue = batcher(down, max_wait=0.3)
    answers = await asyncio.gather(*(queue.infer(row(1), 5) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(answer, ModelDownError) for answer in answers)
    assert calls == [5]


async def test_what_is_larger_than_a_batch_is_cut_and_joined() -> None:
    model = Model()
    answer = await batcher(model).infer(row(*range(19)), 5)
    assert answer["y"][:, 0].tolist() == [2.0 * number for number in range(19)]
    assert model.batches == [8, 8, 3]


async def test_batches_of_one_size_are_filled_up() -> None:
    model = Model()
    queue = batcher(model, fixed_rows=4)
    assert (await queue.infer(row(1), 5))["y"].tolist() == [[2.0]]
    assert (await queue.infer(row(1, 2, 3, 4, 5), 5))["y"].shape == (5, 1)
    assert model.batches == [4, 4, 4]


async def test_an_output_without_rows_is_an_error() -> None:
    async def sums(tensors: Tensors) -> Tensors:
        return {"y": np.array(tensors["x"].sum())}

    with pytest.raises(PluginError, match="must be that of the rows"):
        await batcher(sums).infer(row(1), 5)


async def test_everybody_gets_his_own_answer() -> None:
    """Requests of all sizes and kinds come and go while batches run; each answer is the one to its own question."""

    async def model(tensors: Tensors) -> Tensors:
        await asyncio.sleep(chance.random() / 500)
        return {"y": tensors["x"] * 2, "row": tensors["x"].sum(axis=1)}

    async def client(number: int) -> None:
        rows, width = chance.randint(1, 12), chance.choice((1, 2, 3))
        x = np.full((rows, width), number, chance.choice(("f4", "f8")))
        await asyncio.sleep(chance.random() / 20)
        try:
            answer = await queue.infer({"x": x}, chance.choice((0.001, 5, 5, 5)))
        except TimeoutError:
            return
        np.testing.assert_array_equal(answer["y"], x * 2)
        np.testing.assert_array_equal(answer["row"], x.sum(axis=1))
        answered.append(number)

    chance = random.Random(7)
    answered: list[int] = []
    queue = batcher(model, max_rows=8, max_wait=0.002, max_queue=10_000, concurrency=2)
    await asyncio.gather(*(client(number) for number in range(1000)))
    assert len(answered) > 500
    assert queue.waiting == 0
    assert not queue._queues


async def test_closing_waits_for_what_runs_and_refuses_what_waits() -> None:
    model = Model()
    model.free.clear()
    queue = batcher(model)
    runs = asyncio.create_task(queue.infer(row(1), 5))
    await settled()
    waits = asyncio.create_task(queue.infer(row(2), 5))
    await settled()
    closing = asyncio.create_task(queue.close())
    with pytest.raises(ModelDownError):
        await waits
    assert not closing.done()
    model.free.set()
    await closing
    assert (await runs)["y"].tolist() == [[2.0]]
    with pytest.raises(ModelDownError):
        await queue.infer(row(1), 5)
