"""The fleet: the workers of now, from being ordered to being reaped.

A worker is *ordered* when one is missing or wants to be replaced, and *forked* while the loop stands still. Who serves
and who retires is `shifts`' affair. When its process has ended it is *reaped*: others get its connections, its counts
and its memory are seen to, and if nobody wanted it to end it is replaced, after growing pauses if that goes on.
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
from typing import Any, Final

import structlog

from gatewright.errors import GatewrightError
from gatewright.server.host.installed import check_installed
from gatewright.server.host.listener import Listener
from gatewright.server.ipc import messages
from gatewright.server.ipc.channel import Channel
from gatewright.server.ipc.guard import Guard
from gatewright.server.ipc.handover import Handover
from gatewright.server.ipc.keep import Keep
from gatewright.server.ipc.last_seen import LastSeen
from gatewright.server.ipc.plan import Plan
from gatewright.server.supervisor.accounts import Accounts
from gatewright.server.supervisor.blockers import Blockers
from gatewright.server.supervisor.dispatcher import Dispatcher
from gatewright.server.supervisor.forking import fork_worker
from gatewright.server.supervisor.keeper import Keeper
from gatewright.server.supervisor.last_words import LastWords
from gatewright.server.supervisor.registry import Registry
from gatewright.server.supervisor.reloading import Reloads
from gatewright.server.supervisor.workers import Stage, Worker, describe_exit
from gatewright.settings import worker_count

__all__ = ["EXIT_CANNOT_START", "EXIT_CUT_OFF", "EXIT_WORKERS_FAIL", "RETIRING_A_PLACE", "Fleet"]

EXIT_CUT_OFF: Final = 1
EXIT_CANNOT_START: Final = 2
EXIT_WORKERS_FAIL: Final = 3

_REFUSED_AT_ONCE: Final = 1024
"""Connections beyond a worker's limit that it may have while it refuses what they ask for."""
_LONGEST_PAUSE_IN_WAITING: Final = 1.0
"""The same as `_LONGEST_PAUSE` where connections are kept waiting, not closed."""
RETIRING_A_PLACE: Final = 2
"""Workers that may retire at once, for each that there should be: two reloads while calls go on."""
_REGIONS_A_WORKER: Final = 2 + RETIRING_A_PLACE
"""It, its successor, and those that still retire."""
_MORE_REGIONS: Final = 8
_QUICK_DEATH: Final = 3.0
_LONGEST_PAUSE: Final = 30.0
_TRIES_BEFORE_GIVING_UP: Final = 5


class Fleet:
    """Orders, forks, reaps and replaces workers.

    Attributes:
        workers: those of now, retiring ones included. There is this one list, which others look at, too.
        plan: what new workers run.
        generation: counts reloads.
        registry: has the conf tokens.
        dispatcher: has the connections.
        reloads: may have workers of its own; set before any is ordered.
        take: is given workers' messages; set before any is ordered.
        on_give_up: called when the process has to stop, since no worker can be had; set before any is ordered.
        stopping: no worker is to be replaced any more.
        was_ready: all workers have been ready at once.
        paused_until: when the next worker may be started, after some that ended too quickly.
        exit_code: what the process should end with.
    """

    reloads: Reloads
    take: Callable[[Worker, Any, Any], None]
    on_give_up: Callable[[], None]

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        selector: selectors.BaseSelector,
        plan: Plan,
        listener: Listener,
        accounts: Accounts,
        keeper: Keeper | None = None,
    ) -> None:
        """Make a fleet of no workers yet.

        Args:
            loop: the supervisor's.
            selector: its loop's, whose descriptors no worker is to have.
            plan: what to run.
            listener: where connections come from.
            accounts: counts those that have ended; has the list of workers.
            keeper: keeps the sockets when all is over.
        """
        self._loop = loop
        self._selector = selector
        self._accounts = accounts
        self._log = structlog.get_logger("gatewright.server")
        self.plan = plan
        self.workers = accounts.workers
        self.registry = Registry(
            plan.settings.conf_expire,
            plan.hash_token,
            most=plan.settings.max_configurations,
            on_evict=lambda token: self.tell(messages.Forgotten(token)),
        )
        self.dispatcher = Dispatcher(loop, listener, self.workers, keeper)
        self.last_words = LastWords(loop, self.dispatcher)
        self.blockers = Blockers(self.workers)
        self._keep = Keep(_REGIONS_A_WORKER * worker_count(plan.settings) + _MORE_REGIONS)
        self._to_fork: deque[Worker] = deque()
        self._wake = asyncio.Event()
        self._crashes = 0
        self._upgrade_told = ""
        self.generation = 1
        self.stopping = False
        self.was_ready = False
        self.paused_until = 0.0
        self.exit_code = 0

    @property
    def over(self) -> bool:
        """All has ended that was to end."""
        return self.stopping and not self.workers

    def tell(self, message: messages.FromSupervisor) -> None:
        """Tell all workers something."""
        for worker in self.workers:
            worker.send(message)

    # --- ordering and forking

    def complete(self) -> None:
        """Order what is missing: a worker in every place, and successors for those that want one."""
        pause = self.paused_until - monotonic()
        if self.stopping:
            return
        if pause > 0:
            self._loop.call_later(pause, self.complete)
            return
        present = [
            worker
            for worker in self.workers
            if worker.generation == self.generation and worker.stage in (Stage.STARTING, Stage.READY)
        ]
        for number in range(1, worker_count(self.plan.settings) + 1):
            if not any(worker.number == number for worker in present):
                self.order(self.plan, self.generation, number)
        if self.reloads.under_way:
            return
        for worker in present:
            if worker.wants and worker.stage is Stage.READY and not any(w.instead_of is worker for w in present):
                self._log.info("worker retires", worker=worker.number, pid=worker.pid, reason=worker.wants)
                self.order(self.plan, self.generation, worker.number, worker)

    def order(self, plan: Plan, generation: int, number: int, instead_of: Worker | None = None) -> Worker:
        """Have a worker forked soon."""
        worker = Worker(number, generation, plan, instead_of)
        self.workers.append(worker)
        self._to_fork.append(worker)
        self.wake()
        return worker

    async def next_to_fork(self) -> Worker | None:
        """Let the loop run until a worker has to be forked, or all is over (`None`)."""
        while not self.over:
            if self._to_fork:
                return self._to_fork.popleft()
            self._wake.clear()
            await self._wake.wait()
        return None

    def wake(self) -> None:
        """Let `next_to_fork` look again."""
        self._wake.set()

    def fork(self, worker: Worker) -> None:
        """Fork a worker. To be called while the loop stands still."""
        if self.stopping or worker not in self.workers:
            return  # not wanted any more
        self._tell_of_upgrade()
        others = self.dispatcher.descriptors()
        for other in self.workers:
            others |= {each.connection.fileno() for each in other.in_transit.values()}
            others |= other.handover.descriptors() if other.handover is not None else set()
            others |= {connection.fileno() for connection in other.held.values()}
        others |= self.last_words.descriptors()
        if worker.plan.last_words is not None or worker.plan.begins_anew is not None:
            worker.guard = Guard(worker.plan.settings.max_connections + _REFUSED_AT_ONCE)
        worker.region = self._keep.lease()
        worker.last_seen = LastSeen()
        worker.handover = Handover(self._loop)
        worker.keeper = self.dispatcher.to_keeper
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
            functools.partial(self.take, worker),
            lambda: None,  # the process's end is what counts
        )

    def _tell_of_upgrade(self) -> None:
        try:
            check_installed()
            self._upgrade_told = ""
        except GatewrightError as error:
            if str(error) != self._upgrade_told:
                self._upgrade_told = str(error)
                self._log.error("a worker starts from files that don't belong to this process", why=str(error))

    # --- ending

    def reap(self) -> None:
        """See which processes have ended."""
        for worker in [worker for worker in self.workers if worker.pid]:
            try:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = worker.pid, 0
            if pid:
                code = os.waitstatus_to_exitcode(status)
                if worker.channel is not None:
                    worker.channel.read()  # its last report, and connections it gave back
                if code == EXIT_CUT_OFF:
                    self.exit_code = EXIT_CUT_OFF if self.stopping else self.exit_code
                self._ended(worker, describe_exit(code))

    def _ended(self, worker: Worker, how: str) -> None:
        """A worker is gone: others get what it had, and there may have to be a successor."""
        was, worker.stage = worker.stage, Stage.ENDED
        self._keep.release(worker.region)
        worker.region = -1
        if worker.channel is not None:
            worker.channel.close()
        for asked in worker.asked.values():
            if not asked.done():
                asked.set_result(worker.report)
        if worker in self.workers:
            self.workers.remove(worker)
        if worker.handover is not None:
            worker.handover.close()
        for connection, read in worker.not_taken():
            self.dispatcher.place(connection, read)
        self.last_words.worker_ended(worker, stopping=self.stopping)
        self.blockers.worker_ended(worker)
        self._account_for(worker, was, how)
        self.wake()

    def _account_for(self, worker: Worker, was: Stage, how: str) -> None:
        lived = monotonic() - worker.began
        expected = was is Stage.RETIRING or self.stopping
        reason = "retired" if was is Stage.RETIRING else "stopped" if self.stopping else "crashed"
        self._accounts.worker_ended(worker, reason, how, lived)
        if expected:
            self._log.info("worker ended", worker=worker.number, pid=worker.pid, how=how)
        else:
            suspects = [self.registry.ended_a_worker(token) for token in worker.building]
            if suspects:
                self._log.error(
                    "worker ended while it set configurations up", worker=worker.number, pid=worker.pid, routes=suspects
                )
            if self.reloads.concerns(worker):
                self.reloads.abort(f"a new worker ended: {how}")
            else:
                self._replace(worker, how, lived)

    def _replace(self, worker: Worker, how: str, lived: float) -> None:
        self._crashes = self._crashes + 1 if lived < _QUICK_DEATH else 1
        if not self.was_ready and self._crashes >= _TRIES_BEFORE_GIVING_UP:
            self._log.critical(
                "workers can't be started; giving up", tries=self._crashes, last=how, cure="the log above says why"
            )
            self.give_up(EXIT_WORKERS_FAIL)
            return
        waits = self.plan.last_words is not None and self.plan.begins_anew is None
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
        self.paused_until = monotonic() + pause
        self.complete()
        self.dispatcher.hopeless = self._crashes >= _TRIES_BEFORE_GIVING_UP and not waits
        if self.dispatcher.hopeless:
            self.dispatcher.settle()

    def begin_anew(self) -> None:
        """What ended before says nothing about the workers of now."""
        self._crashes = 0
        self.paused_until = 0.0

    def give_up(self, exit_code: int) -> None:
        """Stop, and say so."""
        self.exit_code = exit_code
        self.on_give_up()

    def stop(self, drain: float) -> None:
        """Replace no worker any more; those that serve are asked to end, the others are ended.

        Args:
            drain: seconds for calls under way.
        """
        self.stopping = True
        self._to_fork.clear()
        self.workers[:] = [worker for worker in self.workers if worker.pid]
        for worker in self.workers:
            if worker.stage is Stage.STARTING:
                self.kill(worker)
            else:
                worker.send(messages.Stop(drain))
        self.dispatcher.close()
        self.wake()

    def drop(self, worker: Worker) -> None:
        """Do without a worker that does not serve yet."""
        if not worker.pid:  # and if it's about to be forked, it no longer will be
            worker.stage = Stage.ENDED
            self.workers.remove(worker)
            if worker in self._to_fork:
                self._to_fork.remove(worker)
        elif worker.stage is not Stage.ENDED:
            worker.stage = Stage.RETIRING
            self.kill(worker)

    def kill(self, worker: Worker) -> None:
        """End a worker at once."""
        if worker.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
