"""Dynamic batching: requests that are there at the same time go through the model together.

A request's tensors have their rows in the first dimension. Those of the same *bucket* (names, types and all other
dimensions alike) can be put together. A batch begins as soon as the model is free and `max_rows` are there, or the
oldest request of a bucket has waited for `max_wait`; so with a busy model batches fill by themselves, and `max_wait` is
what a lonely request waits for company.

The queue is bounded and refuses at once: a request that waits longer than its client would is work for nobody.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gatewright import PluginError
from gatewright.plugins.ml_model.tensors import Array, Tensors

__all__ = ["Batcher", "ModelDownError", "QueueFullError"]

Infer = Callable[[Tensors], Awaitable[Tensors]]
_Bucket = tuple[tuple[str, str, tuple[int, ...]], ...]


class QueueFullError(PluginError):
    """As many requests wait for the model as may."""


class ModelDownError(PluginError):
    """The model can't be asked at all, or gave no answer in time: asking again at once would not help."""


@dataclass(slots=True, eq=False)
class _Waiting:
    tensors: Tensors
    rows: int
    since: float
    until: float
    result: asyncio.Future[Tensors]


@dataclass(slots=True)
class _Queue:
    waiting: deque[_Waiting] = field(default_factory=deque)
    rows: int = 0


class Batcher:
    """Collects requests for one model. Lives in one event loop."""

    def __init__(
        self,
        infer: Infer,
        *,
        max_rows: int,
        max_wait: float,
        max_queue: int,
        concurrency: int = 1,
        fixed_rows: int | None = None,
        on_batch: Callable[[int, int], None] = lambda rows, requests: None,
    ) -> None:
        """Make one.

        Args:
            infer: runs the model.
            max_rows: of a batch.
            max_wait: seconds that the first request of a batch waits for others.
            max_queue: requests that may wait; those in a batch under way don't.
            concurrency: batches at once.
            fixed_rows: what each batch is filled up to, for a model that takes batches of one size only.
            on_batch: told of each batch's rows and requests.
        """
        self._infer = infer
        self._max_rows = max_rows if fixed_rows is None else min(max_rows, fixed_rows)
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._concurrency = concurrency
        self._fixed_rows = fixed_rows
        self._on_batch = on_batch
        self._queues: dict[_Bucket, _Queue] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.waiting = 0
        """Requests that wait."""

    async def infer(self, tensors: Tensors, deadline: float) -> Tensors:
        """Have the model's answer.

        Args:
            tensors: by name; the first dimension of each is that of rows, and the same.
            deadline: seconds from now after which nobody wants it any more.

        Raises:
            QueueFullError: too many wait already.
            TimeoutError: the deadline is over.
            ModelDownError: the model can't be asked.
            PluginError: the model failed.
        """
        rows = next(iter(tensors.values())).shape[0]
        pieces = max(1, math.ceil(rows / self._max_rows))
        if self.waiting and self.waiting + pieces > self._max_queue:
            raise QueueFullError(f"{self.waiting} requests wait for the model, and {self._max_queue} may")
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ModelDownError("the model is no longer in use here")
        results = [
            self._enqueue(piece, loop.time(), deadline, loop)
            for piece in ([tensors] if pieces == 1 else _pieces(tensors, rows, self._max_rows))
        ]
        self._pump()
        async with asyncio.timeout(deadline):
            try:
                done = [await result for result in results]
            finally:
                for result in results:
                    result.cancel()
        return done[0] if pieces == 1 else {name: np.concatenate([each[name] for each in done]) for name in done[0]}

    def _enqueue(
        self, tensors: Tensors, now: float, deadline: float, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Future[Tensors]:
        bucket = tuple((name, array.dtype.str, array.shape[1:]) for name, array in tensors.items())
        item = _Waiting(tensors, next(iter(tensors.values())).shape[0], now, now + deadline, loop.create_future())
        queue = self._queues.setdefault(bucket, _Queue())
        queue.waiting.append(item)
        queue.rows += item.rows
        self.waiting += 1
        return item.result

    def _pump(self) -> None:
        """Begin as many batches as may begin now, and come back when the next one may."""
        now = asyncio.get_running_loop().time()
        while len(self._running) < self._concurrency and self._queues:
            # The oldest first: no bucket starves behind a busy one.
            bucket, queue = min(self._queues.items(), key=lambda item: item[1].waiting[0].since)
            wait = queue.waiting[0].since + self._max_wait - now
            if wait > 0 and queue.rows < self._max_rows:
                bucket, queue = max(self._queues.items(), key=lambda item: item[1].rows)
                if queue.rows < self._max_rows:
                    if self._timer is None:
                        self._timer = asyncio.get_running_loop().call_later(wait, self._time_is_up)
                    return
            batch = self._take(bucket, queue, now)
            if batch:
                task = asyncio.create_task(self._run(batch))
                self._running.add(task)
                task.add_done_callback(self._ended)

    def _time_is_up(self) -> None:
        self._timer = None
        self._pump()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._closed:
            self._pump()

    def _take(self, bucket: _Bucket, queue: _Queue, now: float) -> list[_Waiting]:
        """The next batch of a bucket, without those that nobody waits for."""
        batch: list[_Waiting] = []
        rows = 0
        while queue.waiting and (not batch or rows + queue.waiting[0].rows <= self._max_rows):
            item = queue.waiting.popleft()
            queue.rows -= item.rows
            self.waiting -= 1
            if not item.result.done() and item.until > now:
                batch.append(item)
                rows += item.rows
        if not queue.waiting:
            del self._queues[bucket]
        return batch

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = await self._together(batch)
        except ModelDownError as error:
            for item in batch:
                _fail(item, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            for item in batch:  # one of them spoils it for all: each alone, then
                if not item.result.done():
                    await self._run([item])
        except asyncio.CancelledError:
            for item in batch:
                _fail(item, ModelDownError("the model is no longer in use here"))
            raise
        else:
            for item, answer in zip(batch, answers, strict=True):
                if not item.result.done():
                    item.result.set_result(answer)

    async def _together(self, batch: Sequence[_Waiting]) -> list[Tensors]:
        rows = sum(item.rows for item in batch)
        self._on_batch(rows, len(batch))
        filled = rows if self._fixed_rows is None else max(rows, self._fixed_rows)
        names = batch[0].tensors
        if len(batch) == 1 and filled == rows:
            outputs = await self._infer(names)
        else:
            outputs = await self._infer({name: _stacked(batch, name, filled - rows) for name in names})
        for name, array in outputs.items():
            if array.ndim == 0 or array.shape[0] != filled:
                raise PluginError(
                    f"the model's output {name!r} has the shape {list(array.shape)} for {filled} rows: its first "
                    "dimension must be that of the rows"
                )
        answers: list[Tensors] = []
        at = 0
        for item in batch:
            answers.append({name: array[at : at + item.rows] for name, array in outputs.items()})
            at += item.rows
        return answers

    async def close(self) -> None:
        """Stop: what waits is refused, what runs is waited for."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for queue in self._queues.values():
            for item in queue.waiting:
                _fail(item, ModelDownError("the model is no longer in use here"))
        self._queues.clear()
        self.waiting = 0
        if self._running:
            await asyncio.wait(set(self._running))


def _stacked(batch: Sequence[_Waiting], name: str, missing: int) -> Array:
    arrays = [item.tensors[name] for item in batch]
    if missing:
        last = arrays[-1][-1:]  # real data: what a model makes of zeros, it may not like
        arrays.append(np.repeat(last, missing, axis=0))
    return np.concatenate(arrays)


def _pieces(tensors: Tensors, rows: int, size: int) -> list[Tensors]:
    return [{name: array[at : at + size] for name, array in tensors.items()} for at in range(0, rows, size)]


def _fail(item: _Waiting, error: Exception) -> None:
    if not item.result.done():
        item.result.set_exception(error)
        item.result.exception()  # whoever asked may be gone: then nobody would have seen it
