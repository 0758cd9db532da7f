"""HTTP/1 requests, read as nginx reads them: what it takes is taken, what it refuses is refused with its status.

A reader has no socket: it is fed bytes and asked for the next request. The rules are those of nginx's
ngx_http_parse.c and ngx_http_request.c with APISIX's settings. Headers with odd names are given, too: nginx leaves
them out, but for underscores, and so does whoever looks at them.

- A line ends with LF, a CR before it belongs to the end. Empty lines before a request are skipped.
- A request line without a version is HTTP/0.9: no headers follow, and GET is the only method.
- A header without a colon has an empty value; a line that begins with a space, a space or control character in a name,
  or a NUL or a lone CR anywhere is an error.
- Some headers may come only once. A body is announced by Content-Length or by Transfer-Encoding, never by both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gatewright.dev.messages import Headers, text_of
from gatewright.dev.nginx import TargetError, split_target, valid_host

__all__ = ["LINE_SIZE", "UNIQUE", "Incoming", "RefusedError", "RequestReader"]

LINE_SIZE: Final = 8192
"""The most that the request line, or one header, may have (`large_client_header_buffers`)."""
_FIRST_SIZE: Final = 1024  # client_header_buffer_size
_LARGE_BUFFERS: Final = 4
_MOST_LENGTH: Final = (1 << 63) - 1
_MOST_CHUNK: Final = _MOST_LENGTH // 16

_METHOD: Final = re.compile(rb"[A-Z_-]+")
_VERSION: Final = re.compile(rb"HTTP/([1-9][0-9]*)\.([0-9]+) *")
UNIQUE: Final = frozenset(
    (
        "host", "if-modified-since", "if-unmodified-since", "if-match", "if-none-match", "content-length",
        "content-range", "if-range", "transfer-encoding", "expect", "authorization",
    )
)  # fmt: skip
"""Headers that may come once only."""
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(;[^\n]*)?\r?\n")


class RefusedError(Exception):
    """The request is not one that nginx would take; the connection ends after the answer.

    Attributes:
        status: what nginx answers with; 494 is the code for too large headers, whose page says 400.
        version: the request's; an answer to HTTP/0.9 is the page alone.
        method: `HEAD` if it was that: no page then.
    """

    method = "GET"

    def __init__(self, status: int, reason: str, *, version: str = "1.1") -> None:
        super().__init__(reason)
        self.status = status
        self.version = version


@dataclass(slots=True)
class Incoming:
    """A request as it came.

    Attributes:
        version: `1.1`, `1.0` or `0.9`; any later minor version of 1 is as 1.1.
        framing: `none`, `content-length` or `chunked`.
        head: the request line and the headers, as they came.
        wire: the body, as it came.
        body_is_broken: the chunks are none: nginx finds that out when somebody reads the body. Nothing can follow.
    """

    method: str
    target: str
    version: str
    headers: Headers
    framing: str
    head: bytes
    body: bytes = b""
    wire: bytes = b""
    body_is_broken: bool = False

    def first(self, name: str) -> str | None:
        """A header's first value."""
        return next((value for present, value in self.headers if present.lower() == name), None)

    @property
    def expects_continue(self) -> bool:
        """The client waits for `100 Continue` before it sends the body."""
        return self.version == "1.1" and (self.first("expect") or "").lower() == "100-continue"

    @property
    def keeps_alive(self) -> bool:
        """The client wants the connection to stay open."""
        connection = next((v.lower() for n, v in reversed(self.headers) if n.lower() == "connection"), "")
        if "close" in connection or self.body_is_broken:
            return False
        return self.version == "1.1" or (self.version == "1.0" and "keep-alive" in connection)


class RequestReader:
    """The requests of one connection, one after the other."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._head: Incoming | None = None
        self._length = 0
        self._chunks = _Chunks()

    @property
    def waits_for_body(self) -> Incoming | None:
        """The request whose head has come and whose body hasn't."""
        return self._head

    @property
    def has_begun(self) -> bool:
        """Something of a request has come that is not whole yet."""
        return self._head is not None or bool(self._data)

    def receive_data(self, data: bytes) -> None:
        """Take bytes in as they came."""
        self._data += data

    def give_back(self, data: bytes) -> None:
        """Put bytes back before what comes next."""
        self._data[:0] = data

    def take_rest(self) -> bytes:
        """All that came and is no request."""
        rest = bytes(self._data)
        self._data.clear()
        return rest

    def forget_body(self) -> None:
        """Take the body that is awaited, and what has come of it, for the next request."""
        self._data[:0] = self._chunks.taken
        self._head, self._chunks = None, _Chunks()

    def next_request(self) -> Incoming | None:
        """The next request, whole; `None` until more has come.

        Raises:
            RefusedError: nginx would not take it. Nothing more can be read.
        """
        if self._head is None:
            is_head = self._data.lstrip(b"\r\n").startswith(b"HEAD ")
            try:
                self._head = self._read_head()
            except RefusedError as error:
                error.method = "HEAD" if is_head else "GET"
                raise
            if self._head is None:
                return None
        head = self._head
        if head.framing == "chunked":
            try:
                body = self._chunks.read(self._data)
            except RefusedError:
                body, head.body_is_broken = b"", True
                self._data.clear()
            if body is None:
                return None
            head.body, head.wire = body, bytes(self._chunks.taken)
            self._chunks = _Chunks()
        elif len(self._data) < self._length:
            return None
        else:
            head.body = head.wire = bytes(self._data[: self._length])
            del self._data[: self._length]
        self._head = None
        return head

    # --- the head

    def _read_head(self) -> Incoming | None:
        data = self._data
        skipped = len(data) - len(data.lstrip(b"\r\n"))
        del data[:skipped]
        end = data.find(b"\n")
        line = bytes(data[: end + 1] if end >= 0 else data)
        _check_request_line(line, whole=end >= 0)
        if end < 0:
            return None
        method, target, version = _request_line(line)
        self._length = 0
        if version == "0.9":
            del data[: end + 1]
            return Incoming(method, target, version, [], "none", line)
        room = _Buffers(len(line))
        headers: Headers = []
        at = end + 1
        while True:
            end = data.find(b"\n", at)
            line = bytes(data[at : end + 1] if end >= 0 else data[at:])
            room.add(len(line))
            if end < 0:
                return None
            at = end + 1
            if line in (b"\r\n", b"\n"):
                break
            headers.append(_header(line))
        head = bytes(data[:at])
        del data[:at]
        return self._checked(Incoming(method, target, version, headers, "none", head))

    def _checked(self, head: Incoming) -> Incoming:
        lower = [name.lower() for name, _ in head.headers]
        for name in UNIQUE.intersection(lower):
            if lower.count(name) > 1:
                raise RefusedError(400, f"client sent duplicate header line: {name}")
        host = head.first("host")
        if host is not None and not valid_host(host):
            raise RefusedError(400, "client sent invalid host header")
        if host is None and head.version == "1.1":
            raise RefusedError(400, 'client sent HTTP/1.1 request without "Host" header')
        length, encoding = head.first("content-length"), head.first("transfer-encoding")
        if length is not None:
            if not re.fullmatch("[0-9]+", length, re.ASCII) or int(length) > _MOST_LENGTH:
                raise RefusedError(400, 'client sent invalid "Content-Length" header')
            head.framing, self._length = "content-length", int(length)
        if encoding is not None:
            if head.version == "1.0":
                raise RefusedError(400, 'client sent HTTP/1.0 request with "Transfer-Encoding" header')
            if encoding.lower() != "chunked":
                raise RefusedError(501, f'client sent unknown "Transfer-Encoding": {encoding!r}')
            if length is not None:
                raise RefusedError(400, 'client sent "Content-Length" and "Transfer-Encoding" headers at the same time')
            head.framing = "chunked"
        if head.method in ("CONNECT", "TRACE"):
            raise RefusedError(405, f"client sent {head.method} method")
        return head


class _Buffers:
    """Nginx's buffers for a head: a small one, and a few large ones; a line is never divided between two."""

    def __init__(self, request_line: int) -> None:
        self._left = _FIRST_SIZE
        self._large = 0
        self._place(request_line)

    def _place(self, size: int) -> None:
        if size > self._left:
            self._left = LINE_SIZE
            self._large += 1
        self._left -= size

    def add(self, line: int) -> None:
        """Put a header's line into them, or as much of one as has come."""
        if line > LINE_SIZE:
            raise RefusedError(494, "client sent too long header line")
        self._place(line)
        if self._large > _LARGE_BUFFERS:
            raise RefusedError(494, "client sent too large request")


def _check_request_line(line: bytes, *, whole: bool) -> None:
    """Refuse what can be refused before the line has come whole."""
    if line and not _METHOD.match(line):
        raise RefusedError(400, "client sent invalid method")
    if len(line) > LINE_SIZE:
        raise RefusedError(414, "client sent too long URI")
    if not whole and any(byte < 0x20 and byte != 0x0D for byte in line):
        raise RefusedError(400, "client sent invalid request")


def _request_line(line: bytes) -> tuple[str, str, str]:
    """Method, target and version."""
    content = line[:-2] if line.endswith(b"\r\n") else line[:-1]
    method = _METHOD.match(content)
    if method is None or content[method.end() : method.end() + 1] != b" ":
        raise RefusedError(400, "client sent invalid method")
    target, _, rest = content[method.end() :].lstrip(b" ").partition(b" ")
    if any(byte < 0x20 or byte == 0x7F for byte in target):
        raise RefusedError(400, "client sent invalid request")
    try:
        split_target(text_of(target))
    except TargetError as error:
        raise RefusedError(400, f"client sent invalid request: {error}") from None
    rest = rest.lstrip(b" ")
    if not rest:
        if method[0] != b"GET":
            raise RefusedError(400, "client sent invalid method in HTTP/0.9 request", version="0.9")
        return method[0].decode(), text_of(target), "0.9"
    version = _VERSION.fullmatch(rest)
    if version is None:
        digits = re.match(rb"HTTP/([1-9][0-9]*)", rest)
        if digits is not None and int(digits[1]) > 1:
            raise RefusedError(505, "client sent invalid version")
        raise RefusedError(400, "client sent invalid request")
    if int(version[1]) > 1:
        raise RefusedError(505, "client sent invalid version")
    if int(version[2][:-1] or b"0") > 99:
        raise RefusedError(400, "client sent invalid request")
    return method[0].decode(), text_of(target), "1.1" if int(version[2]) else "1.0"


def _header(line: bytes) -> tuple[str, str]:
    content = line[:-1]
    content = content.rstrip(b"\r") if content.endswith(b"\r") else content
    name, colon, value = content.partition(b":")
    if not name or any(byte <= 0x20 or byte == 0x7F for byte in name):
        raise RefusedError(400, "client sent invalid header line")
    if colon and (b"\0" in value or b"\r" in value):
        raise RefusedError(400, "client sent invalid header line")
    return text_of(name), text_of(value.strip(b" "))


# --- bodies in chunks


class _Chunks:
    """A body in chunks."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._ended = False
        self.taken = bytearray()
        """All that was read, as it came."""

    def read(self, data: bytearray) -> bytes | None:
        """Take what has come out of `data`; gives the whole body once its end has come."""
        for part in self._chunks_of(data):
            self._parts.append(part)
        if not self._ended:
            return None
        return b"".join(self._parts)

    def _chunks_of(self, data: bytearray) -> Iterator[bytes]:
        while not self._ended:
            size_line = _CHUNK_SIZE.match(data)
            if size_line is None:
                _check_chunk_start(data)
                return
            size = int(size_line[1], 16)
            if size > _MOST_CHUNK:
                raise RefusedError(400, "client sent invalid chunked body")
            if not size:
                self._ended = self._end_of_trailers(data, size_line.end())
                return
            start = size_line.end()
            if len(data) < start + size + 1:
                return
            after = bytes(data[start + size : start + size + 2])
            if after[:1] == b"\n":
                end = 1
            elif after == b"\r\n":
                end = 2
            elif after == b"\r":
                return
            else:
                raise RefusedError(400, "client sent invalid chunked body")
            part = bytes(data[start : start + size])
            self.taken += data[: start + size + end]
            del data[: start + size + end]
            yield part

    def _end_of_trailers(self, data: bytearray, at: int) -> bool:
        while True:
            end = data.find(b"\n", at)
            if end < 0:
                return False
            line = bytes(data[at:end])
            at = end + 1
            if line in (b"", b"\r"):
                self.taken += data[:at]
                del data[:at]
                return True


def _check_chunk_start(data: bytearray) -> None:
    """Refuse what can't become the line before a chunk."""
    begun = bytes(data[: LINE_SIZE + 1])
    if (begun and not re.fullmatch(rb"[0-9A-Fa-f]+([ \t]*(;[^\n]*)?\r?)?", begun)) or len(begun) > LINE_SIZE:
        raise RefusedError(400, "client sent invalid chunked body")
