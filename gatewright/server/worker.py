"""One process's life: bind, serve, drain, leave."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from collections.abc import Callable

import structlog

from gatewright._version import __version__
from gatewright.gateways.events import Session
from gatewright.runtime.discovery import Discovery
from gatewright.server.connection import Connection
from gatewright.server.listener import BACKLOG, Listener
from gatewright.server.service import Service
from gatewright.settings import Settings, parse_address

__all__ = ["new_event_loop", "run_worker", "serve"]

_TEARDOWN_SHARE = 0.15  # seconds: what is left of APISIX's one second after draining


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A uvloop loop, or the standard one where uvloop is missing (a fifth slower)."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_worker(
    settings: Settings,
    discovery: Discovery,
    new_session: Callable[[], Session],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: the effective settings.
        discovery: the plugins, and what could not be loaded (which is logged).
        new_session: makes the protocol state of a new connection.
        loop: a loop that plugins were already bound to; by default a new one.

    Returns:
        The exit code: 0, or 1 if calls under way had to be cut off.

    Raises:
        ListenError: the address can't be bound.
    """
    _log_plugins(discovery)
    _raise_file_limit()
    with asyncio.Runner(loop_factory=new_event_loop if loop is None else lambda: loop) as runner:
        return runner.run(serve(settings, discovery, new_session))


async def serve(
    settings: Settings,
    discovery: Discovery,
    new_session: Callable[[], Session],
    *,
    stop: asyncio.Event | None = None,
    ready: Callable[[Listener], None] | None = None,
) -> int:
    """Serve until `stop` is set or a signal comes; see `run_worker`."""
    log = structlog.get_logger("gatewright.server")
    loop = asyncio.get_running_loop()
    stop = stop or asyncio.Event()
    listener = Listener.bind(
        parse_address(settings.listen),
        mode=int(settings.socket_mode, 8),
        owner=settings.socket_owner,
        group=settings.socket_group,
    )
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: whoever runs us stops us
                loop.add_signal_handler(number, stop.set)
        # Whether a call is waited for is decided before the hub greenlet of the bridge is fixed: in the loop itself.
        service = await _in_hub(loop, lambda: Service(loop, settings, discovery.plugins, new_session))
        service.start()
        server = await _open(loop, service, listener)
        log.info("listening", address=str(listener.address), plugins=len(discovery.plugins), version=__version__)
        if ready is not None:
            ready(listener)
        await stop.wait()
        server.close()
        listener.close()  # at once: a gateway that can't connect says so, one that connects would wait in vain
        cut_off = await service.drain()
        await service.close(_TEARDOWN_SHARE)
        if cut_off:
            log.warning("stopped; calls under way were cut off", calls=cut_off)
        else:
            log.info("stopped")
        return 1 if cut_off else 0
    finally:
        listener.close()


async def _open(loop: asyncio.AbstractEventLoop, service: Service, listener: Listener) -> asyncio.Server:
    if listener.address.path:
        # Without the path the loop leaves the file alone: removing it is the listener's affair.
        return await loop.create_unix_server(lambda: Connection(service), sock=listener.socket, backlog=BACKLOG)
    return await loop.create_server(lambda: Connection(service), sock=listener.socket, backlog=BACKLOG)


async def _in_hub(loop: asyncio.AbstractEventLoop, make: Callable[[], Service]) -> Service:
    made: asyncio.Future[Service] = loop.create_future()
    loop.call_soon(lambda: made.set_result(make()))
    return await made


def _raise_file_limit() -> None:
    """Use all the file descriptors allowed: the usual soft limit of 1,024 is less than a busy gateway's connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_plugins(discovery: Discovery) -> None:
    log = structlog.get_logger("gatewright.server")
    for error in discovery.errors:
        log.error("plugin not loaded; routes that use it are refused", error=str(error))
    for name, found in sorted(discovery.found.items()):
        log.info("plugin", name=name, phases=list(found.plugin.phases()), source=found.source)
        if not found.plugin.phases():
            log.warning("plugin has no handler: define on_request or on_response", name=name, source=found.source)
    if not discovery.found:
        log.warning("no plugins found: every route that names one is refused", cure="--plugins DIRECTORY")
