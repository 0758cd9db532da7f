"""What `asyncio.to_thread` and `run_in_executor(None, ...)` run in: threads of the plugin's own.

asyncio has one pool of a few threads for all. Functions that never come back would take them from all plugins, and the
process would wait for them when it ends. So each plugin has a pool, and nobody waits for what still runs in one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from gatewright.runtime.strands import current_work

__all__ = ["PluginExecutor"]

T = TypeVar("T")


class PluginExecutor(ThreadPoolExecutor):  # asyncio takes no other kind
    """A pool for each plugin, and one for whatever is no plugin's."""

    def __init__(self, threads: int) -> None:
        """Begin with none.

        Args:
            threads: how many one plugin may have at once.
        """
        super().__init__(max_workers=1)
        self._threads_of_one = threads
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run a function in a thread of the plugin that wants it."""
        under = current_work()
        name = under[1].name if under is not None and under[1] is not None else ""
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = ThreadPoolExecutor(self._threads_of_one, thread_name_prefix=f"plugin {name}")
        return pool.submit(fn, *args, **kwargs)

    def have(self, name: str, pool: Executor) -> None:
        """Let a plugin have a pool that it has made for itself.

        Raises:
            TypeError: that has no threads, which asyncio does not take either.
        """
        if not isinstance(pool, ThreadPoolExecutor):
            raise TypeError("executor must be ThreadPoolExecutor instance")
        self._pools[name] = pool

    def end(self, name: str) -> None:
        """End the threads of a plugin once they have nothing to do; if it wants any later, they are others."""
        pool = self._pools.pop(name, None)
        if pool is not None:
            pool.shutdown(wait=False)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more functions. Those that run are not waited for: they may never come back."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        super().shutdown(wait=False, cancel_futures=True)
