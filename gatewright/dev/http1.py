"""One HTTP/1 connection with a client: requests are answered one after the other, as nginx does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Protocol

from gatewright.dev.answers import keeps_back, response_head
from gatewright.dev.messages import Answer, ClientRequest, Tunnel, Upload, raw
from gatewright.dev.reader import Incoming, RefusedError, RequestReader

__all__ = ["Http1Connection", "Served"]

log = logging.getLogger("gatewright.dev")

_TUNNELLED = 1 << 16
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Served(Protocol):
    """What answers the requests of a connection."""

    port: int
    server_header: str
    charset: bool
    reads_late: bool
    agreeing_hosts: bool

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
        self._uploading: Incoming | None = None
        self._upload: asyncio.Future[Upload | None] | None = None
        self._requests = 0
        self._ended = False
        self._tunnel: Tunnel | None = None
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
        self._uploaded(None)
        if self._tunnel is not None:
            self._tunnel.writer.close()

    def eof_received(self) -> bool:
        """The client sends no more; what it asked for is still answered."""
        self._ended = True
        self._uploaded(None)
        return self._task is not None

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""
        if self._tunnel is not None:
            self._tunnel.writer.write(data)
            return
        self._reader.receive_data(data)
        if self._task is None or self._uploading is not None:
            self._next()

    def _uploaded(self, body: Upload | None) -> None:
        """The body that a request waits for has come, or won't."""
        upload, self._upload = self._upload, None
        if upload is not None and not upload.done():
            upload.set_result(body)

    def _next(self) -> None:
        """Begin with the next request, if it has come."""
        try:
            incoming = self._reader.next_request()
        except RefusedError as error:
            self._refuse(error)
            return
        if incoming is not None and incoming is self._uploading:
            self._uploading = None
            self._uploaded(Upload(incoming.body, incoming.body_is_broken, incoming.wire))
            if self._task is None:  # it was answered without the body, which nobody wants
                self._next()
            return
        if incoming is not None:
            self._requests += 1
            if not self._served.reads_late and incoming.expects_continue:
                self._go_on(incoming)
            self._task = asyncio.ensure_future(self._answer(incoming))
            return
        waits = self._reader.waits_for_body
        if waits is not None and waits is not self._uploading:
            if self._served.reads_late:
                self._requests += 1
                self._uploading = waits
                self._upload = asyncio.get_running_loop().create_future()
                self._task = asyncio.ensure_future(self._answer(waits))
                return
            if waits.expects_continue:
                self._go_on(waits)
        if self._ended:
            self._transport.close()

    def _go_on(self, incoming: Incoming) -> None:
        if incoming is not self._told_to_go_on:
            self._told_to_go_on = incoming
            self._transport.write(_CONTINUE)

    def _refuse(self, error: RefusedError) -> None:
        request = self._client_request(Incoming(error.method, "/", error.version, [], "none", b""))
        self._write(self._served.refusal(error.status), request)
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
        # Nginx may leave the client without an answer, and takes the next request.
        stays = request.keep_alive if answer.mute else self._write(answer, request)
        if answer.goes_on:
            self._go_on(incoming)
        if answer.tunnel is not None:
            await self._go_through(answer.tunnel)
            return
        self._task = None
        if not stays or self._transport.is_closing():
            self._transport.close()
        else:
            self._next()

    async def _go_through(self, tunnel: Tunnel) -> None:
        """Pass on what either side sends, until one ends."""
        self._tunnel = tunnel
        tunnel.writer.write(self._reader.take_rest())
        data = tunnel.begun
        with contextlib.suppress(ConnectionError):
            while (data or (data := await tunnel.reader.read(_TUNNELLED))) and not self._transport.is_closing():
                self._transport.write(data)
                data = b""
        tunnel.writer.close()
        self._transport.close()

    def _give_back(self, incoming: Incoming, data: bytes) -> None:
        """Nobody wants a request's body, not even to do away with it: it's taken for the next request."""
        if incoming is self._uploading:
            self._uploading = None
            self._reader.forget_body()
        else:  # who gives it back may not know that it has come by now
            self._reader.give_back(data or incoming.wire)

    def _write(self, answer: Answer, request: ClientRequest) -> bool:
        """Send an answer; tells whether the connection stays open."""
        line, headers, body = response_head(
            answer, request, self._served.server_header, charset=self._served.charset
        )  # fmt: skip
        if answer.headless:
            if request.method != "HEAD":
                self._transport.write(answer.body or b"")
            return request.keep_alive
        if request.version == "0.9":
            self._transport.write(body)
            return False
        head = line + "\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        sent = raw(head) + body
        if not keeps_back(answer, len(sent)):
            self._transport.write(sent)
        stays = request.keep_alive if answer.status == 101 else ("Connection", "close") not in headers
        return stays and not answer.cut

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
            head_size=len(incoming.head),
            head=incoming.head,
            wire=incoming.wire,
            body_is_broken=incoming.body_is_broken,
            number=self._requests,
            is_gone=lambda: self._ended,
            upload=None if self._upload is None else partial(_wait, self._upload),
            give_back=partial(self._give_back, incoming),
            go_on=partial(self._go_on, incoming),
        )


async def _wait(upload: asyncio.Future[Upload | None]) -> Upload | None:
    return await upload
