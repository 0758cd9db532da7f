"""The side of runners that record: they connect to a unix socket and tell of their calls (`observe.recording`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgpack
from msgspec import convert

from gatewright.runtime.records import CallRecord

__all__ = ["Receiver"]

_LONGEST: Final = 1 << 26


class Receiver:
    """Listens for runners.

    Attributes:
        lost: records that runners left out, because there were too many.
    """

    def __init__(self, on_record: Callable[[CallRecord], None]) -> None:
        """Make one.

        Args:
            on_record: told of each call; moments are as `time.time` has them.
        """
        self.on_record = on_record
        self.lost = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.BaseTransport] = set()

    async def start(self, path: str) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Runner(self), path)

    async def stop(self) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
        for transport in list(self._open):
            transport.close()


class _Runner(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._unpacker = msgpack.Unpacker(
            raw=False, strict_map_key=False, unicode_errors="surrogateescape", max_buffer_size=_LONGEST
        )
        self._transport: asyncio.BaseTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._receiver._open.add(transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._unpacker.feed(data)
            for message in self._unpacker:
                self._receiver.lost += message.get("lost", 0)
                for record in convert(message.get("calls", ()), list[CallRecord]):
                    record.move(message["clock"])
                    self._receiver.on_record(record)
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            msgpack.exceptions.BufferFull,
        ):  # it's no runner of ours
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self._receiver._open.discard(self._transport)
