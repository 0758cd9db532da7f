"""What a runner without a supervisor shows of itself: the same as one with (see `supervisor.admin`)."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from gatewright.observe import logs
from gatewright.observe.report import WorkerReport, add_up
from gatewright.runtime.discovery import Discovery
from gatewright.server.ipc.loaded import plugins_told
from gatewright.server.supervisor.accounts import Accounts
from gatewright.server.supervisor.admin import Admin, Reloading
from gatewright.server.supervisor.workers import Stage, Worker
from gatewright.server.worker.process import WorkerPlan
from gatewright.server.worker.reporting import make_report
from gatewright.server.worker.service import Service

__all__ = ["Alone"]


class _NoReloads:
    """Reloads take a supervisor: a process can't forget what it has imported."""

    last: dict[str, Any] | None = None

    def ask(self) -> asyncio.Future[dict[str, Any]]:
        """Say so."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        future.set_result({"result": "refused", "reason": "no reload without a supervisor: --workers 1 or more"})
        return future


class Alone:
    """The one process, as a runner with one worker."""

    paused_for = 0.0

    def __init__(self, plan: WorkerPlan) -> None:
        """Open the addresses that it can be asked at.

        Raises:
            ListenError: one of them can't be bound.
        """
        self.reloads: Reloading = _NoReloads()
        self.address = plan.settings.listen
        self.ready = False
        self._worker = Worker(number=1, generation=0, plan=plan)
        self._service: Service
        self.accounts = Accounts([self._worker])
        self._began = monotonic()
        self._admin = Admin(self, plan.settings)

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._began

    async def serve(self, service: Service, discovery: Discovery, address: str) -> None:
        """Answer from now on."""
        self._service, self.address, self.ready = service, address, True
        worker = self._worker
        worker.plugins, worker.errors = plugins_told(discovery), [str(error) for error in discovery.errors]
        worker.stage = Stage.READY
        worker.pid = make_report(service, detailed=False).pid
        await self._admin.start()

    async def reports(self) -> tuple[list[tuple[Worker, WorkerReport]], WorkerReport]:
        """Its report."""
        report = make_report(self._service, detailed=True)
        self.accounts.counts.workers = self.accounts.counts.workers_wanted = 1
        self.accounts.counts.configurations = report.chains
        return [(self._worker, report)], add_up([report], gone=[])

    def set_level(self, level: str) -> None:
        """Log at another level."""
        logs.set_level(level)

    def reopen_logs(self) -> None:
        """Open the log file anew."""
        logs.reopen()

    async def close(self) -> None:
        """Answer no more."""
        self.ready = False
        await self._admin.close()

    def unlink(self) -> None:
        """Remove the sockets' files."""
        self._admin.unlink()
