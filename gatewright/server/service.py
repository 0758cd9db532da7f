"""What all connections of a process share: the chains, the limits, and the count of what is under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gatewright.gateways.events import Session
from gatewright.plugin import Plugin
from gatewright.runtime.bridge import Bridge
from gatewright.runtime.chain import Chain, ChainBuilder, Policy
from gatewright.runtime.confs import ConfStore
from gatewright.runtime.failures import FailureLog
from gatewright.settings import Settings

if TYPE_CHECKING:
    from gatewright.server.connection import Connection

__all__ = ["Service"]

SWEEP_SECONDS = 1.0


class Service:
    """The heart of a worker; belongs to one loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        plugins: Mapping[str, type[Plugin]],
        new_session: Callable[[], Session],
    ) -> None:
        """Make a service; to be called in the loop's thread.

        Args:
            loop: the loop that everything runs on.
            settings: the effective settings.
            plugins: the plugin classes by name.
            new_session: makes the protocol state of a new connection.
        """
        self.loop = loop
        self.settings = settings
        self.new_session = new_session
        self.failures = FailureLog()
        self.bridge = Bridge(loop, threads=settings.threads)
        self.builder = ChainBuilder(
            plugins,
            self.bridge,
            self.failures,
            policies={
                name: Policy(on_error=own.on_error, timeout=own.timeout, blocking=own.blocking)
                for name, own in settings.plugin_settings.items()
            },
            timeout=settings.timeout,
            hold_limit=settings.hold_limit,
        )
        self.confs = ConfStore(
            lambda key, conf: Chain(key, conf, self.builder),
            expire=settings.conf_expire,
            on_evict=lambda chain: self.bridge.start_apart(chain.teardown, None),
        )
        self.connections: set[Connection] = set()
        self.calls = 0
        self.max_calls = settings.max_calls
        self.draining = False
        self._idle = asyncio.Event()
        self._timers: list[asyncio.TimerHandle] = []

    def start(self) -> None:
        """Start the periodic work: expiry of configurations, ending of stalled connections."""
        self._every(self.confs.tick_seconds, self.confs.tick)
        self._every(min(SWEEP_SECONDS, self.settings.stall_timeout / 2), self._end_stalled)

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        slot = len(self._timers)

        def run() -> None:
            work()
            self._timers[slot] = self.loop.call_later(seconds, run)

        self._timers.append(self.loop.call_later(seconds, run))

    def _end_stalled(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.end_if_stalled(now, self.settings.stall_timeout)

    def call_ended(self) -> None:
        """A call ended while draining."""
        if not self.calls:
            self._idle.set()

    async def drain(self) -> int:
        """Close idle connections, let calls under way end, then close all. Gives the number of calls cut off."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()
        if self.calls:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), self.settings.drain)
        cut_off = self.calls
        for timer in self._timers:
            timer.cancel()
        for connection in list(self.connections):
            connection.abort()
        return cut_off

    async def close(self, seconds: float) -> None:
        """Tear all chains down, for as long as `seconds`, and stop the threads."""
        chains = list(self.confs)
        done = self.loop.create_future()

        def tear_all_down(*_: object) -> None:
            for chain in chains:
                chain.teardown()
            if not done.done():
                done.set_result(None)

        if chains:
            self.loop.call_soon(self.bridge.start_apart, tear_all_down, None)
            try:
                await asyncio.wait_for(done, seconds)
            except TimeoutError:
                self.failures.report("plugins took too long to tear down; left as they are")
        self.bridge.close()
