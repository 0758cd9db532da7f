"""The side towards clients: aiohttp's low-level server, and HTTP/2 with prior knowledge on the same port.

aiohttp reads the requests; answers are written as bytes, since nginx's own (names in any case, bytes that are not
UTF-8, odd status codes) could not pass through a tidy response object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import h2.config
import h2.connection
import h2.events
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from gatewright.dev.messages import Answer, ClientRequest, raw, text_of

__all__ = ["Front", "Handler"]

Handler = Callable[[ClientRequest], Awaitable[Answer]]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CHARSET_TYPES = (
    "text/html", "text/xml", "text/plain", "text/vnd.wap.wml", "application/javascript", "application/rss+xml",
)  # fmt: skip
_REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content", 301: "Moved Permanently",
    302: "Moved Temporarily", 303: "See Other", 304: "Not Modified", 307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Not Allowed", 406: "Not Acceptable", 408: "Request Time-out", 409: "Conflict", 410: "Gone",
    411: "Length Required", 412: "Precondition Failed", 413: "Request Entity Too Large", 414: "Request-URI Too Large",
    415: "Unsupported Media Type", 416: "Requested Range Not Satisfiable", 421: "Misdirected Request",
    429: "Too Many Requests", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Temporarily Unavailable", 504: "Gateway Time-out", 505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}  # fmt: skip
"""nginx's words; it has none for other codes."""
_PAGE = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n<hr><center>openresty</center>"
    '\r\n<p><em>Powered by <a href="https://apisix.apache.org/">APISIX</a>.</em></p></body>\r\n</html>\r\n'
)


def reason_of(status: int) -> str:
    """Nginx's word for a status; nothing for one that it doesn't know."""
    return _REASONS.get(status, "")


def error_page(status: int) -> bytes:
    """The HTML page that nginx makes for a status without a body."""
    return _PAGE.format(f"{status} {reason_of(status)}".strip()).encode()


def response_head(
    answer: Answer, request: ClientRequest, server: str, *, charset: bool = True
) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status line, headers and body as nginx sends them for an answer.

    Args:
        answer: the gateway's answer.
        request: what is answered.
        server: what the gateway calls itself.
        charset: name one for types of text that have none, as APISIX's configuration wants it.
    """
    body = answer.body or b""
    headers = [(n, v) for n, v in answer.headers if n.lower() not in ("content-type", "content-length", "server")]
    types = [v for n, v in answer.headers if n.lower() == "content-type"]
    length = next((v for n, v in answer.headers if n.lower() == "content-length"), None)
    bodiless = answer.status in (204, 304) or answer.status < 200
    framing = answer.framing
    if answer.page and not bodiless:
        body, types, framing = error_page(answer.status), ["text/html"], "content-length"
        length = str(len(body))
        headers = [(n, v) for n, v in headers if n.lower() != "content-encoding"]
    out: list[tuple[str, str]] = []
    if not (bodiless and framing != "proxied"):
        kind = types[0] if types else ("" if framing == "proxied" or answer.status == 304 else "text/plain")
        if charset and kind and "charset=" not in kind and kind.split(";")[0].strip().lower() in _CHARSET_TYPES:
            kind += "; charset=utf-8"
        if kind:
            out.append(("Content-Type", kind))
    elif types and answer.status not in (204, 304):
        out.append(("Content-Type", types[0]))
    keep = not answer.close and request.version != "1.0"
    if bodiless:
        body = b""
    elif length is not None and (framing in ("content-length", "proxied") or length.isdigit()):
        out.append(("Content-Length", length))
        body = body[: int(length)] if length.isdigit() else body
    elif request.version == "1.1" and request.method != "HEAD":
        out.append(("Transfer-Encoding", "chunked"))
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    elif request.version == "1.0":
        keep = False
    if request.method == "HEAD":
        body = b""
    if request.version != "2":
        out.append(("Connection", "keep-alive" if keep else "close"))
    if answer.status == 304:
        headers = [(n, v) for n, v in headers if not (n.lower() == "etag" and framing == "stop")]
    out += headers
    out.append(("Date", formatdate(usegmt=True)))
    out.append(("Server", answer.server or server))
    reason = reason_of(answer.status) if answer.reason is None else answer.reason
    return f"HTTP/1.1 {answer.status} {reason}", out, body


class _RawResponse(web.StreamResponse):
    """An answer that is already bytes."""

    def __init__(self, data: bytes, *, close: bool) -> None:
        super().__init__()
        self._data = data
        self._stays_open = not close

    @property
    def keep_alive(self) -> bool:
        """Whether aiohttp leaves the connection open."""
        return self._stays_open

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the answer in place of aiohttp's own."""
        if request.transport is not None:
            request.transport.write(self._data)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """All is written."""


class Front:
    """The listening side."""

    def __init__(self, handler: Handler, *, server_header: str, charset: bool = True) -> None:
        self._handler = handler
        self.charset = charset
        self._server_header = server_header
        self._aiohttp = web.Server(
            self._handle,
            lingering_time=0,
            access_log=None,
            max_headers=1000,  # nginx counts bytes, not headers: 8 KB for each, 32 KB for all
            max_line_size=32768,
            max_field_size=32768,
            auto_decompress=False,
        )
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Sniffer(self), host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
        await self._aiohttp.shutdown(1.0)

    def http1(self) -> asyncio.BaseProtocol:
        """Aiohttp's protocol for one HTTP/1 connection."""
        return self._aiohttp()

    async def answer_of(self, request: ClientRequest) -> Answer:
        """The gateway's answer."""
        return await self._handler(request)

    @property
    def server_header(self) -> str:
        """The value of the Server header."""
        return self._server_header

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        client = await _client_request(request, self.port)
        answer = await self._handler(client)
        answer.close = answer.close or any(
            name.lower() == "connection" and "close" in value.lower() for name, value in client.headers
        )
        line, headers, body = response_head(answer, client, self._server_header, charset=self.charset)
        if not answer.status:
            return _RawResponse(b"", close=True)
        if answer.status < 200:
            return await _never()
        close = answer.close or client.version == "1.0"
        data = raw(line + "\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n") + body
        return _RawResponse(data, close=close)


async def _never() -> web.StreamResponse:
    """A status below 200 leaves the client without any answer for as long as it cares to wait."""
    await asyncio.Event().wait()  # aiohttp cancels this when the client goes away
    return _RawResponse(b"", close=True)


async def _client_request(request: web.BaseRequest, port: int) -> ClientRequest:
    message: Any = request._message
    headers = [(text_of(name), text_of(value)) for name, value in request.raw_headers]
    if request.headers.get("expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await request.content.read()  # `request.read()` has a limit of its own
    names = {name.lower(): value for name, value in headers}
    framing = "none"
    if "transfer-encoding" in names:
        framing = "chunked"
    elif "content-length" in names:
        framing = "content-length"
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    version = request.version
    return ClientRequest(
        method=request.method,
        target=message.path,
        headers=headers,
        client_ip=peer[0] if peer else "127.0.0.1",
        version=f"{version.major}.{version.minor}",
        body=body,
        framing=framing,
        server_port=port,
        client_port=peer[1] if peer else 0,
    )


class _Sniffer(asyncio.Protocol):
    """Looks at a connection's first bytes and hands it to HTTP/1 or HTTP/2."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._seen = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if len(self._seen) < len(_PREFACE) and _PREFACE.startswith(self._seen):
            return
        protocol: Any = _Http2(self._front) if self._seen.startswith(_PREFACE) else self._front.http1()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._seen)


class _Http2(asyncio.Protocol):
    def __init__(self, front: Front) -> None:
        self._front = front
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self._streams: dict[int, tuple[list[tuple[str, str]], bytearray]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._window_grew = asyncio.Event()
        self._transport: asyncio.Transport

    def connection_lost(self, _: Exception | None) -> None:
        for task in self._tasks:
            task.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        self._h2.initiate_connection()
        transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                headers = [(text_of(bytes(n)), text_of(bytes(v))) for n, v in event.headers or ()]
                self._streams[event.stream_id or 0] = headers, bytearray()
            elif isinstance(event, h2.events.DataReceived):
                self._streams[event.stream_id or 0][1].extend(event.data or b"")
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            elif isinstance(event, h2.events.StreamEnded):
                task = asyncio.ensure_future(self._answer(event.stream_id or 0))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
                self._window_grew.set()
        self._transport.write(self._h2.data_to_send())

    async def _answer(self, stream: int) -> None:
        headers, body = self._streams.pop(stream)
        pseudo = {name: value for name, value in headers if name.startswith(":")}
        plain = [(name, value) for name, value in headers if not name.startswith(":")]
        if pseudo.get(":authority"):
            plain.insert(0, ("host", pseudo[":authority"]))
        has_length = any(name == "content-length" for name, _ in plain)
        peer = self._transport.get_extra_info("peername")
        request = ClientRequest(
            method=pseudo[":method"],
            target=pseudo[":path"],
            headers=plain,
            client_ip=peer[0],
            version="2",
            body=bytes(body),
            framing="content-length" if has_length else "h2" if body else "none",
            server_port=self._front.port,
            client_port=peer[1],
        )
        answer = await self._front.answer_of(request)
        _, out, data = response_head(answer, request, self._front.server_header, charset=self._front.charset)
        fields = [(":status", str(answer.status)), *((name.lower(), value) for name, value in out)]
        self._h2.send_headers(stream, [(raw(n), raw(v)) for n, v in fields], end_stream=not data)
        while data:
            self._transport.write(self._h2.data_to_send())
            size = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, len(data))
            if not size:
                self._window_grew.clear()
                await self._window_grew.wait()
                continue
            self._h2.send_data(stream, data[:size], end_stream=size == len(data))
            data = data[size:]
        self._transport.write(self._h2.data_to_send())
