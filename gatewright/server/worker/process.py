"""A worker process: what it runs, and its life: load the plugins, get ready, serve what it is handed, leave."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, cast

from gatewright.loggers import get_logger
from gatewright.observe import logs
from gatewright.observe.recording import Recorder
from gatewright.observe.tracing import Tracing
from gatewright.runtime.chain import Chain
from gatewright.runtime.confs import token_of
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.executor import PluginExecutor
from gatewright.runtime.own_loops import allow_own_loops
from gatewright.runtime.own_signals import contain_signal_handlers
from gatewright.runtime.plugin_tasks import task_of_a_plugin
from gatewright.runtime.shared_loop import Escapes, SharedLoop, drive, new_shared_loop
from gatewright.runtime.spare_tasks import hide
from gatewright.runtime.strands import Strand
from gatewright.server.host.limits import raise_file_limit
from gatewright.server.host.listener import BACKLOG
from gatewright.server.host.orphans import GRACE_SECONDS
from gatewright.server.ipc import messages
from gatewright.server.ipc.guard import Guard
from gatewright.server.ipc.handover import Handover
from gatewright.server.ipc.keep import Region
from gatewright.server.ipc.last_seen import LastSeen
from gatewright.server.ipc.loaded import plugins_told
from gatewright.server.ipc.plan import RETIRE_MARGIN_SECONDS, TEARDOWN_SECONDS, StandIn
from gatewright.server.worker import leaving
from gatewright.server.worker.farewell import begin_anew, end_when_orphaned, say_farewell
from gatewright.server.worker.link import Link
from gatewright.server.worker.plugins_processes import (
    SignalKeeper,
    forget_in_children,
    keep_standard_descriptors,
    see_that_threads_are_threads,
)
from gatewright.server.worker.reporting import resident_memory
from gatewright.server.worker.service import Service
from gatewright.server.worker.watchdog import Watchdog
from gatewright.settings import Address, Settings, parse_address

__all__ = ["WorkerPlan", "make_service", "prepare_process"]

_RETIRED_TEARDOWN_SECONDS = 10.0
_PRELOAD_SECONDS = 10.0
_FLUSH_SECONDS = 10.0
_DESCRIPTORS_SECONDS = 1.0
_FAILED = 70  # EX_SOFTWARE


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What to run (see `gatewright.server.ipc.plan.Plan`). Each of `gatewright.server.drivers` makes one.

    Attributes:
        settings: the effective settings.
        discover: finds the plugins; called in each worker, so that a new worker has new code.
        driver: makes, for a service, what makes the drivers of connections.
        hash_token: digest of a configuration and attempt to its token.
        last_words: what to say for a worker that died.
        goes_on: after its last words a connection can be used further.
        begins_anew: whether unread bytes begin a call, where not all calls are noted for last words.
        use_gevent: handlers run in greenlets of gevent's.
        backlog: connections that may wait to be accepted.
        socket_of: gives the address of a plugin's own socket.
        stand_in: makes what answers on a connection while there is no runner.
        kept_drain: seconds for calls under way where a keeper stands in, if that's more than `drain`.
    """

    settings: Settings
    discover: Callable[[], Discovery]
    driver: Callable[[Service], Callable[[], asyncio.Protocol]]
    hash_token: Callable[[bytes, int], int] = token_of
    last_words: Callable[[bytes], bytes] | None = None
    goes_on: bool = False
    begins_anew: Callable[[bytes], bool] | None = None
    use_gevent: bool = False
    backlog: int = BACKLOG
    socket_of: Callable[[str], Address] | None = None
    stand_in: Callable[[], StandIn] | None = None
    kept_drain: float = 0.0

    def work(
        self,
        sock: socket.socket,
        handover: Handover,
        guard: Guard | None,
        region: Region,
        last_seen: LastSeen | None,
        keeper: socket.socket | None = None,
    ) -> int:
        """Be a worker."""
        return work(self, sock, handover, guard, region, last_seen, keeper)


def prepare_process(plan: WorkerPlan) -> Callable[[], asyncio.AbstractEventLoop]:
    """Make a process ready for a plan, before any plugin is imported. Gives what makes its loop."""
    raise_file_limit()
    logs.keep_own()
    allow_own_loops()
    contain_signal_handlers()
    if not plan.use_gevent:
        return new_shared_loop
    from gatewright.runtime.gevent_bridge import GeventLoop, patch

    patch()
    return GeventLoop


def work(
    plan: WorkerPlan,
    sock: socket.socket,
    handover: Handover,
    guard: Guard | None,
    region: Region,
    last_seen: LastSeen | None,
    keeper: socket.socket | None,
) -> int:
    """See `Plan.work`. Gives 0, or 1 if calls under way had to be cut off."""
    begin_anew()
    new_loop = prepare_process(plan)
    discovery = plan.discover()
    keep_standard_descriptors()
    if not plan.use_gevent:
        see_that_threads_are_threads()
    escapes, ended = Escapes(), None
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            ended = drive(
                runner.get_loop(),
                _work(plan, discovery, sock, handover, guard, region, last_seen, keeper, escapes),
                escapes,
            )
    except (SystemExit, KeyboardInterrupt):  # of a plugin's, in what is left of the loop
        if ended is None:
            raise
    code, until = ended
    say_farewell(until - monotonic(), code)
    return code


async def _work(
    plan: WorkerPlan,
    discovery: Discovery,
    sock: socket.socket,
    handover: Handover,
    guard: Guard | None,
    region: Region,
    last_seen: LastSeen | None,
    keeper: socket.socket | None,
    escapes: Escapes,
) -> tuple[int, float]:
    """Serve. Gives the exit code, and until when (as `monotonic` has it) the process may take to end."""
    loop = asyncio.get_running_loop()
    hide(asyncio.current_task())
    settings = plan.settings
    service = await make_service(plan, discovery, region)
    service.guard, service.keeper = guard, keeper
    link = service.link = Link(service, sock, handover, plan.driver(service))
    escapes.failures, escapes.on_too_many = service.failures, link.retire
    errors = [str(error) for error in discovery.errors]
    link.send(messages.Loaded(plugins_told(discovery), errors, service.builder.longest))
    forget_in_children(loop, link.sockets)
    signals = SignalKeeper(loop, lambda: link.retire("SIGTERM"), service.failures)
    urgent = await link.preloaded
    building = asyncio.Task(build_all(service, list(service.confs)), loop=loop)
    hide(building)
    if not urgent:
        await asyncio.wait((building,), timeout=min(_PRELOAD_SECONDS, settings.start_timeout / 2))
    service.start()
    watchdog = Watchdog(
        service.loop, block_limit=settings.block_limit, stuck_limit=settings.stuck_limit, last_seen=last_seen
    )
    service.every(watchdog.INTERVAL, watchdog.beat)
    service.every(signals.INTERVAL, signals.look)
    service.every(signals.INTERVAL, lambda: _see_to_running_loop(service))
    if not plan.use_gevent:  # a thread that would be a greenlet sees nothing
        watchdog.start()
    end_when_orphaned(GRACE_SECONDS)
    _watch_limits(service, link, settings)
    link.start()
    ending = await link.ending
    if ending == "retire":
        left = await leaving.retire(service, service.builder.longest + RETIRE_MARGIN_SECONDS)
        if left:
            service.failures.report("retired with calls under way", kind="cut_off", connections=left)
    building.cancel()
    if keeper is not None:
        service.drain_seconds = max(service.drain_seconds, plan.kept_drain)
    until = monotonic() + service.drain_seconds + TEARDOWN_SECONDS
    cut_off = await leaving.drain(service)
    await link.close(_FLUSH_SECONDS if ending == "retire" else 0.02)
    await leaving.close(service, _RETIRED_TEARDOWN_SECONDS if ending == "retire" else TEARDOWN_SECONDS)
    watchdog.stop()
    if isinstance(loop, SharedLoop):
        loop.share_no_more()
    loop.set_task_factory(None)  # what comes now is the loop's own
    if ending == "retire":
        until = monotonic() + _RETIRED_TEARDOWN_SECONDS
    return 1 if cut_off else 0, until


async def make_service(plan: WorkerPlan, discovery: Discovery, region: Region | None = None) -> Service:
    """A service on the running loop."""
    loop = asyncio.get_running_loop()
    settings = plan.settings
    tracing = Tracing.start(settings.tracing, settings.tracing_sample) if settings.tracing else None
    recorder = await Recorder.connect(parse_address(settings.record).path) if settings.record else None

    def make() -> Service:
        return Service(
            loop, settings, discovery.plugins, tracing=tracing, recorder=recorder, hash_token=plan.hash_token,
            use_gevent=plan.use_gevent, region=region,
        )  # fmt: skip

    executor = None
    if not plan.use_gevent:  # where all threads are greenlets, which wait for nobody
        executor = PluginExecutor(settings.threads)
        loop.set_default_executor(executor)
        loop.set_task_factory(cast("Any", task_of_a_plugin))
    # The hub greenlet of the bridge has to be the one that callbacks run in: hence a callback.
    made: asyncio.Future[Service] = loop.create_future()
    loop.call_soon(lambda: made.set_result(make()))
    service = await made
    if isinstance(loop, SharedLoop):
        loop.share(service.failures, executor)
    return service


async def build_all(service: Service, chains: list[Chain]) -> None:
    """Build the chains of before, side by side, so that the first calls don't wait.

    The loop goes round between two of them: a set-up that holds it keeps others waiting for itself only, and whoever
    waits for this to end can give up. A chain that is called before its turn is built then.
    """
    loop = asyncio.get_running_loop()
    settings = service.settings
    # Those that block share the threads and their queue with calls.
    most = max(settings.threads, (settings.threads + settings.thread_queue) // 2)

    def build(chain: Chain, done: asyncio.Future[None]) -> None:
        def run(strand: Strand, _: object) -> None:
            service.see_to(strand, chain.build)
            if not done.done():
                done.set_result(None)

        service.bridge.start_apart(run, None)

    under_way: set[asyncio.Future[None]] = set()
    for chain in chains:
        done: asyncio.Future[None] = loop.create_future()
        under_way.add(done)
        loop.call_soon(build, chain, done)  # the strand's stack has to begin in a callback
        await asyncio.sleep(0)
        if len(under_way) >= most:
            _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    if under_way:
        await asyncio.wait(under_way)


def _watch_limits(service: Service, link: Link, settings: Settings) -> None:
    most = settings.max_requests and settings.max_requests + random.randrange(settings.max_requests // 5 + 1)  # noqa: S311
    memory = settings.max_memory << 20

    def look() -> None:
        if most and service.started >= most:
            link.retire(f"{service.started} calls served (max_requests)")
        elif memory and resident_memory() > memory:
            link.retire(f"uses more than {settings.max_memory} MiB (max_memory)")

    if most or memory:
        service.every(0.5, look)
    service.every(_DESCRIPTORS_SECONDS, lambda: _see_to_descriptors(service, link))


def _see_to_running_loop(service: Service) -> None:
    if not service.bridge.put_right():
        service.failures.report("a plugin has told asyncio that another loop runs, or none: put right", kind="loop")


def _see_to_descriptors(service: Service, link: Link) -> None:
    """Ask for a successor if no descriptor is left, and not because there are so many connections.

    A plugin that loses them would otherwise keep its worker from all new connections, and each of its own, for good.
    Where one has closed the runner's own, or put something else in their place, nobody hears this worker any more: it
    ends, so that nobody waits for it.
    """
    if not link.is_whole:
        get_logger("gatewright.server").critical(
            "a plugin has closed descriptors that are not its own, the way to the supervisor among them: worker ends",
            cure="close each descriptor once, and only what the plugin has opened",
        )
        logs.flush()
        os._exit(_FAILED)
    try:
        os.close(os.dup(link.descriptor))
    except OSError:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if len(service.connections) < most / 2:
            link.retire(f"all {most} file descriptors are used, few of them by connections: a plugin keeps them open")
