"""Shifts: which workers serve, which get ready, which retire.

A worker that has loaded its plugins gets all configurations, and serves once it is ready; if it is one of a reload's,
once all of them are. The one whose place it takes retires: it hands its connections over, each between two calls, and
ends.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

import structlog

from gatewright._version import __version__
from gatewright.errors import ListenError
from gatewright.observe import logs
from gatewright.server.host.listener import Listener
from gatewright.server.host.notify import Notifier
from gatewright.server.ipc import messages
from gatewright.server.ipc.loaded import log_plugins
from gatewright.server.ipc.plan import RETIRE_MARGIN_SECONDS, Plan
from gatewright.server.supervisor.fleet import EXIT_CANNOT_START, RETIRING_A_PLACE, Fleet
from gatewright.server.supervisor.workers import Stage, Worker
from gatewright.settings import Settings, worker_count

__all__ = ["Shifts"]

_FEW: Final = 4
"""Workers that may always retire at once."""
_STOP_SECONDS: Final = 5.0


class Shifts:
    """Lets workers of a fleet take over from others."""

    def __init__(self, fleet: Fleet, address: str, notifier: Notifier) -> None:
        """Begin with a fleet.

        Args:
            fleet: the workers.
            address: where the runner listens, for the log.
            notifier: is told when all are ready for the first time.
        """
        self._fleet = fleet
        self._address = address
        self._notifier = notifier
        self._log = structlog.get_logger("gatewright.server")

    # --- getting ready

    def on_loaded(self, worker: Worker, plugins: list[messages.PluginInfo], errors: list[str]) -> None:
        """A worker has loaded its plugins: say which, and give it all configurations."""
        worker.plugins, worker.errors = plugins, errors
        if self._fleet.reloads.concerns(worker) and not self._fleet.reloads.accepts(worker):
            return
        if worker.number == 1:
            log_plugins(plugins, errors, worker.plan.settings.plugin_settings)
        now = monotonic()
        outage = not any(other.is_lively(now) for other in self._fleet.workers) and self._fleet.was_ready
        self._fleet.blockers.tell(worker)
        self._fleet.registry.tell_all(worker, urgent=outage)

    def on_ready(self, worker: Worker) -> None:
        """A worker can serve: let it, unless it has to wait for others of its generation."""
        self._log.debug("worker is ready", worker=worker.number, pid=worker.pid)
        if self._fleet.reloads.concerns(worker):
            self._fleet.reloads.worker_ready(worker)
            return
        worker.stage = Stage.READY
        if worker.instead_of is not None and worker.instead_of.stage is Stage.READY:
            self._send_into_retirement(worker.instead_of)
        worker.instead_of = None
        self._settle()

    def _settle(self) -> None:
        """Workers have become ready: connections can come, and may have to be spread anew."""
        newest = next((worker for worker in self._fleet.workers if worker.stage is Stage.READY), None)
        if newest is not None:
            self._open_sockets([plugin.name for plugin in newest.plugins])
        if not self._fleet.was_ready and all(worker.stage is Stage.READY for worker in self._fleet.workers):
            self._fleet.was_ready = True
            self._log.info("listening", address=self._address, workers=len(self._fleet.workers), version=__version__)
            self._notifier.ready(f"{len(self._fleet.workers)} workers")
        self._fleet.dispatcher.hopeless = False
        self._fleet.dispatcher.settle()

    def _open_sockets(self, names: list[str]) -> None:
        """Listen at the plugins' own sockets; a plugin's that is gone stays, for a gateway that still knows it."""
        socket_of = self._fleet.plan.socket_of
        if socket_of is None or self._fleet.stopping:
            return
        known = self._fleet.dispatcher.addresses
        for address in [address for address in map(socket_of, names) if address not in known]:
            try:
                listener = Listener.bind_as(self._fleet.plan.settings, address, warn=False)
                listener.set_backlog(self._fleet.plan.backlog)
                self._fleet.dispatcher.add(listener)
            except ListenError as error:
                self._log.critical("a plugin's own socket can't be opened", error=str(error))
                if not self._fleet.was_ready:
                    self._fleet.give_up(EXIT_CANNOT_START)
                    return

    # --- retiring

    def _send_into_retirement(self, worker: Worker) -> None:
        worker.stage = Stage.RETIRING
        worker.retired = monotonic()
        worker.retire_by = worker.retired + worker.longest + 4 * RETIRE_MARGIN_SECONDS
        worker.send(messages.Retire())
        self._bound_retirement()

    def _bound_retirement(self) -> None:
        """Each that retires has memory of its own: reloads while calls go on must not pile workers up."""
        retiring = [other for other in self._fleet.workers if other.stage is Stage.RETIRING]
        most = max(RETIRING_A_PLACE * worker_count(self._fleet.plan.settings), _FEW)
        by_age = sorted(retiring, key=lambda other: other.began)
        for oldest in by_age[: -2 * most]:  # reloads come faster than those told to end can
            self._fleet.kill(oldest)
        for oldest in by_age[:-most]:
            if not oldest.told_to_stop:
                oldest.told_to_stop = True
                self._log.warning(
                    "too many workers retire at once: the oldest is ended, with its calls",
                    worker=oldest.number,
                    pid=oldest.pid,
                    most=most,
                )
                oldest.retire_by = monotonic() + oldest.plan.settings.drain + _STOP_SECONDS
                oldest.send(messages.Stop(oldest.plan.settings.drain))

    # --- a new generation (see `reloading`)

    @property
    def generation(self) -> int:
        """Counts reloads."""
        return self._fleet.generation

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._fleet.plan.settings

    @property
    def workers(self) -> list[Worker]:
        """The workers of now, retiring ones included."""
        return list(self._fleet.workers)

    def complete(self) -> None:
        """See whether workers are missing, or want a successor."""
        self._fleet.complete()

    def order_generation(self, plan: Plan) -> list[Worker]:
        """Order all workers of a new generation."""
        return [
            self._fleet.order(plan, self._fleet.generation + 1, number)
            for number in range(1, worker_count(plan.settings) + 1)
        ]

    def change_generation(self, plan: Plan, workers: list[Worker]) -> None:
        """Let these workers serve, and the others retire."""
        self._fleet.plan = plan
        self._fleet.generation += 1
        settings = plan.settings
        logs.configure_logs(
            level=settings.log_level, format=settings.log_format, file=settings.log_file, must_open=False
        )
        for worker in workers:
            worker.stage = Stage.READY
        for worker in list(self._fleet.workers):
            if worker not in workers and worker.stage is Stage.READY:
                self._send_into_retirement(worker)
            elif worker not in workers and worker.stage is Stage.STARTING:
                self._fleet.drop(worker)
        self._fleet.begin_anew()
        self._settle()

    def drop(self, worker: Worker) -> None:
        """Do without a worker that does not serve yet."""
        self._fleet.drop(worker)

    def reload_ended(self) -> None:
        """A reload has ended, one way or the other: see to what had to wait for that."""
        self._fleet.complete()
