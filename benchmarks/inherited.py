"""A runner whose workers accept for themselves, on the listening socket that they inherit.

This is the other way to spread connections, for `benchmarks.workers` to compare; see docs/decisions/0003.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gatewright.cli import main
from gatewright.server.drivers.apisix.driver import driver
from gatewright.server.host.listener import BACKLOG, Listener
from gatewright.server.supervisor.dispatcher import Dispatcher
from gatewright.server.worker.link import Link

_listeners: list[Listener] = []
_servers: list[asyncio.Task[Any]] = []
_obtain = Listener.obtain
_start = Link.start


def obtain(settings: Any) -> Listener:
    _listeners.append(_obtain(settings))
    return _listeners[0]


def start(self: Link) -> None:
    _start(self)
    service = self._service
    serving = service.loop.create_unix_server(driver(service), sock=_listeners[0].socket, backlog=BACKLOG)
    _servers.append(service.loop.create_task(serving))


Listener.obtain = staticmethod(obtain)  # type: ignore[assignment, method-assign]
Link.start = start  # type: ignore[method-assign]
Dispatcher.accept = lambda *_: None  # type: ignore[assignment, method-assign]
Dispatcher.spread = lambda *_: None  # type: ignore[assignment, method-assign]
Dispatcher.descriptors = lambda _: set()  # type: ignore[assignment, method-assign]

if __name__ == "__main__":
    main()
