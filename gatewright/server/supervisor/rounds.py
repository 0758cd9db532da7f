"""Looking after the workers, several times a second: those that hang are killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final

import structlog

from gatewright.server.host.notify import Notifier
from gatewright.server.supervisor.dispatcher import Dispatcher
from gatewright.server.supervisor.workers import SILENT_SECONDS, Stage, Worker
from gatewright.settings import Settings

__all__ = ["Rounds"]

_FROZEN_SECONDS: Final = 2.0
_UNTAKEN_SECONDS: Final = 1.0
"""A connection that a worker has not come for in so long is given to another one."""


class Rounds:
    """Sees whether workers are well, and spreads connections."""

    def __init__(
        self,
        workers: list[Worker],
        dispatcher: Dispatcher,
        notifier: Notifier,
        kill: Callable[[Worker], None],
        complete: Callable[[], None],
    ) -> None:
        """Be ready to look.

        Args:
            workers: the workers of now; the list is looked at anew each time.
            dispatcher: spreads connections.
            notifier: tells systemd that we are alive.
            kill: ends a worker at once.
            complete: orders successors for workers that want one.
        """
        self._workers = workers
        self._dispatcher = dispatcher
        self._notifier = notifier
        self._kill = kill
        self._complete = complete
        self._log = structlog.get_logger("gatewright.server")
        self._looked = monotonic()
        self._told_alive = 0.0

    def look(self, settings: Settings) -> None:
        """Look once."""
        now = monotonic()
        if now - self._looked > _FROZEN_SECONDS:  # we were stopped, and so were the workers
            for worker in self._workers:
                worker.heard = now
        self._looked = now
        for worker in list(self._workers):
            self._look_at(worker, now, settings)
            self._take_back_from(worker, now)
        self._see_to_stopped(now)
        self._dispatcher.spread()
        every = self._notifier.watchdog_seconds / 2
        is_ready = any(worker.is_lively(now) for worker in self._workers)
        if every and is_ready and now - self._told_alive >= every / 2:
            self._told_alive = now
            self._notifier.alive()

    def _take_back_from(self, worker: Worker, now: float) -> None:
        """Let others have what a worker, which may be blocked or stopped, doesn't come for."""
        if worker.oldest_in_transit > now - _UNTAKEN_SECONDS:
            return
        if not any(other is not worker and other.is_lively(now) for other in self._workers):
            return
        taken_back = worker.take_back(now)
        if taken_back:
            self._log.info(
                "connections that a worker has not come for go to another one",
                worker=worker.number,
                pid=worker.pid,
                connections=len(taken_back),
            )
        for connection, read in taken_back:
            self._dispatcher.place(connection, read)

    def _see_to_stopped(self, now: float) -> None:
        """Where somebody has stopped all workers that serve, have others serve in their stead.

        One that a plugin blocks has its time (`stuck_limit`): its successor would be blocked by the same.
        """
        if any(worker.stage is Stage.STARTING or worker.is_lively(now) for worker in self._workers):
            return
        for worker in self._workers:
            is_silent = now - worker.heard > SILENT_SECONDS
            if worker.stage is Stage.READY and not worker.wants and is_silent and _is_stopped(worker.pid):
                worker.wants = "somebody has stopped it (SIGSTOP)"
                self._complete()

    def _look_at(self, worker: Worker, now: float, settings: Settings) -> None:
        silent = now - worker.heard
        if worker.stage is Stage.RETIRING and worker.retire_by and now > worker.retire_by:
            self._log.error("retired worker does not end; killed", worker=worker.number, pid=worker.pid)
            self._kill(worker)
        elif worker.is_expected() and settings.stuck_limit and silent > settings.stuck_limit:
            self._log.error(
                "worker is stuck; killed", worker=worker.number, pid=worker.pid, silent_for=round(silent, 1)
            )
            self._kill(worker)
        elif worker.stage is Stage.STARTING and worker.pid and now - worker.began > settings.start_timeout:
            self._log.error("worker does not get ready; killed", worker=worker.number, pid=worker.pid)
            self._kill(worker)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"
    except OSError:  # it has ended, or this isn't Linux
        return False
