"""Models in use: one in a process for all routes that say the same, opened once and closed with the last of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from gatewright import PluginError
from gatewright.plugins.ml_model.backends import Backend, file_identity
from gatewright.plugins.ml_model.batching import Batcher
from gatewright.plugins.ml_model.choice import make_backend
from gatewright.plugins.ml_model.options import Batching, ModelSource
from gatewright.plugins.ml_model.tensors import DTYPES, Array, TensorSpec

__all__ = ["Served", "Serving"]

_WARM_UP_SECONDS = 300.0


class Served:
    """An open model with its queue."""

    def __init__(self, backend: Backend, batcher: Batcher) -> None:
        self.backend = backend
        self.batcher = batcher
        self.inputs: Sequence[TensorSpec] = backend.inputs
        self.outputs: Sequence[TensorSpec] = backend.outputs


class _Entry:
    def __init__(self) -> None:
        self.users = 0
        self.opening = asyncio.Lock()
        self.served: Served | None = None


class Serving:
    """The models of a process."""

    def __init__(self) -> None:
        self._entries: dict[object, _Entry] = {}

    async def use(
        self, source: ModelSource, batching: Batching, on_batch: Callable[[int, int], None]
    ) -> tuple[object, Served]:
        """A model, open and warm, and the key to give it back with.

        Raises:
            ConfigError: there is no such model.
            ModelDownError: its server can't be asked.
        """
        identity = await asyncio.to_thread(file_identity, source.path) if source.path else ""
        loop = asyncio.get_running_loop()
        key = source, batching, identity, loop  # a loop's own: what waits in one loop can't be woken by another
        entry = self._entries.setdefault(key, _Entry())
        entry.users += 1
        try:
            async with entry.opening:
                if entry.served is None:
                    entry.served = await _open(source, batching, on_batch)
        except BaseException:
            await self.leave(key)
            raise
        return key, entry.served

    async def leave(self, key: object) -> None:
        """Give a model back; the last one closes it."""
        entry = self._entries[key]
        entry.users -= 1
        if entry.users:
            return
        del self._entries[key]
        if entry.served is not None:
            await entry.served.batcher.close()
            await entry.served.backend.close()


async def _open(source: ModelSource, batching: Batching, on_batch: Callable[[int, int], None]) -> Served:
    backend = make_backend(source)
    await backend.open()
    try:
        sizes = {spec.shape[0] for spec in backend.inputs if spec.shape and spec.shape[0] > 0}
        batcher = Batcher(
            backend.infer,
            max_rows=batching.max_rows,
            max_wait=batching.max_wait if batching.max_rows > 1 else 0.0,
            max_queue=batching.max_queue,
            concurrency=source.concurrency,
            fixed_rows=sizes.pop() if len(sizes) == 1 else None,
            on_batch=on_batch,
        )
        for _ in range(batching.warm_up if backend.inputs else 0):
            for rows in {1, batching.max_rows}:
                await _warm_up(backend, rows)
    except BaseException:
        await backend.close()
        raise
    return Served(backend, batcher)


async def _warm_up(backend: Backend, rows: int) -> None:
    tensors = {spec.name: _made_up(spec, rows) for spec in backend.inputs}
    try:
        async with asyncio.timeout(_WARM_UP_SECONDS):
            await backend.infer(tensors)
    except PluginError:
        # Zeros of a made-up size needn't please a model (one with a vocabulary, say): what counts is that it was loaded
        # and its memory taken, and a request will tell what's wrong with it.
        return


def _made_up(spec: TensorSpec, rows: int) -> Array:
    first = spec.shape[0] if spec.shape and spec.shape[0] > 0 else rows
    shape = (first, *(size if size > 0 else 1 for size in spec.shape[1:])) if spec.shape else (first,)
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, DTYPES[spec.datatype])
