"""The door: what a connection speaks is seen by its first bytes, and the driver for it takes over then.

So one socket, with one owner and one mode, serves all protocols of a runner. Nothing of what comes later passes here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

from gatewright.server.worker.service import Service

__all__ = ["Door"]

NewDriver = Callable[[], asyncio.Protocol]


class Door(asyncio.Protocol):
    """A connection on which nothing has come yet, or nothing but what a worker that is dead has read of it.

    Attributes:
        read: that.
    """

    read = b""

    def __init__(self, service: Service, usual: NewDriver, others: Mapping[int, NewDriver]) -> None:
        """Wait for the first bytes.

        Args:
            service: the worker's service.
            usual: makes the driver for all that `others` doesn't name.
            others: makes drivers, by the first byte.
        """
        self._service = service
        self._usual = usual
        self._others = others
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or turn it away if there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._service.take_in(self):
            if not (self._service.draining and self._service.leave_to_keeper(self._transport)):
                transport.close()
        elif self.read:
            self._service.loop.call_soon(self.data_received, self.read)
        elif self._service.leaving:
            self._service.loop.call_soon(self.give_back)

    def data_received(self, data: bytes) -> None:
        """Let the right driver have the connection."""
        driver = self._others.get(data[0], self._usual)()
        self._service.succeeds(self, cast("Any", driver))
        self._transport.set_protocol(driver)
        driver.connection_made(self._transport)
        if not self._transport.is_closing():
            driver.data_received(data)

    def connection_lost(self, _: Exception | None) -> None:
        """It went as it came."""
        self._service.let_go(self)

    is_awaited = False

    def end_if_stalled(self, now: float, limit: float) -> None:
        """Nothing has been begun."""

    def close_if_idle(self) -> None:
        """Close the connection, or let the keeper have it: the gateway may ask something there just now."""
        if self._service.keeper is None or not self.give_back():
            self._transport.close()

    def give_back(self) -> bool:
        """Let another worker have the connection."""
        if self not in self._service.connections:
            return False
        return self._service.hand_over(self, self._transport)

    def abort(self) -> None:
        """Close the connection."""
        self._transport.close()
