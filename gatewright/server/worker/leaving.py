"""How a worker's service ends: its connections leave, or are drained; its plugins are torn down."""

from __future__ import annotations

import asyncio
import contextlib

from gatewright.server.worker.service import RETRY_SECONDS, Service

__all__ = ["close", "drain", "retire"]

SETTLE_SECONDS = 0.5
"""For what a gateway still has to send on a connection after its call's end, before that can be a keeper's."""


async def drain(service: Service) -> int:
    """Close idle connections, let calls under way end, then close all. Gives the number of calls cut off."""
    service.draining = service.leaving = True
    for connection in list(service.connections):
        connection.close_if_idle()
    await _until_all_have_left(service, service.loop.time() + service.drain_seconds)
    cut_off = service.calls
    service.on_cut_off()
    service.stop_timers()
    for connection in list(service.connections):
        if service.keeper is None or not connection.give_back():
            connection.abort()
    return cut_off


async def _until_all_have_left(service: Service, until: float) -> None:
    """Wait for the calls under way, and for connections that are a keeper's once their peer has caught up."""
    quiet_since = service.loop.time()
    while (now := service.loop.time()) < until:
        if service.keeper is not None:  # which takes some at a time
            service.give_back(len(service.connections))
        if service.calls:  # also those that have come on connections which had not left yet
            service.idle.clear()
            quiet_since = now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.idle.wait(), min(RETRY_SECONDS * 5, until - now))
        elif service.keeper is None or _have_settled(service, now - quiet_since):
            return
        else:
            await asyncio.sleep(RETRY_SECONDS)


def _have_settled(service: Service, seconds: float) -> bool:
    if seconds <= SETTLE_SECONDS:
        return not service.connections
    return not any(connection.is_awaited for connection in service.connections)


async def retire(service: Service, seconds: float) -> int:
    """Give all connections to other workers, each as soon as it's idle. Gives the number left after `seconds`."""
    service.leaving = True
    link = service.link
    deadline = service.loop.time() + seconds
    while link is not None and (service.connections or service.calls or link.unsettled) and not link.stopped:
        if service.loop.time() > deadline:
            break
        service.give_back(len(service.connections))
        await asyncio.sleep(RETRY_SECONDS)
    return len(service.connections)


async def close(service: Service, seconds: float) -> None:
    """Tear all chains down, for as long as `seconds`, and stop the threads."""
    chains = list(service.confs)
    done = service.loop.create_future()

    def tear_all_down(*_: object) -> None:
        for chain in chains:
            chain.teardown()
        if not done.done():
            done.set_result(None)

    if chains:
        service.loop.call_soon(service.bridge.start_apart, tear_all_down, None)
        try:
            await asyncio.wait_for(done, seconds)
        except TimeoutError:
            service.failures.report("plugins took too long to tear down; left as they are", kind="teardown")
    service.on_close()
    service.bridge.close()
    service.spare.give_up()
    if service.recorder is not None:
        service.recorder.close()
    if service.tracing is not None:
        service.tracing.close(seconds)
