"""A runner without a process: the real chains and sessions on the running loop, reached over socket pairs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

from gatewright.plugin import Plugin
from gatewright.runtime.own_loops import allow_own_loops
from gatewright.server.worker import leaving
from gatewright.server.worker.service import Service
from gatewright.settings import Settings
from gatewright.testing.logs import log_in_short
from gatewright.testing.runs import CURRENT, Visit, Watch

__all__ = ["InProcessRunner"]

_TEARDOWN_SECONDS = 10.0
_TURNS = 3
_SETTLE_SECONDS = 5.0
_LOOK_SECONDS = 0.002


class InProcessRunner:
    """A worker's service, and the way to it."""

    def __init__(self, service: Service, connection: Callable[[Service, Visit], asyncio.Protocol]) -> None:
        self.service = service
        self._connection = connection

    @classmethod
    async def start(
        cls,
        plugins: Mapping[str, type[Plugin]],
        settings: Settings,
        connection: Callable[[Service], Callable[[Visit], asyncio.Protocol]],
        **more: Any,
    ) -> InProcessRunner:
        """Start one on the running loop.

        Args:
            plugins: by name.
            settings: the effective settings.
            connection: makes, for a service, what makes the drivers of connections.
            more: for `Service`.
        """
        log_in_short()
        allow_own_loops()  # as in a real one
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Service] = loop.create_future()

        def make() -> None:
            try:
                made.set_result(Service(loop, settings, plugins, around=Watch(), **more))
            except BaseException as error:
                made.set_exception(error)

        loop.call_soon(make)  # the bridge's hub is the greenlet that callbacks run in
        service = await made
        new = connection(service)
        service.start()
        return cls(service, lambda _, visit: new(visit))

    async def dial(self) -> socket.socket:
        """Connect the gateway's side of a visit; gives its socket, which is closed after the visit."""
        visit = CURRENT.get()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: self._connection(self.service, visit), theirs
        )  # fmt: skip
        return ours

    async def settle(self) -> None:
        """Let what runs after the answer (`on_log`) end."""
        for _ in range(_TURNS):  # what was sent has to come first
            await asyncio.sleep(0)
        deadline = self.service.loop.time() + _SETTLE_SECONDS
        while self.service.calls and self.service.loop.time() < deadline:  # noqa: ASYNC110 - nobody tells of ends
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self) -> None:
        """Tear the plugins down."""
        await leaving.drain(self.service)
        await leaving.close(self.service, _TEARDOWN_SECONDS)
        for _ in range(_TURNS):  # connections are told of their end in callbacks
            await asyncio.sleep(0)
