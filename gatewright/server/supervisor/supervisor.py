"""The supervisor: owns the listening socket, the workers and the conf tokens; runs no plugin and speaks no protocol.

- It accepts connections and hands each to the worker that has the fewest (`dispatcher`).
- It gives out conf tokens, so that a token is valid in all workers before the gateway has it (`registry`).
- Workers are forked while the loop stands still, from a process that has imported no plugin: so each has the code and
  the configuration that are there when it starts (`fleet`).
- Retired workers give connections back between two calls; they go on to another worker, and the gateway sees nothing of
  it. A reload therefore loses nothing and closes nothing (`shifts`, `reloading`).

Here is the life of the process itself: its signals, what it does now and then, and its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import selectors
import signal
from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from gatewright.observe import logs
from gatewright.server.host.gateway_user import gateway_master, gateway_parent
from gatewright.server.host.limits import raise_file_limit
from gatewright.server.host.listener import Listener, watches_parent
from gatewright.server.host.notify import Notifier
from gatewright.server.host.places import Places
from gatewright.server.ipc.plan import TEARDOWN_SECONDS, Plan
from gatewright.server.supervisor.accounts import Accounts
from gatewright.server.supervisor.admin import Admin
from gatewright.server.supervisor.fleet import EXIT_CUT_OFF, Fleet
from gatewright.server.supervisor.keeper import Keeper
from gatewright.server.supervisor.mail import Mail
from gatewright.server.supervisor.overview import Overview
from gatewright.server.supervisor.reloading import Reloads
from gatewright.server.supervisor.rounds import Rounds
from gatewright.server.supervisor.shifts import Shifts

__all__ = ["Supervisor"]

_LOOK_SECONDS: Final = 0.25
_LINGER_LOOK_SECONDS: Final = 0.02
_LATECOMERS_SECONDS: Final = 0.1
_LEAST_DRAIN: Final = 0.15
_ADMIN_SECONDS: Final = 0.5
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


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
        self._parent = os.getppid()
        self._notifier = Notifier()
        self._watch_parent = watches_parent(plan.settings)
        self._may_linger = gateway_parent()
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._keeper: Keeper | None = None

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT.

        Returns:
            The exit code: 0; 1 if calls under way had to be cut off; 3 if workers could never be started.

        Raises:
            ListenError: an address can't be bound.
        """
        raise_file_limit()
        with contextlib.ExitStack() as at_end:
            at_end.callback(self._ignore_signals)
            at_end.callback(self._loop.close)
            self._keeper = self._fork_keeper()
            self._open(at_end, self._keeper)
            self._loop.run_until_complete(self._start())
            while (worker := self._loop.run_until_complete(self._fleet.next_to_fork())) is not None:
                self._fleet.fork(worker)
            self._loop.run_until_complete(self._close_admin())
        gc.freeze()  # a gateway waits for a second in all: what is left is not to be looked through when Python ends
        code = self._fleet.exit_code
        if code == EXIT_CUT_OFF:
            self._log.warning("stopped; calls under way were cut off")
        elif code == 0:
            self._log.info("stopped")
        return code

    def _fork_keeper(self) -> Keeper | None:
        """Have the sockets kept, where the gateway starts this runner anew and would let requests pass meanwhile."""
        gateway = gateway_master() if self._may_linger else None
        if self._plan.stand_in is None or gateway is None:
            return None
        try:
            return Keeper(self._plan.stand_in, gateway)
        except OSError as error:
            self._log.error("nobody will keep the socket when this runner ends", error=error.strerror)
            return None

    def _open(self, at_end: contextlib.ExitStack, keeper: Keeper | None) -> None:
        settings = self._plan.settings
        accounts = Accounts([])
        self._overview = Overview(accounts)
        remember = keeper.remember if keeper is not None else lambda _: None
        # first: whoever can connect to the runner can ask how it is
        self._admin = Admin(self._overview, settings, remember=remember)
        at_end.callback(self._admin.unlink)
        self._listener = listener = Listener.obtain(settings)
        at_end.callback(listener.close)
        listener.set_backlog(self._plan.backlog)
        self._fleet = fleet = Fleet(self._loop, self._selector, self._plan, listener, accounts, keeper)
        shifts = Shifts(fleet, str(listener.address), self._notifier)
        fleet.take = Mail(
            shifts, fleet.workers, fleet.registry, fleet.dispatcher, fleet.last_words, fleet.blockers
        ).take
        fleet.reloads = self._reloads = Reloads(shifts, self._load, self._notifier)
        fleet.on_give_up = self._give_up
        self._places = Places(fleet.dispatcher, settings)
        self._rounds = Rounds(fleet.workers, fleet.dispatcher, self._notifier, fleet.kill, fleet.complete)
        self._overview.of(fleet, self._reloads, str(listener.address))

    async def _start(self) -> None:
        loop, fleet = self._loop, self._fleet
        for number, act in (
            (signal.SIGTERM, self._stop),
            (signal.SIGINT, self._stop),
            (signal.SIGHUP, self._reload),
            (signal.SIGUSR1, self._overview.reopen_logs),
            (signal.SIGCHLD, fleet.reap),
        ):
            loop.add_signal_handler(number, act)
        await self._admin.start()
        fleet.complete()
        loop.call_later(_LOOK_SECONDS, self._look_after)
        loop.call_later(fleet.registry.tick_seconds, self._tick)

    # --- now and then

    def _look_after(self) -> None:
        self._loop.call_later(_LOOK_SECONDS, self._look_after)
        logs.flush()
        if self._watch_parent and os.getppid() != self._parent and not self._fleet.stopping:
            self._log.warning("the process that started this runner is gone: stopping")
            self._may_linger = False
            self._stop()
        if not self._fleet.stopping:
            self._rounds.look(self._fleet.plan.settings)
            self._places.look()

    def _tick(self) -> None:
        self._fleet.registry.tick()
        self._loop.call_later(self._fleet.registry.tick_seconds, self._tick)

    # --- signals, and the end

    def _reload(self) -> None:
        """Put new workers, with the code and settings of now, in all places; if they can't start, keep the old."""
        if not self._fleet.stopping:
            self._reloads.begin()

    def _give_up(self) -> None:
        self._may_linger = False
        self._stop()

    def _stop(self) -> None:
        """Stop: take no more connections, let calls under way end, end the workers. A second time: at once."""
        fleet = self._fleet
        if fleet.stopping:
            for worker in fleet.workers:
                fleet.exit_code = EXIT_CUT_OFF
                fleet.kill(worker)
            return
        drain = fleet.plan.settings.drain
        if self._may_linger and drain > _LEAST_DRAIN:
            self._may_linger = False
            deadline = monotonic() + drain
            self._linger(deadline - _LEAST_DRAIN, deadline)
            return
        self._drain(drain)

    def _linger(self, until: float, deadline: float) -> None:
        """Go on serving until a successor listens: a gateway that reloads has started one, but not long ago."""
        if self._fleet.stopping:
            return
        now = monotonic()
        if now > until:
            self._drain(max(deadline - now, _LEAST_DRAIN))
            return
        if self._listener.is_replaced:  # what was dialled before is still on its way
            until = min(until, now + _LATECOMERS_SECONDS)
            self._loop.call_later(until - now + 0.001, self._linger, until, deadline)
        else:
            self._loop.call_later(_LINGER_LOOK_SECONDS, self._linger, until, deadline)

    def _drain(self, seconds: float) -> None:
        if self._keeper is not None:
            seconds = max(seconds, self._fleet.plan.kept_drain)
        self._fleet.stop(seconds)
        self._notifier.stopping()
        self._loop.call_later(seconds + TEARDOWN_SECONDS + 0.03, self._end_all)

    def _end_all(self) -> None:
        for worker in self._fleet.workers:
            self._log.error("worker did not stop in time; killed", worker=worker.number, pid=worker.pid)
            self._fleet.exit_code = EXIT_CUT_OFF
            self._fleet.kill(worker)

    async def _close_admin(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._admin.close(), _ADMIN_SECONDS)

    @staticmethod
    def _ignore_signals() -> None:
        """One that comes from now on is too late to mean anything."""
        for number in _SIGNALS[:-1]:
            signal.signal(number, signal.SIG_IGN)
