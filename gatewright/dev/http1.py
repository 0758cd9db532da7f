"""One HTTP/1 connection with a client: requests are answered one after the other, as nginx does."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from gatewright.dev.answers import response_head
from gatewright.dev.messages import Answer, ClientRequest, raw
from gatewright.dev.reader import Incoming, RefusedError, RequestReader

__all__ = ["Http1Connection", "Served"]

log = logging.getLogger("gatewright.dev")

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Served(Protocol):
    """What answers the requests of a connection."""

    port: int
    server_header: str
    charset: bool

    async def answer_of(self, request: ClientRequest) -> Answer:
        """The gateway's answer."""

    def refusal(self, status: int) -> Answer:
        """The answer to what is no request."""

    def connection_opened(self, connection: asyncio.BaseTransport) -> None:
        """A connection has begun."""

    def connection_closed(self, connection: asyncio.BaseTransport) -> None:
        """A connection has ended."""


class Http1Connection(asyncio.Protocol):
    """The driver of a `RequestReader`."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._reader = RequestReader()
        self._task: asyncio.Task[None] | None = None
        self._told_to_go_on: Incoming | None = None
        self._requests = 0
        self._ended = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        self._served.connection_opened(transport)

    def connection_lost(self, _: Exception | None) -> None:
        """End; a call under way runs to its end, as in the gateway, which does not notice."""
        self._ended = True
        self._served.connection_closed(self._transport)

    def eof_received(self) -> bool:
        """The client sends no more; what it asked for is still answered."""
        self._ended = True
        return self._task is not None

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""
        self._reader.receive_data(data)
        if self._task is None:
            self._next()

    def _next(self) -> None:
        """Begin with the next request, if it has come."""
        try:
            incoming = self._reader.next_request()
        except RefusedError as error:
            self._refuse(error.status, error.version)
            return
        if incoming is not None:
            self._requests += 1
            if incoming.expects_continue and incoming is not self._told_to_go_on:
                self._transport.write(_CONTINUE)
            self._task = asyncio.ensure_future(self._answer(incoming))
            return
        waits = self._reader.waits_for_body
        if waits is not None and waits is not self._told_to_go_on and waits.expects_continue:
            self._told_to_go_on = waits
            self._transport.write(_CONTINUE)
        if self._ended:
            self._transport.close()

    def _refuse(self, status: int, version: str) -> None:
        request = self._client_request(Incoming("GET", "/", version, [], "none", 0))
        self._write(self._served.refusal(status), request)
        self._transport.close()

    async def _answer(self, incoming: Incoming) -> None:
        request = self._client_request(incoming)
        try:
            answer = await self._served.answer_of(request)
        except asyncio.CancelledError:
            self._transport.abort()
            raise
        except Exception:  # a fault of ours: the client is not left waiting, and the next one is served
            log.exception("the development gateway failed on %s %s", request.method, request.target)
            self._transport.close()
            return
        if not answer.status:  # the gateway closes without a word
            self._transport.close()
            return
        if answer.status < 200:  # nginx leaves the client without an answer for as long as it cares to wait
            return
        stays = self._write(answer, request)
        self._task = None
        if not stays or self._transport.is_closing():
            self._transport.close()
        else:
            self._next()

    def _write(self, answer: Answer, request: ClientRequest) -> bool:
        """Send an answer; tells whether the connection stays open."""
        line, headers, body = response_head(
            answer, request, self._served.server_header, charset=self._served.charset
        )  # fmt: skip
        if request.version == "0.9":
            self._transport.write(body)
            return False
        head = line + "\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        self._transport.write(raw(head) + body)
        return ("Connection", "keep-alive") in headers and not answer.cut

    def _client_request(self, incoming: Incoming) -> ClientRequest:
        peer = self._transport.get_extra_info("peername") or ("127.0.0.1", 0)
        own = self._transport.get_extra_info("sockname") or ("127.0.0.1", self._served.port)
        return ClientRequest(
            method=incoming.method,
            target=incoming.target,
            headers=incoming.headers,
            client_ip=peer[0],
            version=incoming.version,
            body=incoming.body,
            framing=incoming.framing,
            server_port=own[1],
            server_addr=own[0],
            client_port=peer[1],
            keep_alive=incoming.keeps_alive,
            head_size=incoming.size,
            body_is_broken=incoming.body_is_broken,
            number=self._requests,
            is_gone=lambda: self._ended,
        )
