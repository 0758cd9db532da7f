"""The side towards clients: it listens, and hands each connection to HTTP/1 or, with prior knowledge, HTTP/2."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from gatewright.dev.http1 import Http1Connection
from gatewright.dev.http2 import PREFACE, Http2Connection
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.errors import ListenError

__all__ = ["Front", "Handler", "listening"]

Handler = Callable[[ClientRequest], Awaitable[Answer]]

_CLOSING_SECONDS = 1.0


@contextmanager
def listening(address: str, flag: str) -> Iterator[None]:
    """Say what to do where an address can't be had.

    Args:
        address: for the message.
        flag: the option with which another one is chosen.

    Raises:
        ListenError: it can't be had.
    """
    try:
        yield
    except socket.gaierror as error:  # the host's fault
        raise ListenError(f"{address}: {error.strerror}; choose another host with --host") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        flag = "--host" if error.errno == errno.EADDRNOTAVAIL else flag
        raise ListenError(f"{address}: {reason}; choose another one with {flag}") from None


class Front:
    """The listening side.

    Attributes:
        port: where it listens.
        server_header: what the gateway calls itself.
        charset: a type of text that names no charset gets one.
        refusal: the answer to what is no request, by the status that nginx gives it.
        agreeing_hosts: over HTTP/2 the host may come as a header, too, if it's the same; it's then the last one.
        reads_late: requests are handled before their bodies have come (`ClientRequest.upload`).
    """

    def __init__(
        self,
        handler: Handler,
        *,
        server_header: str,
        charset: bool = True,
        refusal: Callable[[int], Answer],
        reads_late: bool = False,
        agreeing_hosts: bool = False,
    ) -> None:
        self._handler = handler
        self.charset = charset
        self.reads_late = reads_late
        self.agreeing_hosts = agreeing_hosts
        self.server_header = server_header
        self.refusal = refusal
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.BaseTransport] = set()
        self._under_way: set[asyncio.Task[Answer]] = set()
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Sniffer(self), host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def start_near(self, host: str, usual: int, wanted: int | None) -> None:
        """Listen at a port that is wanted, or else at the usual one, or any that is free.

        Raises:
            OSError: the wanted one is taken.
        """
        if wanted is not None:
            await self.start(host, wanted)
            return
        try:
            await self.start(host, usual)
        except OSError:
            await self.start(host, 0)

    async def stop(self) -> None:
        """Stop listening, let requests under way end for a moment, and close all connections."""
        if self._server is not None:
            self._server.close()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_CLOSING_SECONDS)
        for task in self._under_way:
            task.cancel()
        for connection in list(self._open):
            connection.close()

    async def answer_of(self, request: ClientRequest) -> Answer:
        """The gateway's answer."""
        task = asyncio.ensure_future(self._handler(request))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await task

    def connection_opened(self, connection: asyncio.BaseTransport) -> None:
        """A connection has begun."""
        self._open.add(connection)

    def connection_closed(self, connection: asyncio.BaseTransport) -> None:
        """A connection has ended."""
        self._open.discard(connection)


class _Sniffer(asyncio.Protocol):
    """Looks at a connection's first bytes and hands it to HTTP/1 or HTTP/2."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._seen = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        self._front.connection_opened(transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._front.connection_closed(self._transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if len(self._seen) < len(PREFACE) and PREFACE.startswith(self._seen):
            return
        is_http2 = self._seen.startswith(PREFACE)
        protocol = Http2Connection(self._front) if is_http2 else Http1Connection(self._front)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._seen)
