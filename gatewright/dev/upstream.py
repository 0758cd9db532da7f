"""Requests to the upstream, byte for byte as APISIX sends them, and the answers read with h11.

The bytes of a request are put together here, since a client library would mend what a real gateway passes on (raw bytes
in a target or a header, names in the client's case); reading answers, where much can go wrong, is left to h11.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import Protocol

import h11

from gatewright.dev.messages import Headers, raw, text_of
from gatewright.dev.trail import current_trail

__all__ = ["Sender", "UpstreamAnswer", "UpstreamError", "send_request"]


class UpstreamError(Exception):
    """The upstream could not be reached, or broke off before its answer began.

    Attributes:
        sent: it was reached, so that it may have the request.
    """

    def __init__(self, reason: str, *, sent: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent


@dataclass(slots=True)
class UpstreamAnswer:
    """Status, headers in wire order, body; `framing` is `content-length`, `chunked`, `close` or `none`."""

    status: int
    reason: str
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    framing: str = "none"
    complete: bool = True


class Sender(Protocol):
    """What sends a request to the upstream: `send_request`, or what stands in for it where there is no network."""

    async def __call__(
        self,
        host: str,
        port: int,
        *,
        tls: bool,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        timeout: float = 60.0,
        verify: bool = True,
    ) -> UpstreamAnswer:
        """See `send_request`."""
        ...


async def send_request(
    host: str,
    port: int,
    *,
    tls: bool,
    method: str,
    target: str,
    headers: Headers,
    body: bytes,
    timeout: float = 60.0,
    verify: bool = True,
) -> UpstreamAnswer:
    """Send one request on a connection of its own and read the whole answer.

    Args:
        host: where to.
        port: where to.
        tls: over TLS.
        method: the request's method.
        target: its target, as it goes over the wire.
        headers: its headers.
        body: its body.
        timeout: seconds for the whole answer.
        verify: with TLS, check the certificate.

    Raises:
        UpstreamError: no answer.
    """
    sent = False
    trail = current_trail()
    noted = trail.send(f"{host}:{port}", method, target, headers, body) if trail is not None else None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port, ssl=_tls_context(verify) if tls else None)
            sent = True
            try:
                head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
                writer.write(raw(head + "\r\n") + body)
                answer = await _read_answer(reader, method)
                if noted is not None:
                    noted.answered(answer.status, answer.reason, answer.headers, answer.body, complete=answer.complete)
                return answer
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, h11.ProtocolError, UnicodeError) as error:
        if noted is not None:
            noted.failed(str(error) or type(error).__name__)
        raise UpstreamError(str(error) or type(error).__name__, sent=sent) from None


def _tls_context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _read_answer(reader: asyncio.StreamReader, method: str) -> UpstreamAnswer:
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    # Tells the parser what was asked, and so whether a body is to be expected; its bytes are not used.
    parser.send(h11.Request(method=method, target="/", headers=[("host", "upstream")]))
    parser.send(h11.EndOfMessage())
    answer: UpstreamAnswer | None = None
    chunks: list[bytes] = []
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(1 << 16)
            if not data and answer is not None and answer.framing in ("content-length", "chunked"):
                answer.complete = False
                answer.body = b"".join(chunks)
                return answer
            parser.receive_data(data)
        elif isinstance(event, h11.Response):
            headers = [(text_of(name), text_of(value)) for name, value in event.headers.raw_items()]
            names = {name.lower() for name, _ in headers}
            framing = "close"
            if event.status_code in (204, 304) or method == "HEAD":
                framing = "none"
            elif "transfer-encoding" in names:
                framing = "chunked"
            elif "content-length" in names:
                framing = "content-length"
            answer = UpstreamAnswer(event.status_code, text_of(bytes(event.reason)), headers, framing=framing)
        elif isinstance(event, h11.Data):
            chunks.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage) and answer is not None:
            answer.body = b"".join(chunks)
            return answer
        elif isinstance(event, h11.ConnectionClosed):
            raise UpstreamError("upstream prematurely closed connection while reading response header", sent=True)
