"""Names plugins that leave things behind: tasks that pile up, threads that never end."""

from __future__ import annotations

import asyncio
from collections import Counter

from gatewright.runtime.bridge import Bridge
from gatewright.runtime.failures import FailureLog

__all__ = ["LeakWatch"]

_MANY_TASKS = 500
_GROWTH = 1.2


class LeakWatch:
    """Looks now and then at what is left of calls that have ended.

    Memory can't be laid to a plugin's charge from outside; `max_memory` replaces a worker that grows.
    """

    INTERVAL = 30.0

    def __init__(self, loop: asyncio.AbstractEventLoop, bridge: Bridge, failures: FailureLog) -> None:
        """Make a watch.

        Args:
            loop: the worker's loop.
            bridge: whose threads are looked at.
            failures: where leaks are told.
        """
        self._loop = loop
        self._bridge = bridge
        self._failures = failures
        self._told: Counter[str] = Counter()

    def look(self) -> None:
        """Look once; to be called every `INTERVAL` seconds."""
        tasks: Counter[str] = Counter()
        for task in asyncio.all_tasks(self._loop):
            code = getattr(task.get_coro(), "cr_code", None)
            if code is not None:
                tasks[f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}"] += 1
        for where, count in tasks.items():
            if count >= max(_MANY_TASKS, self._told[where] * _GROWTH):
                self._told[where] = count
                self._failures.report(
                    "tasks pile up: is something awaited that never comes?", kind="leak", where=where, tasks=count
                )
        for plugin, count in Counter(self._bridge.threads.lost.values()).items():
            if count >= self._bridge.threads.most / 2:
                self._failures.report(
                    "threads of a plugin don't end after its deadline: calls are refused while it has so many",
                    kind="leak",
                    plugin=plugin,
                    threads=count,
                    of=self._bridge.threads.most,
                    cure="give what it calls a timeout of its own",
                )
