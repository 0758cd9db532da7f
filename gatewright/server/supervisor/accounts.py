"""What is counted of all workers together, those that have ended included."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from gatewright._version import __version__
from gatewright.observe.metrics import RunnerCounts
from gatewright.observe.report import WorkerReport, add_up
from gatewright.server.ipc import messages
from gatewright.server.supervisor.workers import Stage, Worker

__all__ = ["Accounts"]


class Accounts:
    """The counts of a runner.

    Attributes:
        counts: of the runner itself.
        workers: the workers of now, a list that changes.
        exits: the last workers that ended unexpectedly.
    """

    def __init__(self, workers: list[Worker]) -> None:
        """Begin to count.

        Args:
            workers: the workers of now; the list is looked at anew each time.
        """
        self.counts = RunnerCounts(version=__version__)
        self.exits: deque[dict[str, Any]] = deque(maxlen=10)
        self.workers = workers
        self._gone = WorkerReport()
        self._numbers = 0
        self._asking: asyncio.Task[tuple[list[tuple[Worker, WorkerReport]], WorkerReport]] | None = None

    def worker_ended(self, worker: Worker, reason: str, how: str, lived: float) -> None:
        """Count a worker that has ended.

        Args:
            worker: which one.
            reason: `retired`, `stopped` or `crashed`.
            how: its exit status, in words.
            lived: for how many seconds.
        """
        self._gone = add_up([], gone=[self._gone, worker.report])
        self.counts.worker_exits[reason] = self.counts.worker_exits.get(reason, 0) + 1
        if reason == "crashed":
            self.exits.append({"worker": worker.number, "pid": worker.pid, "how": how, "lived": round(lived, 1)})

    async def reports(self, seconds: float) -> tuple[list[tuple[Worker, WorkerReport]], WorkerReport]:
        """Every worker's report, and all added up, ended ones included. A silent one's last report counts.

        Those who ask at once get the same: workers are asked once, however many clients want to know.

        Args:
            seconds: how long to wait for the workers' answers.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask(seconds))
        return await asyncio.shield(self._asking)

    async def _ask(self, seconds: float) -> tuple[list[tuple[Worker, WorkerReport]], WorkerReport]:
        loop = asyncio.get_running_loop()
        asked: list[asyncio.Future[WorkerReport]] = []
        for worker in self.workers:
            if worker.channel is not None and worker.stage in (Stage.READY, Stage.RETIRING):
                self._numbers += 1
                future = worker.asked[self._numbers] = loop.create_future()
                worker.send(messages.Report(self._numbers))
                asked.append(future)
        if asked:
            await asyncio.wait(asked, timeout=seconds)
        for worker in self.workers:
            worker.asked = {number: future for number, future in worker.asked.items() if future not in asked}
        self.counts.workers = sum(worker.stage is Stage.READY for worker in self.workers)
        each = [(worker, worker.report) for worker in self.workers if worker.stage is not Stage.STARTING]
        return each, add_up([report for _, report in each], gone=[self._gone])
