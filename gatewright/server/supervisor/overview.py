"""What others want to know of a runner, or have done by it (see `admin`)."""

from __future__ import annotations

from time import monotonic

from gatewright.observe import logs
from gatewright.observe.report import WorkerReport
from gatewright.server.ipc import messages
from gatewright.server.supervisor.accounts import Accounts
from gatewright.server.supervisor.fleet import Fleet
from gatewright.server.supervisor.reloading import Reloads
from gatewright.server.supervisor.workers import Worker
from gatewright.settings import worker_count

__all__ = ["Overview"]


class Overview:
    """The runner as it shows itself.

    Attributes:
        accounts: what is counted.
        reloads: runs reloads.
        address: where the runner listens.
    """

    reloads: Reloads
    address: str
    _fleet: Fleet

    def __init__(self, accounts: Accounts) -> None:
        """Begin with nothing to show: the addresses to be asked at are opened first; see `of`."""
        self.accounts = accounts
        self._began = monotonic()

    def of(self, fleet: Fleet, reloads: Reloads, address: str) -> None:
        """Show these from now on. Nobody is answered before."""
        self._fleet, self.reloads, self.address = fleet, reloads, address

    @property
    def ready(self) -> bool:
        """Whether a call would be answered."""
        now = monotonic()
        if self._fleet.stopping or self._fleet.dispatcher.unreachable:
            return False
        return any(worker.is_lively(now) for worker in self._fleet.workers)

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._began

    @property
    def paused_for(self) -> float:
        """Seconds until a worker is started again after it ended too often; 0 if none waits."""
        return max(self._fleet.paused_until - monotonic(), 0.0)

    async def reports(self, seconds: float = 1.0) -> tuple[list[tuple[Worker, WorkerReport]], WorkerReport]:
        """Every worker's report, and all added up; see `Accounts.reports`."""
        told = await self.accounts.reports(seconds)
        counts = self.accounts.counts
        counts.workers_wanted = worker_count(self._fleet.plan.settings)
        counts.reloads = self.reloads.counts
        counts.configurations = len(self._fleet.registry)
        return told

    def set_level(self, level: str) -> None:
        """Log at another level, here and in all workers."""
        logs.set_level(level)
        self._fleet.tell(messages.Level(level))

    def reopen_logs(self) -> None:
        """Open the log file anew, here and in all workers."""
        logs.reopen()
        self._fleet.tell(messages.Reopen())
