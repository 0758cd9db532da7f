"""HTTP/2 towards clients, with prior knowledge: what nginx takes is taken, what it refuses is refused with its status.

(ngx_http_v2.c. The library is told to look at nothing but frames.)
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from gatewright.dev.answers import response_head
from gatewright.dev.http1 import Served
from gatewright.dev.messages import ClientRequest, Headers, raw, text_of
from gatewright.dev.nginx import TargetError, split_target, valid_host

__all__ = ["PREFACE", "Http2Connection"]

log = logging.getLogger("gatewright.dev")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WANTED: Final = (":method", ":path", ":scheme")
_REFUSED_IN_NAMES: Final = re.compile(r"[\0-\x20A-Z:\x7f]")
_CONFIGURATION: Final = h2.config.H2Configuration(
    client_side=False, header_encoding=None, validate_inbound_headers=False, validate_outbound_headers=False,
    normalize_outbound_headers=False,
)  # fmt: skip


def refusal_of(headers: Headers) -> int:
    """The status with which nginx refuses a request's headers; 0 if it doesn't."""
    pseudo = [(name, value) for name, value in headers if name.startswith(":")]
    given = dict(pseudo)
    plain = [(name, value) for name, value in headers if not name.startswith(":")]
    if len(given) < len(pseudo) or any(not given.get(name) for name in _WANTED):
        return 400
    if not re.fullmatch("[A-Z_-]+", given[":method"]) or not given[":path"].startswith("/"):
        return 400
    if any(not name or _REFUSED_IN_NAMES.search(name) for name, _ in plain):
        return 400
    hosts = {value for name, value in plain if name == "host"} | (
        {given[":authority"]} if ":authority" in given else set()
    )
    if len(hosts) != 1 or not all(valid_host(host) for host in hosts):
        return 400
    try:
        split_target(given[":path"])
    except TargetError:
        return 400
    return 405 if given[":method"] in ("CONNECT", "TRACE") else 0


class Http2Connection(asyncio.Protocol):
    """The driver of one connection: its streams are answered side by side."""

    def __init__(self, front: Served) -> None:
        self._front = front
        self._h2 = h2.connection.H2Connection(_CONFIGURATION)
        self._streams: dict[int, tuple[Headers, bytearray]] = {}
        self._with_data: set[int] = set()
        self._requests = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._window_grew = asyncio.Event()
        self._transport: asyncio.Transport

    def connection_lost(self, _: Exception | None) -> None:
        """End the streams."""
        self._front.connection_closed(self._transport)
        for task in self._tasks:
            task.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        self._h2.initiate_connection()
        transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            log.warning("a client's HTTP/2 is none: %s", error)
            self._transport.write(self._h2.data_to_send())
            self._transport.close()
            return
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                headers = [(text_of(bytes(n)), text_of(bytes(v))) for n, v in event.headers or ()]
                self._streams[event.stream_id or 0] = headers, bytearray()
            elif isinstance(event, h2.events.DataReceived):
                self._with_data.add(event.stream_id or 0)
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
        had_data = stream in self._with_data
        self._with_data.discard(stream)
        self._requests += 1
        pseudo = {name: value for name, value in headers if name.startswith(":")}
        plain = [(name, value) for name, value in headers if not name.startswith(":")]
        if pseudo.get(":authority"):
            plain = [("host", pseudo[":authority"]), *((name, value) for name, value in plain if name != "host")]
        is_encoded = any(name == "transfer-encoding" for name, _ in plain)
        has_length = any(name == "content-length" for name, _ in plain)
        refused = refusal_of(headers)
        peer = self._transport.get_extra_info("peername")
        request = ClientRequest(
            method=pseudo.get(":method", ""),
            target="/" if refused else pseudo[":path"],
            headers=plain,
            client_ip=peer[0],
            version="2",
            body=bytes(body),
            framing="content-length" if has_length else "h2" if had_data or is_encoded else "none",
            server_port=self._front.port,
            client_port=peer[1],
            number=self._requests,
        )
        answer = self._front.refusal(refused) if refused else await self._front.answer_of(request)
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
