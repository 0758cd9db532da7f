"""The supervisor: owns the listening socket, the workers and the conf tokens; runs no plugin and speaks no protocol.

- It accepts connections and hands each to the worker that has the fewest (`dispatcher`).
- It gives out conf tokens, so that a token is valid in all workers before the gateway has it (`registry`).
- Retired workers give connections back between two calls; they go on to another worker, and the gateway sees nothing of
  it. A reload therefore loses nothing and closes nothing.
- Workers are forked while the loop stands still, from a process that has imported no plugin: so each has the code and
  the configuration that are there when it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import selectors
import signal
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from gatewright._version import __version__
from gatewright.errors import ListenError
from gatewright.observe import logs
from gatewright.observe.report import WorkerReport
from gatewright.server.host.gateway_user import gateway_parent
from gatewright.server.host.limits import raise_file_limit
from gatewright.server.host.listener import Listener, watches_parent
from gatewright.server.host.notify import Notifier
from gatewright.server.ipc import messages
from gatewright.server.ipc.channel import Channel
from gatewright.server.ipc.guard import Guard
from gatewright.server.ipc.keep import Keep
from gatewright.server.ipc.loaded import log_plugins
from gatewright.server.ipc.plan import RETIRE_MARGIN_SECONDS, TEARDOWN_SECONDS, Plan
from gatewright.server.supervisor.accounts import Accounts
from gatewright.server.supervisor.admin import Admin
from gatewright.server.supervisor.dispatcher import Dispatcher
from gatewright.server.supervisor.forking import fork_worker
from gatewright.server.supervisor.last_words import LastWords
from gatewright.server.supervisor.mail import Mail
from gatewright.server.supervisor.registry import Registry
from gatewright.server.supervisor.reloading import Reloads
from gatewright.server.supervisor.rounds import Rounds
from gatewright.server.supervisor.workers import Stage, Worker, describe_exit
from gatewright.settings import Settings, worker_count

__all__ = ["EXIT_CANNOT_START", "EXIT_CUT_OFF", "EXIT_WORKERS_FAIL", "Supervisor"]

EXIT_CUT_OFF: Final = 1
EXIT_CANNOT_START: Final = 2
EXIT_WORKERS_FAIL: Final = 3

_LOOK_SECONDS = 0.25
_LINGER_LOOK_SECONDS = 0.02
_LATECOMERS_SECONDS = 0.1
_LEAST_DRAIN = 0.15
_REFUSED_AT_ONCE = 1024
"""Connections beyond a worker's limit that it may have while it refuses what they ask for."""
_LONGEST_PAUSE_IN_WAITING = 1.0
"""The same as `_LONGEST_PAUSE` where connections are kept waiting, not closed."""
_RETIRING_A_PLACE = 2
"""Workers that may retire at once, for each that there should be: two reloads while calls go on."""
_REGIONS_A_WORKER = 2 + _RETIRING_A_PLACE
"""It, its successor, and those that still retire."""
_STOP_SECONDS = 5.0
_MORE_REGIONS = 8
_ADMIN_SECONDS = 0.5
_QUICK_DEATH = 3.0
_LONGEST_PAUSE = 30.0
_TRIES_BEFORE_GIVING_UP = 5
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


class Supervisor:
    """Runs workers until told to stop."""

    def __init__(self, load: Callable[[], Plan], plan: Plan) -> None:
        """Make a supervisor; nothing is opened yet.

        Args:
            load: reads the settings anew, for a reload; raises `GatewrightError` if they are invalid.
            plan: what to run now.
        """
        self._load = load
        self._plan = plan
        self._log = structlog.get_logger("gatewright.server")
        self._registry = Registry(
            plan.settings.conf_expire,
            plan.hash_token,
            most=plan.settings.max_configurations,
            on_evict=self._forget,
        )
        self._keep = Keep(_REGIONS_A_WORKER * worker_count(plan.settings) + _MORE_REGIONS)
        self._workers: list[Worker] = []
        self._to_fork: deque[Worker] = deque()
        self._wake: asyncio.Event = asyncio.Event()
        self.generation = 1
        self._stopping = False
        self._finished = False
        self._exit_code = 0
        self._crashes = 0
        self._paused_until = 0.0
        self._was_ready = False
        self._parent = os.getppid()
        self._began = monotonic()
        self.accounts = Accounts(self._workers)

    # --- life

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT.

        Returns:
            The exit code: 0; 1 if calls under way had to be cut off; 3 if workers could never be started.

        Raises:
            ListenError: an address can't be bound.
        """
        settings = self._plan.settings
        raise_file_limit()
        self._notifier = Notifier()
        self._watch_parent = watches_parent(settings)
        self._may_linger = gateway_parent()
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        try:
            self._admin = Admin(self, settings)  # first: whoever can connect to the runner can ask it how it is
            self._listener = Listener.obtain(settings)
            self._listener.set_backlog(self._plan.backlog)
            self._dispatcher = Dispatcher(self._loop, self._listener, self._workers)
            self._last_words = LastWords(self._loop, self._dispatcher)
            self._mail = Mail(self, self._workers, self._registry, self._dispatcher, self._last_words)
            self._rounds = Rounds(self._workers, self._dispatcher, self._notifier, self._kill)
            self.reloads = Reloads(self, self._load, self._notifier)
            self._loop.run_until_complete(self._start())
            while (worker := self._loop.run_until_complete(self._next_fork())) is not None:
                self._fork(worker)
            self._loop.run_until_complete(self._close_admin())
        finally:
            with contextlib.suppress(AttributeError):  # one of them could not be opened
                self._admin.unlink()
                self._listener.close()
            self._loop.close()
            for number in _SIGNALS[:-1]:  # one that comes from now on is too late to mean anything
                signal.signal(number, signal.SIG_IGN)
        if self._exit_code == EXIT_CUT_OFF:
            self._log.warning("stopped; calls under way were cut off")
        elif self._exit_code == 0:
            self._log.info("stopped")
        return self._exit_code

    async def _start(self) -> None:
        loop = self._loop
        for number, act in (
            (signal.SIGTERM, self.stop),
            (signal.SIGINT, self.stop),
            (signal.SIGHUP, self.reload),
            (signal.SIGUSR1, self.reopen_logs),
            (signal.SIGCHLD, self._reap),
        ):
            loop.add_signal_handler(number, act)
        await self._admin.start()
        self.complete()
        loop.call_later(_LOOK_SECONDS, self._look_after)
        loop.call_later(self._registry.tick_seconds, self._tick)

    async def _close_admin(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._admin.close(), _ADMIN_SECONDS)

    async def _next_fork(self) -> Worker | None:
        """Let the loop run until a worker has to be forked, or all is over (`None`)."""
        while not self._finished:
            if self._to_fork:
                return self._to_fork.popleft()
            self._wake.clear()
            await self._wake.wait()
        return None

    def _fork(self, worker: Worker) -> None:
        if self._stopping or worker not in self._workers:
            return  # not wanted any more
        others = self._dispatcher.descriptors()
        for other in self._workers:
            others |= {connection.fileno() for _, connection in other.in_transit}
            others |= {connection.fileno() for connection in other.held.values()}
        others |= self._last_words.descriptors()
        if worker.plan.last_words is not None:
            worker.guard = Guard(worker.plan.settings.max_connections + _REFUSED_AT_ONCE)
        worker.region = self._keep.lease()
        try:
            ours = fork_worker(worker, self._selector, others, self._keep, self)
        except OSError as error:
            self._log.error("can't fork a worker", error=error.strerror)
            self._ended(worker, "can't fork")
            return
        worker.began = worker.heard = monotonic()
        worker.channel = Channel(
            self._loop,
            ours,
            messages.FromWorker,
            functools.partial(self._mail.take, worker),
            lambda: None,  # the process's end is what counts
        )

    def stop(self) -> None:
        """Stop: take no more connections, let calls under way end, end the workers. A second time: at once."""
        if self._stopping:
            for worker in self._workers:
                self._exit_code = EXIT_CUT_OFF
                self._kill(worker)
            return
        if self._may_linger and self._plan.settings.drain > _LEAST_DRAIN:
            self._may_linger = False
            deadline = monotonic() + self._plan.settings.drain
            self._linger(deadline - _LEAST_DRAIN, deadline)
            return
        self._stop(self._plan.settings.drain)

    def _linger(self, until: float, deadline: float) -> None:
        """Go on serving until a successor listens: a gateway that reloads has started one, but not long ago."""
        if self._stopping:
            return
        now = monotonic()
        if now > until:
            self._stop(max(deadline - now, _LEAST_DRAIN))
            return
        if self._listener.is_replaced:  # what was dialled before is still on its way
            until = min(until, now + _LATECOMERS_SECONDS)
            self._loop.call_later(until - now + 0.001, self._linger, until, deadline)
        else:
            self._loop.call_later(_LINGER_LOOK_SECONDS, self._linger, until, deadline)

    def _stop(self, drain: float) -> None:
        self._stopping = True
        self._to_fork.clear()
        self._workers[:] = [worker for worker in self._workers if worker.pid]
        for worker in self._workers:
            if worker.stage is Stage.STARTING:
                self._kill(worker)
            else:
                worker.send(messages.Stop(drain))
        self._dispatcher.close()
        self._notifier.stopping()
        self._loop.call_later(drain + TEARDOWN_SECONDS + 0.03, self._end_all)
        self._finish_if_over()

    def _end_all(self) -> None:
        for worker in self._workers:
            self._log.error("worker did not stop in time; killed", worker=worker.number, pid=worker.pid)
            self._exit_code = EXIT_CUT_OFF
            self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        if worker.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)

    def _finish_if_over(self) -> None:
        if self._stopping and not self._workers:
            self._finished = True
            self._wake.set()

    # --- workers

    def complete(self) -> None:
        """Order what is missing: a worker in every place, and successors for those that want one."""
        pause = self._paused_until - monotonic()
        if self._stopping:
            return
        if pause > 0:
            self._loop.call_later(pause, self.complete)
            return
        present = [
            worker
            for worker in self._workers
            if worker.generation == self.generation and worker.stage in (Stage.STARTING, Stage.READY)
        ]
        for number in range(1, worker_count(self._plan.settings) + 1):
            if not any(worker.number == number for worker in present):
                self._order(self._plan, self.generation, number)
        if self.reloads.under_way:
            return
        for worker in present:
            if worker.wants and worker.stage is Stage.READY and not any(w.instead_of is worker for w in present):
                self._log.info("worker retires", worker=worker.number, pid=worker.pid, reason=worker.wants)
                self._order(self._plan, self.generation, worker.number, worker)

    def _order(self, plan: Plan, generation: int, number: int, instead_of: Worker | None = None) -> Worker:
        worker = Worker(number, generation, plan, instead_of)
        self._workers.append(worker)
        self._to_fork.append(worker)
        self._wake.set()
        return worker

    def _reap(self) -> None:
        for worker in [worker for worker in self._workers if worker.pid]:
            try:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = worker.pid, 0
            if pid:
                code = os.waitstatus_to_exitcode(status)
                if worker.channel is not None:
                    worker.channel.read()  # its last report, and connections it gave back
                if code == EXIT_CUT_OFF:
                    self._exit_code = EXIT_CUT_OFF if self._stopping else self._exit_code
                self._ended(worker, describe_exit(code))

    def _ended(self, worker: Worker, how: str) -> None:
        """A worker is gone: count it, and see to a successor if there should be one."""
        was, worker.stage = worker.stage, Stage.ENDED
        self._keep.release(worker.region)
        worker.region = -1
        if worker.channel is not None:
            worker.channel.close()
        for asked in worker.asked.values():
            if not asked.done():
                asked.set_result(worker.report)
        if worker in self._workers:
            self._workers.remove(worker)
        while worker.in_transit:
            self._dispatcher.place(worker.in_transit.popleft()[1])
        self._last_words.worker_ended(worker, stopping=self._stopping)
        for other in self._workers:
            other.send(messages.Gone(worker.pid))
        lived = monotonic() - worker.began
        expected = was is Stage.RETIRING or self._stopping
        reason = "retired" if was is Stage.RETIRING else "stopped" if self._stopping else "crashed"
        self.accounts.worker_ended(worker, reason, how, lived)
        if expected:
            self._log.info("worker ended", worker=worker.number, pid=worker.pid, how=how)
        else:
            suspects = [self._registry.ended_a_worker(token) for token in worker.building]
            if suspects:
                self._log.error(
                    "worker ended while it set configurations up", worker=worker.number, pid=worker.pid, routes=suspects
                )
            if self.reloads.concerns(worker):
                self.reloads.abort(f"a new worker ended: {how}")
            else:
                self._replace(worker, how, lived)
        self._finish_if_over()

    def _replace(self, worker: Worker, how: str, lived: float) -> None:
        self._crashes = self._crashes + 1 if lived < _QUICK_DEATH else 1
        if not self._was_ready and self._crashes >= _TRIES_BEFORE_GIVING_UP:
            self._log.critical(
                "workers can't be started; giving up", tries=self._crashes, last=how, cure="the log above says why"
            )
            self._exit_code = EXIT_WORKERS_FAIL
            self.stop()
            return
        waits = self._plan.last_words is not None  # a connection that is closed lets its request pass
        longest = _LONGEST_PAUSE_IN_WAITING if waits else _LONGEST_PAUSE
        pause = 0.0 if self._crashes < 2 else min(0.25 * 2 ** (self._crashes - 2), longest)
        self._log.error(
            "worker ended unexpectedly; its calls under way are lost",
            worker=worker.number,
            pid=worker.pid,
            how=how,
            lived=round(lived, 1),
            connections=worker.connections,
            ended_in_a_row=self._crashes,
            replaced_in=pause,
        )
        self._paused_until = monotonic() + pause
        self.complete()
        self._dispatcher.hopeless = self._crashes >= _TRIES_BEFORE_GIVING_UP and not waits
        if self._dispatcher.hopeless:
            self._dispatcher.settle()

    def on_loaded(self, worker: Worker, plugins: list[messages.PluginInfo], errors: list[str]) -> None:
        """A worker has loaded its plugins: say which, and give it all configurations."""
        worker.plugins, worker.errors = plugins, errors
        if self.reloads.concerns(worker) and not self.reloads.accepts(worker):
            return
        if worker.number == 1:
            log_plugins(plugins, errors)
        now = monotonic()
        outage = not any(other.is_lively(now) for other in self._workers) and self._was_ready
        self._registry.tell_all(worker, urgent=outage)

    def _open_sockets(self, names: list[str]) -> None:
        """Listen at the plugins' own sockets; a plugin's that is gone stays, for a gateway that still knows it."""
        socket_of = self._plan.socket_of
        if socket_of is None or self._stopping:
            return
        known = self._dispatcher.addresses
        for address in [address for address in map(socket_of, names) if address not in known]:
            try:
                listener = Listener.bind_as(self._plan.settings, address, warn=False)
                listener.set_backlog(self._plan.backlog)
                self._dispatcher.add(listener)
            except ListenError as error:
                self._log.critical("a plugin's own socket can't be opened", error=str(error))
                if not self._was_ready:
                    self._exit_code = EXIT_CANNOT_START
                    self.stop()
                    return

    def on_ready(self, worker: Worker) -> None:
        """A worker can serve: let it, unless it has to wait for others of its generation."""
        self._log.debug("worker is ready", worker=worker.number, pid=worker.pid)
        if self.reloads.concerns(worker):
            self.reloads.worker_ready(worker)
            return
        worker.stage = Stage.READY
        if worker.instead_of is not None and worker.instead_of.stage is Stage.READY:
            self._send_into_retirement(worker.instead_of)
        worker.instead_of = None
        self._settle()

    def _settle(self) -> None:
        """Workers have become ready: connections can come, and may have to be spread anew."""
        newest = next((worker for worker in self._workers if worker.stage is Stage.READY), None)
        if newest is not None:
            self._open_sockets([plugin.name for plugin in newest.plugins])
        if not self._was_ready and all(worker.stage is Stage.READY for worker in self._workers):
            self._was_ready = True
            self._log.info(
                "listening", address=str(self._listener.address), workers=len(self._workers), version=__version__
            )
            self._notifier.ready(f"{len(self._workers)} workers")
        self._dispatcher.hopeless = False
        self._dispatcher.settle()

    def _send_into_retirement(self, worker: Worker) -> None:
        worker.stage = Stage.RETIRING
        worker.retire_by = monotonic() + worker.longest + 4 * RETIRE_MARGIN_SECONDS
        worker.send(messages.Retire())
        retiring = [other for other in self._workers if other.stage is Stage.RETIRING]
        most = max(_RETIRING_A_PLACE * worker_count(self._plan.settings), _MORE_REGIONS // 2)
        for oldest in sorted(retiring, key=lambda other: other.began)[:-most]:
            if not oldest.told_to_stop:
                oldest.told_to_stop = True
                self._log.warning(
                    "too many workers retire at once: the oldest is ended, with its calls",
                    worker=oldest.number,
                    pid=oldest.pid,
                    most=most,
                )
                oldest.retire_by = monotonic() + oldest.plan.settings.drain + _STOP_SECONDS
                oldest.send(messages.Stop(self._plan.settings.drain))

    # --- reload

    def reload(self) -> None:
        """Put new workers, with the code and settings of now, in all places; if they can't start, keep the old."""
        if not self._stopping:
            self.reloads.begin()

    def order_generation(self, plan: Plan) -> list[Worker]:
        """Order all workers of a new generation."""
        return [self._order(plan, self.generation + 1, number) for number in range(1, worker_count(plan.settings) + 1)]

    def change_generation(self, plan: Plan, workers: list[Worker]) -> None:
        """Let these workers serve, and the others retire."""
        self._plan = plan
        self.generation += 1
        self._paused_until = 0.0
        settings = plan.settings
        logs.configure_logs(
            level=settings.log_level, format=settings.log_format, file=settings.log_file, must_open=False
        )
        for worker in workers:
            worker.stage = Stage.READY
        for worker in list(self._workers):
            if worker not in workers and worker.stage is Stage.READY:
                self._send_into_retirement(worker)
            elif worker not in workers and worker.stage is Stage.STARTING:
                self.drop(worker)
        self._crashes = 0
        self._settle()

    def reload_ended(self) -> None:
        """A reload has ended, one way or the other: see to what had to wait for that."""
        self.complete()

    def drop(self, worker: Worker) -> None:
        """Do without a worker that does not serve yet."""
        if not worker.pid:  # and if it's about to be forked, it no longer will be
            worker.stage = Stage.ENDED
            self._workers.remove(worker)
            if worker in self._to_fork:
                self._to_fork.remove(worker)
        elif worker.stage is not Stage.ENDED:
            worker.stage = Stage.RETIRING
            self._kill(worker)

    # --- periodic work

    def _look_after(self) -> None:
        self._loop.call_later(_LOOK_SECONDS, self._look_after)
        logs.flush()
        if self._watch_parent and os.getppid() != self._parent and not self._stopping:
            self._log.warning("the process that started this runner is gone: stopping")
            self._may_linger = False
            self.stop()
        if not self._stopping:
            self._rounds.look(self._plan.settings)

    def _forget(self, token: int) -> None:
        for worker in self._workers:
            worker.send(messages.Forgotten(token))

    def _tick(self) -> None:
        self._registry.tick()
        self._loop.call_later(self._registry.tick_seconds, self._tick)

    # --- what others want to know or have done

    @property
    def ready(self) -> bool:
        """Whether requests can be served."""
        now = monotonic()
        return not self._stopping and any(worker.is_lively(now) for worker in self._workers)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._plan.settings

    @property
    def workers(self) -> list[Worker]:
        """The workers of now, retiring ones included."""
        return list(self._workers)

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._began

    @property
    def address(self) -> str:
        """Where the runner listens."""
        return str(self._listener.address)

    @property
    def paused_for(self) -> float:
        """Seconds until a worker is started again after it ended too often; 0 if none waits."""
        return max(self._paused_until - monotonic(), 0.0)

    async def reports(self, seconds: float = 1.0) -> tuple[list[tuple[Worker, WorkerReport]], WorkerReport]:
        """Every worker's report, and all added up; see `Accounts.reports`."""
        told = await self.accounts.reports(seconds)
        counts = self.accounts.counts
        counts.workers_wanted = worker_count(self._plan.settings)
        counts.reloads = self.reloads.counts
        counts.configurations = len(self._registry)
        return told

    def set_level(self, level: str) -> None:
        """Log at another level, here and in all workers."""
        logs.set_level(level)
        for worker in self._workers:
            worker.send(messages.Level(level))

    def reopen_logs(self) -> None:
        """Open the log file anew, here and in all workers."""
        logs.reopen()
        for worker in self._workers:
            worker.send(messages.Reopen())
