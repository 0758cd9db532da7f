"""Connections to a plugin server, kept between two calls."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import msgpack

from gatewright.dev.kong.rpc import RpcError

__all__ = ["Connection", "Dial", "Pool", "in_time"]

Dial = Callable[[], Awaitable[socket.socket]]
"""Gives a connected socket that leads to the plugin server."""

_READ_SECONDS = 60.0


class Connection:
    """One of them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.unpacker = msgpack.Unpacker(
            raw=False, strict_map_key=False, unicode_errors="surrogateescape", max_buffer_size=1 << 28
        )

    @property
    def usable(self) -> bool:
        """The plugin server has not closed it."""
        return not (self.reader.at_eof() or self.writer.is_closing())


class Pool:
    """Connections between two calls; the last one used is taken first, as nginx does."""

    def __init__(self, way: str | Dial) -> None:
        self._way = way
        self._idle: list[Connection] = []

    async def take(self) -> Connection:
        """One for a call.

        Raises:
            RpcError: the plugin server can't be reached.
        """
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.writer.close()
        try:
            if not isinstance(self._way, str):
                return Connection(*await asyncio.open_connection(sock=await self._way(), limit=1 << 20))
            return Connection(*await asyncio.open_unix_connection(self._way, limit=1 << 20))
        except OSError as error:
            raise RpcError(f"trying to connect: {self._way}: {error.strerror or error}") from None

    def give_back(self, connection: Connection) -> None:
        """A call has its answer."""
        self._idle.append(connection)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._idle

    def close(self) -> None:
        """Close all that are between two calls."""
        while self._idle:
            self._idle.pop().writer.close()


async def in_time(read: Awaitable[bytes]) -> bytes:
    """What is read, for as long as Kong waits.

    Raises:
        RpcError: nothing came in time, or the plugin server has closed the connection.
    """
    try:
        return await asyncio.wait_for(read, _READ_SECONDS)
    except TimeoutError:
        raise RpcError("timeout") from None
    except (asyncio.IncompleteReadError, ConnectionError):
        raise RpcError("closed") from None
