"""What all connections of a process share: the chains, the limits, the counts, and the way to the supervisor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from weakref import WeakSet

from gatewright.observe import logs
from gatewright.observe.recording import Recorder
from gatewright.observe.tracing import Tracing
from gatewright.plugin import Plugin
from gatewright.runtime.bridge import Bridge
from gatewright.runtime.building import ChainBuilder
from gatewright.runtime.chain import Chain
from gatewright.runtime.confs import Conf, ConfStore, token_of
from gatewright.runtime.failures import FailureLog
from gatewright.runtime.kept import looks_at_ctx
from gatewright.runtime.recorded import RecordedChain
from gatewright.runtime.steps import Around, Policy
from gatewright.runtime.strands import Strand
from gatewright.server.ipc.guard import Guard
from gatewright.server.ipc.keep import Keep, Region
from gatewright.server.worker.between import Driver, Uplink
from gatewright.server.worker.inflow import BufferedInput
from gatewright.server.worker.lag import LagMeter
from gatewright.server.worker.leaks import LeakWatch
from gatewright.server.worker.own_metrics import OwnMetrics
from gatewright.server.worker.spare import SpareDescriptor
from gatewright.settings import Settings

__all__ = ["RETRY_SECONDS", "Service"]

SWEEP_SECONDS = 1.0
FLUSH_SECONDS = 0.5
RETRY_SECONDS = 0.01
"""Between two looks at whether connections can leave."""


def _bridge_class(use_gevent: bool) -> type[Bridge]:
    if not use_gevent:
        return Bridge
    from gatewright.runtime.gevent_bridge import GeventBridge

    return GeventBridge


class Service:
    """The heart of a worker; belongs to one loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        plugins: Mapping[str, type[Plugin]],
        *,
        tracing: Tracing | None = None,
        recorder: Recorder | None = None,
        hash_token: Callable[[bytes, int], int] = token_of,
        use_gevent: bool = False,
        region: Region | None = None,
        around: Around | None = None,
    ) -> None:
        """Make a service; to be called in the loop's thread.

        Args:
            loop: the loop that everything runs on.
            settings: the effective settings.
            plugins: the plugin classes by name.
            tracing: makes a span of every call and handler.
            recorder: writes down what becomes of every call.
            hash_token: digest of a configuration and attempt to its token.
            use_gevent: handlers run in greenlets of gevent's, all of them as blocking ones.
            region: where request phases leave what response phases look for; by default one that nobody else sees.
            around: what wants to be around every handler; by default what traces, if anything does.
        """
        self.tracing = tracing
        self.recorder = recorder
        self.loop = loop
        self.settings = settings
        self.failures = FailureLog()
        self.bridge = _bridge_class(use_gevent)(loop, threads=settings.threads, thread_queue=settings.thread_queue)
        self.builder = ChainBuilder(
            plugins,
            self.bridge,
            self.failures,
            policies={
                name: Policy(
                    on_error=own.on_error,
                    timeout=own.timeout,
                    blocking=own.blocking,
                    max_concurrent=own.max_concurrent,
                )
                for name, own in settings.plugin_settings.items()
            },
            timeout=settings.timeout,
            hold_limit=float("inf") if use_gevent else settings.hold_limit,
            blocking=True if use_gevent else None,
            around=around or tracing,
        )
        chain_class = Chain if recorder is None else RecordedChain
        self.confs = ConfStore(
            lambda key, conf: chain_class(key, conf, self.builder),
            expire=settings.conf_expire,
            hash_token=hash_token,
            on_evict=self._tear_down,
            most=settings.max_configurations,
        )
        self.connections: set[Driver] = set()
        self.sockets: WeakSet[socket.socket] = WeakSet()
        """Those that are this process's alone: children that plugins fork are not to have them."""
        self.buffered_input = BufferedInput(settings.max_buffered, self.failures)
        self.max_calls = settings.max_calls
        self.on_cut_off: Callable[[], None] = lambda: None
        """Called before connections with calls under way are closed."""
        self.on_close: Callable[[], None] = lambda: None
        """Called at the end, when nothing is under way any more."""
        self.on_forgotten: Callable[[int], None] = lambda _token: None
        """Told of configurations that are dropped in all workers."""
        self.guard: Guard | None = None
        """Where a driver notes what it was asked, for plans that have last words."""
        self.region = region if region is not None else Keep(1).region(0)
        self._want_ctx(*plugins.values())
        self.builder.on_loaded = self._want_ctx
        self.keeper: socket.socket | None = None
        """Takes the connections that are left when the process ends with its supervisor."""
        self.link: Uplink | None = None
        """The way to the supervisor; `None` where there is none."""
        self.drain_seconds = settings.drain
        self.draining = False
        """The process is about to end: connections are closed after their answer."""
        self.leaving = False
        self.spare = SpareDescriptor()
        self.own_metrics = OwnMetrics(self.failures)
        """Connections have to go, by being closed or to another worker."""
        self.started = self.ended = self.responses = self.answered = 0
        self.lean_calls = self.logs = 0
        self.phases: dict[str, int] | None = None
        """Calls by phase, where the gateway has others than requests and responses."""
        self.bytes_in = self.bytes_out = self.connections_total = self.tokens_prepared = 0
        self.refused: dict[str, int] = {}
        self.questions: dict[str, int] = {}
        self.pdk_calls = 0
        self.began = loop.time()
        self.lag = LagMeter(loop, settings.max_lag, self._shed)
        self.idle = asyncio.Event()
        """Set when the last call under way has ended, while draining."""
        self._timers: list[asyncio.TimerHandle] = []

    def _want_ctx(self, *plugins: type[Plugin]) -> None:
        if looks_at_ctx(plugins):
            self.region.want()

    def start(self) -> None:
        """Start the periodic work: expiry of configurations, ending of stalled connections, measuring of lag."""
        self.every(self.confs.tick_seconds, self.confs.tick)
        self.every(min(SWEEP_SECONDS, self.settings.stall_timeout / 2), self._end_stalled)
        self.every(LagMeter.INTERVAL, self.lag.measure)
        self.every(LagMeter.INTERVAL, self.builder.holding.starving.look)
        self.every(FLUSH_SECONDS, logs.flush)
        self.every(LeakWatch.INTERVAL, LeakWatch(self.loop, self.bridge, self.failures).look)

    @property
    def calls(self) -> int:
        """Calls under way, and those that were read and will begin at once."""
        return self.started - self.ended + self.bridge.gathered

    def calls_by_phase(self) -> dict[str, int]:
        """Calls taken up so far."""
        if self.phases is not None:
            return self.phases
        calls = {"request": self.started - self.responses - self.logs, "response": self.responses}
        return {**calls, "log": self.logs} if self.logs else calls

    def calls_by_path(self) -> dict[str, int]:
        """Calls taken up so far, by the protocol that they came over."""
        if self.phases is not None:
            return {"kong": self.started}
        return {"ext-plugin": self.started - self.lean_calls, "lean": self.lean_calls}

    def take_in(self, connection: Driver) -> bool:
        """Count a connection in; `False` if it can't stay."""
        if self.draining or len(self.connections) >= self.settings.max_connections:
            if not self.draining:
                self.failures.report(
                    "too many connections, one more was closed",
                    kind="too_many_connections",
                    limit=self.settings.max_connections,
                )
            self._tell_ended(connection)
            return False
        self.connections.add(connection)
        self.connections_total += 1
        return True

    def succeeds(self, connection: Driver, successor: Driver) -> None:
        """Another driver has a connection from now on, and will take it in."""
        self.connections.discard(connection)
        self.connections_total -= 1
        if self.link is not None:
            self.link.connection_succeeds(connection, successor)

    def let_go(self, connection: Driver) -> None:
        """Count a connection out, if it was in."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._tell_ended(connection)

    def count_refused(self, reason: str) -> None:
        """Count a refused call."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def _tell_ended(self, connection: Driver) -> None:
        if self.link is not None:
            self.link.connection_ended(connection)

    def prepare(self, key: str, conf: Conf, answer: Callable[[int | None], None]) -> None:
        """Take a configuration in; `answer` gets its token, or `None` if none can be had."""
        self.tokens_prepared += 1
        if self.link is not None:
            self.link.prepare(key, conf, answer)
            return
        token, chain, new = self.confs.prepare(key, conf)
        # The token goes out first: APISIX holds one lock over all routes until it has it.
        answer(token)
        if new:
            self.build(chain)

    def build(self, chain: Chain) -> None:
        """Build a new chain soon."""
        self.loop.call_soon(self.bridge.start_apart, self.see_to, chain.build)

    def _tear_down(self, chain: Chain) -> None:
        self.loop.call_soon(self.bridge.start_apart, self.see_to, chain.teardown)

    def see_to(self, strand: Strand, work: Callable[[], None]) -> None:
        """Do what nobody waits for. Runs in a strand; what it raised would be the loop's, and so the process's, end."""
        try:
            work()
        except BaseException as error:
            if strand.dies:
                raise
            self.failures.report("a configuration can't be seen to", kind="internal", error=error, traceback=True)

    def _shed(self, overloaded: bool) -> None:
        self.max_calls = 0 if overloaded else self.settings.max_calls
        if overloaded:
            self.failures.report(
                "the loop lags: requests are refused until it has caught up",
                kind="lag",
                lag=round(self.lag.last, 3),
                limit=self.settings.max_lag,
            )

    def every(self, seconds: float, work: Callable[[], None]) -> None:
        """Do something periodically until the process ends."""
        slot = len(self._timers)

        def run() -> None:
            try:
                work()
            finally:
                self._timers[slot] = self.loop.call_later(seconds, run)

        self._timers.append(self.loop.call_later(seconds, run))

    def stop_timers(self) -> None:
        """Do nothing periodically any more."""
        for timer in self._timers:
            timer.cancel()

    def _end_stalled(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.end_if_stalled(now, self.settings.stall_timeout)

    def call_ended(self) -> None:
        """A call ended while draining."""
        if not self.calls:
            self.idle.set()

    def give_back(self, count: int, tries: int = 1) -> None:
        """Give so many connections back that are idle now, or soon."""
        for connection in list(self.connections):
            if count <= 0:
                return
            count -= connection.give_back()
        if count > 0 and tries > 1 and not self.leaving:
            self.loop.call_later(RETRY_SECONDS, self.give_back, count, tries - 1)

    def hand_over(self, connection: Driver, transport: asyncio.Transport) -> bool:
        """Let another worker have a connection on which nothing is under way; tells whether that was possible.

        The peer notices nothing: what it sends from now on stays in the kernel until the other worker reads it.
        """
        if self.link is None:
            return False
        if self.draining and self.keeper is not None:  # the supervisor ends, too, or is gone
            if not self.leave_to_keeper(transport):
                return False
            self.connections.discard(connection)
            self._tell_ended(connection)
            return True
        try:
            duplicate = self.spare.duplicate(transport.get_extra_info("socket"))
        except OSError:  # no descriptor is free: some time later
            return False
        if transport.is_reading():
            transport.pause_reading()
        self.connections.discard(connection)
        self.link.give_back(connection, duplicate)
        transport.abort()  # closes only our descriptor
        return True

    def leave_to_keeper(self, transport: asyncio.Transport) -> bool:
        """Let the keeper have a connection on which nothing is under way, if there is one."""
        if self.keeper is None:
            return False
        if transport.is_reading():
            transport.pause_reading()
        try:
            socket.send_fds(self.keeper, [b"kept"], [transport.get_extra_info("socket").fileno()])
        except OSError:  # it was killed
            transport.resume_reading()
            return False
        transport.abort()  # closes only our descriptor
        return True
