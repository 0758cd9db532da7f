"""Everything in one process, without a supervisor: for debuggers, profilers and plugins that are bound to a loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from gatewright._version import __version__
from gatewright.loggers import get_logger
from gatewright.observe import logs
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.shared_loop import Escapes, drive
from gatewright.runtime.spare_tasks import hide
from gatewright.server.host.listener import BACKLOG, Listener, watches_parent
from gatewright.server.host.notify import Notifier
from gatewright.server.host.places import Places
from gatewright.server.ipc.loaded import log_plugins, plugins_told
from gatewright.server.ipc.plan import TEARDOWN_SECONDS
from gatewright.server.worker import leaving
from gatewright.server.worker.farewell import say_farewell
from gatewright.server.worker.plugins_processes import keep_standard_descriptors, see_that_threads_are_threads
from gatewright.server.worker.process import WorkerPlan, make_service, prepare_process
from gatewright.server.worker.service import Service
from gatewright.server.worker.watchdog import Watchdog
from gatewright.settings import Settings

__all__ = ["run_single"]

_LOOK_SECONDS = 0.25
_FAREWELL_SECONDS = 1.0


class Shown(Protocol):
    """Where the process shows itself.

    Attributes:
        ready: calls can come.
    """

    ready: bool

    async def serve(self, service: Service, discovery: Discovery, address: str) -> None:
        """Answer from now on."""

    async def close(self) -> None:
        """Answer no more."""

    def unlink(self) -> None:
        """Remove the sockets' files."""


def run_single(
    plan: WorkerPlan, *, show: Callable[[WorkerPlan], Shown], loop: asyncio.AbstractEventLoop | None = None
) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        plan: what to run.
        show: opens the addresses that it can be asked at.
        loop: a loop that plugins were already bound to; by default a new one.

    Returns:
        The exit code: 0, or 1 if calls under way had to be cut off.

    Raises:
        ListenError: the address can't be bound.
    """
    new_loop = prepare_process(plan)
    discovery = plan.discover()
    keep_standard_descriptors()
    if not plan.use_gevent:
        see_that_threads_are_threads()
    log_plugins(
        plugins_told(discovery), [str(error) for error in discovery.errors], plan.settings.plugin_settings
    )  # fmt: skip
    escapes = Escapes()
    with asyncio.Runner(loop_factory=new_loop if loop is None else lambda: loop) as runner:
        code = drive(runner.get_loop(), _serve(plan, discovery, show, escapes), escapes, interrupts=True)
    ours, current = threading.main_thread(), threading.current_thread()
    busy = [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("gatewright-plugin") or (current is ours and thread is not ours and not thread.daemon)
    ]
    if any(thread.is_alive() for thread in busy):
        get_logger("gatewright.server").warning("plugin threads still run: left behind", threads=len(busy))
        say_farewell(_FAREWELL_SECONDS, code)
        logs.finish()
        os._exit(code)  # the interpreter would wait for them
    return code


async def _serve(plan: WorkerPlan, discovery: Discovery, show: Callable[[WorkerPlan], Shown], escapes: Escapes) -> int:
    log = get_logger("gatewright.server")
    loop = asyncio.get_running_loop()
    hide(asyncio.current_task())
    stop = asyncio.Event()
    settings = plan.settings
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: whoever runs us stops us
            loop.add_signal_handler(number, stop.set)
    with contextlib.suppress(ValueError, RuntimeError):
        loop.add_signal_handler(signal.SIGHUP, log.warning, "no reload without a supervisor: --workers 1 or more")
        loop.add_signal_handler(signal.SIGUSR1, logs.reopen)
    sockets = _Sockets()
    shown: Shown | None = None
    try:
        main = Listener.obtain(settings)  # whoever can connect can also send signals: they are heard by now
        main.set_backlog(plan.backlog)
        sockets.listeners.append(main)
        shown = show(plan)
        unused = [name for name in ("max_requests", "max_memory") if getattr(settings, name)]
        if unused:
            log.warning("settings that have no effect without a supervisor", settings=unused)
        parent, notifier = os.getppid() if watches_parent(settings) else 0, Notifier()
        service = await make_service(plan, discovery)
        escapes.failures = service.failures
        service.start()
        watchdog = Watchdog(loop, block_limit=settings.block_limit, stuck_limit=0)
        service.every(watchdog.INTERVAL, watchdog.beat)
        if not plan.use_gevent:  # a thread that would be a greenlet sees nothing
            watchdog.start()
        sockets.serve(loop, plan.driver(service), shown)
        await sockets.open(main)
        if plan.socket_of is not None:
            for name in discovery.plugins:
                sockets.listeners.append(Listener.bind_as(settings, plan.socket_of(name), warn=False))
                await sockets.open(sockets.listeners[-1])
        await shown.serve(service, discovery, str(main.address))
        log.info("listening", address=str(main.address), workers=0, version=__version__)
        notifier.ready("one process")
        places = Places(sockets, settings)

        def look() -> None:
            if parent and os.getppid() != parent:
                log.warning("the process that started this runner is gone: stopping")
                stop.set()
            if not stop.is_set() and Path(main.address.path).is_absolute():  # a plugin may go elsewhere
                places.look()
            notifier.alive()

        service.every(_LOOK_SECONDS, look)
        await stop.wait()
        notifier.stopping()
        sockets.close()  # at once: a gateway that can't connect says so, one that connects would wait in vain
        cut_off = await leaving.drain(service)
        await shown.close()
        await leaving.close(service, TEARDOWN_SECONDS)
        watchdog.stop()
        if cut_off:
            log.warning("stopped; calls under way were cut off", calls=cut_off)
        else:
            log.info("stopped")
        return 1 if cut_off else 0
    finally:
        if shown is not None:
            shown.unlink()
        sockets.close()


class _Sockets:
    """What the process listens on."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self._servers: dict[Listener, asyncio.Server] = {}
        self._opening: set[asyncio.Task[None]] = set()

    def serve(
        self, loop: asyncio.AbstractEventLoop, new_connection: Callable[[], asyncio.Protocol], shown: Shown
    ) -> None:
        """What for; to be called once, before `open`."""
        self._loop, self._new_connection, self._shown = loop, new_connection, shown

    async def open(self, listener: Listener) -> None:
        """Accept connections from now on."""
        if listener.address.path:
            # Without the path the loop leaves the file alone: removing it is the listener's affair.
            create: Callable[..., Coroutine[Any, Any, asyncio.Server]] = self._loop.create_unix_server
        else:
            create = self._loop.create_server
        self._servers[listener] = await create(self._new_connection, sock=listener.socket, backlog=BACKLOG)

    @property
    def unreachable(self) -> bool:
        """Somebody else's file is where gateways look for ours."""
        return not self._shown.ready

    @unreachable.setter
    def unreachable(self, unreachable: bool) -> None:
        self._shown.ready = not unreachable

    def renew(self, listener: Listener, settings: Settings) -> None:
        """Listen anew where a listener's file is gone.

        Raises:
            ListenError: see `Listener.bind`.
        """
        fresh = Listener.bind_as(settings, listener.address, warn=False)
        fresh.set_backlog(listener.backlog)
        self._servers.pop(listener).close()
        listener.become(fresh)
        opening = asyncio.Task(self.open(listener), loop=self._loop)
        hide(opening)
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    def close(self) -> None:
        """Accept no more, and remove the files."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        for listener in self.listeners:
            listener.close()
