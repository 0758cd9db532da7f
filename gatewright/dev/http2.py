"""HTTP/2 towards clients, with prior knowledge: what nginx takes is taken, what it refuses is refused with its status.

(ngx_http_v2.c. The library is told to look at nothing but frames.)
"""

from __future__ import annotations

import asyncio
import logging
import re
from email.utils import formatdate
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.stream

from gatewright.dev.answers import keeps_back, response_head
from gatewright.dev.http1 import Served
from gatewright.dev.http2_frames import Frames
from gatewright.dev.messages import Answer, ClientRequest, Headers, raw, text_of
from gatewright.dev.nginx import TargetError, split_target, valid_host
from gatewright.dev.reader import UNIQUE

__all__ = ["PREFACE", "Http2Connection"]

log = logging.getLogger("gatewright.dev")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WANTED: Final = (":method", ":path", ":scheme")
_REFUSED_IN_NAMES: Final = re.compile(r"[\0-\x20A-Z:\x7f]")
_REFUSED_IN_PATHS: Final = re.compile(r"[\0-\x20\x7f]")
_PSEUDO: Final = frozenset((*_WANTED, ":authority"))
_CLOSED_AS_LATE: Final = 444
"""With this status nginx closes as if the client were too late."""
_CONFIGURATION: Final = h2.config.H2Configuration(
    client_side=False, header_encoding=None, validate_inbound_headers=False, validate_outbound_headers=False,
    normalize_outbound_headers=False,
)  # fmt: skip


def refusal_of(headers: Headers, *, ends: bool = False, agreeing_hosts: bool = False) -> int:
    """The status with which nginx refuses a request's headers; 0 if it doesn't.

    Args:
        headers: with the pseudo-headers.
        ends: nothing follows them.
        agreeing_hosts: the host may be named twice.
    """
    pseudo = [(name, value) for name, value in headers if name.startswith(":")]
    given = dict(pseudo)
    plain = [(name, value) for name, value in headers if not name.startswith(":")]
    if len(given) < len(pseudo) or not given.keys() <= _PSEUDO or any(not given.get(name) for name in _WANTED):
        return 400
    if not re.fullmatch("[A-Z_-]+", given[":method"]) or not given[":path"].startswith("/"):
        return 400
    if _REFUSED_IN_PATHS.search(given[":path"]) or any(re.search(r"[\0\r\n]", value) for _, value in headers):
        return 400
    if any(not name or _REFUSED_IN_NAMES.search(name) for name, _ in plain):
        return 400
    names = [name for name, _ in plain]
    if any(names.count(name) > 1 for name in UNIQUE):
        return 400
    length = next((value for name, value in plain if name == "content-length"), "0")
    if not re.fullmatch("[0-9]{1,18}", length, re.ASCII) or (ends and int(length)):
        return 400
    hosts = [value for name, value in plain if name == "host"] + [v for n, v in pseudo if n == ":authority"]
    if len(set(hosts) if agreeing_hosts else hosts) != 1 or not all(valid_host(host) for host in hosts):
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
        self._h2 = _Http2(_CONFIGURATION)
        self._frames = Frames(len(PREFACE))
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
            for frame in self._frames.receive(data):
                for event in self._h2.receive_data(frame):
                    self._take(event)
        except h2.exceptions.ProtocolError as error:
            log.warning("a client's HTTP/2 is none: %s", error)
            self._transport.write(self._h2.data_to_send())
            self._transport.close()
            return
        self._transport.write(self._h2.data_to_send())

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers = [(text_of(bytes(n)), text_of(bytes(v))) for n, v in event.headers or ()]
            self._streams[event.stream_id or 0] = headers, bytearray()
        elif isinstance(event, h2.events.DataReceived):
            self._with_data.add(event.stream_id or 0)
            self._streams[event.stream_id or 0][1].extend(event.data or b"")
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        elif isinstance(event, h2.events.StreamEnded):
            task = asyncio.ensure_future(self._serve(event.stream_id or 0))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._window_grew.set()

    async def _serve(self, stream: int) -> None:
        headers, body = self._streams.pop(stream)
        had_data = stream in self._with_data
        self._with_data.discard(stream)
        self._requests += 1
        pseudo = {name: value for name, value in headers if name.startswith(":")}
        plain = [(name, value) for name, value in headers if not name.startswith(":")]
        if pseudo.get(":authority"):
            host, others = [("host", pseudo[":authority"])], [(n, v) for n, v in plain if n != "host"]
            plain = [*others, *host] if self._front.agreeing_hosts else [*host, *others]
        is_encoded = any(name == "transfer-encoding" for name, _ in plain)
        length = next((value for name, value in plain if name == "content-length"), None)
        refused = refusal_of(headers, ends=not had_data, agreeing_hosts=self._front.agreeing_hosts)
        is_broken = not refused and length is not None and int(length) != len(body)
        peer = self._transport.get_extra_info("peername")
        request = ClientRequest(
            method=pseudo.get(":method", ""),
            target="/" if refused else pseudo[":path"],
            headers=plain,
            client_ip=peer[0],
            version="2",
            body=b"" if is_broken else bytes(body),
            framing="content-length" if length is not None else "h2" if had_data or is_encoded else "none",
            server_port=self._front.port,
            client_port=peer[1],
            head_size=self._frames.head_sizes.pop(stream, 0),
            body_is_broken=is_broken,
            number=self._requests,
        )
        answer = self._front.refusal(refused) if refused else await self._front.answer_of(request)
        await self._answer(stream, request, answer)
        self._transport.write(self._h2.data_to_send())

    async def _answer(self, stream: int, request: ClientRequest, answer: Answer) -> None:
        """Send an answer, and end the stream, in order or not."""
        if answer.mute or not answer.status:
            self._break_off(stream, answer)
            return
        line, out, data = response_head(answer, request, self._front.server_header, charset=self._front.charset)
        status = line.split(" ")[1]
        is_interim = 100 <= answer.status < 200
        bodiless = answer.status in (204, 304)
        breaks = (
            (answer.cut and not answer.rewritten)
            or (answer.unended and not bodiless)
            or (is_interim and answer.framing == "stop")
        )
        if (answer.method or request.method) == "HEAD":
            breaks = is_interim
        if bodiless or keeps_back(answer, len(data)):
            data = b""
        if answer.headless:  # an answer of HTTP/0.9
            status = "000"
            out = [(name, value) for name, value in out if name.lower() not in ("content-type", "content-length")]
            if not any(name.lower() == "date" for name, _ in out):
                out.append(("date", formatdate(usegmt=True)))
        fields = [(":status", status), *((name.lower(), value) for name, value in out)]
        is_last = not data and not breaks and not is_interim
        self._h2.send_headers(stream, [(raw(n), raw(v)) for n, v in fields], end_stream=is_last)
        if not is_interim:
            await self._send(stream, data, ends=not breaks)
        if breaks:
            self._break_off(stream, answer)

    async def _send(self, stream: int, data: bytes, *, ends: bool) -> None:
        while data:
            self._transport.write(self._h2.data_to_send())
            size = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, len(data))
            if not size:
                self._window_grew.clear()
                await self._window_grew.wait()
                continue
            self._h2.send_data(stream, data[:size], end_stream=ends and size == len(data))
            data = data[size:]

    def _break_off(self, stream: int, answer: Answer) -> None:
        late = _CLOSED_AS_LATE in (answer.status, answer.began)
        code = h2.errors.ErrorCodes.PROTOCOL_ERROR if late else h2.errors.ErrorCodes.INTERNAL_ERROR
        self._h2.reset_stream(stream, code)


class _Http2(h2.connection.H2Connection):
    """Leaves it to others whether a body is as long as its content-length says.

    To h2 one that isn't is an error of the whole connection, with no option. nginx ends that stream alone.
    """

    def _begin_new_stream(self, stream_id: int, allowed_ids: h2.connection.AllowedStreamIDs) -> h2.stream.H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream._initialize_content_length = lambda headers: None  # type: ignore[method-assign]
        return stream
