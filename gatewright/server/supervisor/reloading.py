"""Reloads: a new generation of workers is made ready beside the old one, and takes over at once or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from gatewright.errors import GatewrightError
from gatewright.server.host.installed import check_installed
from gatewright.server.host.notify import Notifier
from gatewright.server.ipc.plan import Plan
from gatewright.server.supervisor.workers import Stage, Worker
from gatewright.settings import Settings

__all__ = ["Reloads"]

_FIXED = (
    "conf_expire",
    "listen",
    "max_configurations",
    "socket_mode",
    "socket_owner",
    "socket_group",
    "socket_open_directory",
    "control",
    "metrics",
    "die_with_parent",
)


class Fleet(Protocol):
    """Who has the workers: the supervisor."""

    @property
    def generation(self) -> int:
        """Counts reloads."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    @property
    def workers(self) -> list[Worker]:
        """The workers of now."""

    def order_generation(self, plan: Plan) -> list[Worker]:
        """Start workers for a new generation."""

    def change_generation(self, plan: Plan, workers: list[Worker]) -> None:
        """Let a new generation take over."""

    def drop(self, worker: Worker) -> None:
        """Do without a worker that does not serve yet."""

    def reload_ended(self) -> None:
        """A reload has ended, one way or the other."""


class Reloads:
    """Runs one reload after the other.

    Attributes:
        counts: how many, by result.
        last: the latest one's result, reason, generation and time.
    """

    def __init__(self, fleet: Fleet, load: Callable[[], Plan], notifier: Notifier) -> None:
        """Make what runs reloads.

        Args:
            fleet: whose workers are replaced.
            load: reads the settings anew; raises `GatewrightError` if they are invalid.
            notifier: is told of each beginning and end.
        """
        self._fleet = fleet
        self._load = load
        self._notifier = notifier
        self._log = structlog.get_logger("gatewright.server")
        self._told = structlog.get_logger("gatewright.server.loaded")  # who asked for it is told, too
        self._plan: Plan | None = None
        self._new: list[Worker] = []
        self._again = False
        self._asked: list[asyncio.Future[dict[str, Any]]] = []
        self._asked_next: list[asyncio.Future[dict[str, Any]]] = []
        self.counts: dict[str, int] = {}
        self.last: dict[str, Any] | None = None

    @property
    def under_way(self) -> bool:
        """A reload is under way."""
        return self._plan is not None

    def concerns(self, worker: Worker) -> bool:
        """Whether a worker belongs to the reload under way."""
        return worker in self._new

    def ask(self) -> asyncio.Future[dict[str, Any]]:
        """Begin a reload, or another after the one under way; done with the result of that very one."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        (self._asked_next if self.under_way else self._asked).append(future)
        self.begin()
        return future

    def begin(self) -> None:
        """Begin a reload; if one is under way, begin another after it."""
        if self.under_way:
            self._again = True
            return
        self._again = False
        self._log.info("reloading")
        self._notifier.reloading()
        try:
            check_installed()
            plan = self._load()
        except GatewrightError as error:
            self._failed(str(error))
            return
        before = self._fleet.settings
        for name in _FIXED:
            if getattr(plan.settings, name) != getattr(before, name):
                self._log.warning("a changed setting needs a restart; it stays as it was", setting=name)
        self._plan = plan
        self._new = self._fleet.order_generation(plan)

    def accepts(self, worker: Worker) -> bool:
        """Whether a new worker could load all that the old ones could; if not, the reload has been aborted."""
        before = next((w for w in self._fleet.workers if w.stage is Stage.READY), None)
        new = [error for error in worker.errors if before is None or error not in before.errors]
        for error in new:
            self._told.error("plugin can't be loaded", error=error)
        if new:
            self.abort(new[0])
        return not new

    def worker_ready(self, worker: Worker) -> None:
        """A new worker is ready; once all are, they take over."""
        worker.stage = Stage.STANDBY
        if self._plan is None or not all(w.stage is Stage.STANDBY for w in self._new):
            return
        plan, self._plan = self._plan, None
        new, self._new = self._new, []
        self._fleet.change_generation(plan, new)
        self._count("ok", None)
        self._log.info("reloaded", workers=len(new), generation=self._fleet.generation)
        self._notifier.ready(f"{len(new)} workers")
        self._next()

    def abort(self, reason: str) -> None:
        """Do without the new workers."""
        self._plan = None
        new, self._new = self._new, []
        for worker in new:
            self._fleet.drop(worker)
        self._failed(reason)

    def _failed(self, reason: str) -> None:
        self._told.error("reload failed: the workers of before go on", reason=reason)
        self._count("failed", reason)
        self._notifier.ready(f"the last reload failed: {reason}")
        self._next()

    def _count(self, result: str, reason: str | None) -> None:
        self.counts[result] = self.counts.get(result, 0) + 1
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.last = {"result": result, "reason": reason, "generation": self._fleet.generation, "at": at}
        asked, self._asked = self._asked, self._asked_next
        self._asked_next = []
        for future in asked:
            if not future.done():
                future.set_result(self.last)

    def _next(self) -> None:
        self._fleet.reload_ended()
        if self._again:
            self.begin()
