"""Answers of upstreams, read as the two readers of APISIX read them: what one takes, the other may not.

- nginx's own (`proxy_pass`): `ngx_http_parse_status_line`, `ngx_http_parse_header_line`, and what `ngx_http_upstream`
  makes of some headers. What has no status line is HTTP/0.9, and all of it the body.
- lua-resty-http's, for the request of ext-plugin-post-resp: a header is whatever a regular expression finds in a line,
  the first line in which it finds nothing ends them, and the body is read when somebody wants it.

Neither looks for an answer behind a 1xx one, but that later nginx goes on after 103 Early Hints.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from gatewright.dev.messages import Headers, Tunnel, text_of

__all__ = ["InvalidAnswerError", "LuaBody", "UpstreamAnswer", "read_as_lua", "read_as_nginx"]

_READ: Final = 1 << 16
_STATUS_LINE: Final = re.compile(rb"HTTP/[1-9][0-9]?\.[0-9]{1,2} +([0-9]{3})([ .][^\r\n]*)?\r?\n")
_ODD_IN_NAMES: Final = re.compile(rb"[\0-\x20\x7f]")
_UNIQUE: Final = frozenset(
    (
        "status", "content-type", "date", "last-modified", "etag", "server", "location", "refresh", "expires",
        "x-accel-expires", "x-accel-redirect",
    )
)  # fmt: skip
"""Headers of which nginx takes the first and leaves others out."""
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[^\n]*)?\r?\n")
_CHUNK_LINE_BEGUN: Final = re.compile(rb"(?:[0-9A-Fa-f]+[ \t]*(?:;[^\n]*)?\r?)?")
_MOST_OF_A_HEAD: Final = 4096  # proxy_buffer_size
_BUFFER: Final = 4096  # each of proxy_buffers
_NEGATIVE: Final = (
    b"/usr/local/apisix//deps/share/lua/5.1/resty/http.lua:637: bad argument #1 to 'receive' (bad number argument)"
)
"""What lua-resty-http takes for the body where a Content-Length is below 0: what Lua says of it."""
_LUA_HEADER: Final = re.compile(rb"([^:\s]+):\s*(.*)")


class InvalidAnswerError(Exception):
    """What came is no answer. Nothing is gained by asking again."""


@dataclass(slots=True)
class UpstreamAnswer:
    """Status, headers in wire order, body.

    Attributes:
        reason: the words after the status.
        framing: `content-length`, `chunked`, `close` or `none`; `raw` if there is no head, just bytes; `tunnel` if what
            follows is none of HTTP.
        complete: all of the body came.
        garbled: the body's chunks are none.
        parts: the body as lua-resty-http gives it.
        rest: the body, where it's yet to be read.
        status_line: the status and what follows it, as it came.
        close: to be called when no more is wanted.
        tunnel: what follows a 101.
        hinted: there were early hints before it; what was set for the client by then nginx has taken away with them.
    """

    status: int
    reason: str
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    framing: str = "none"
    complete: bool = True
    garbled: bool = False
    parts: list[bytes] = field(default_factory=list)
    rest: LuaBody | None = None
    status_line: str = ""
    close: Callable[[], Awaitable[None]] | None = None
    tunnel: Tunnel | None = None
    hinted: bool = False

    def __post_init__(self) -> None:
        if self.body or self.framing == "content-length":
            self.parts = [self.body]

    def first(self, name: str) -> str | None:
        """A header's first value."""
        return next((value for present, value in self.headers if present.lower() == name), None)


# --- nginx


async def read_as_nginx(
    reader: asyncio.StreamReader,
    method: str,
    silence: float = 60.0,
    *,
    upgrade: bool = False,
    early_hints: bool = False,
) -> UpstreamAnswer:
    """Read a whole answer.

    Args:
        reader: the connection.
        method: what was asked for.
        silence: seconds after which no more is awaited.
        upgrade: after a 101, nothing is read any more.
        early_hints: skip a 103, as later ones do that aren't told to pass it on; one that has come with another is an
            answer to them.

    Raises:
        InvalidAnswerError: nginx calls it invalid.
        EOFError: the connection ended before the headers did.
        TimeoutError: nothing came for too long, before the headers had come.
    """
    source = _Source(reader, silence)
    hinted = False
    while True:
        comes_along = hinted and source.has_head
        line = await source.line()
        status = _STATUS_LINE.fullmatch(line)
        if not early_hints or status is None or status[1] != b"103" or comes_along:
            break
        await _skip_hints(source, line)
        hinted = True
    if status is None:
        if source.fell_silent or not line or (line.startswith(b"HTTP/") and not line.endswith(b"\n")):
            raise source.end_of_head()
        return UpstreamAnswer(200, "OK", [], line + await source.all(), "raw")
    answer = UpstreamAnswer(int(status[1]), text_of(status[2] or b"").strip())
    answer.hinted = hinted
    answer.status_line = text_of(status[1] + (status[2] or b""))
    while (line := await source.line()).rstrip(b"\r\n"):
        if not line.endswith(b"\n"):
            raise source.end_of_head()
        if not line.startswith(b"HTTP/"):
            answer.headers.append(_nginx_header(line))
    if not line.endswith(b"\n"):
        raise source.end_of_head()
    if source.taken > _MOST_OF_A_HEAD:
        raise InvalidAnswerError("upstream sent too big header")
    answer.framing = _nginx_framing(answer, method)
    if upgrade and answer.status == 101:
        answer.framing, answer.body = "tunnel", source.rest()
        return answer
    head = source.taken
    await _nginx_body(source, answer)
    if source.fell_silent:  # what doesn't fill a buffer is lost
        answer.complete = False
        answer.body = answer.body[: max((head + len(answer.body)) // _BUFFER * _BUFFER - head, 0)]
    return answer


async def _skip_hints(source: _Source, line: bytes) -> None:
    if line.startswith(b"HTTP/1.0"):
        raise InvalidAnswerError("upstream sent HTTP/1.0 response with early hints")
    while (line := await source.line()).rstrip(b"\r\n"):
        if not line.endswith(b"\n"):
            raise source.end_of_head()
        _nginx_header(line)
    if source.taken > _MOST_OF_A_HEAD:
        raise InvalidAnswerError("upstream sent too big header")
    source.taken = 0


def _nginx_header(line: bytes) -> tuple[str, str]:
    line = line[:-1].removesuffix(b"\r")
    name, _, value = line.partition(b":")
    if not name or _ODD_IN_NAMES.search(name) or b"\0" in value or b"\r" in value.rstrip(b"\r"):
        raise InvalidAnswerError(f"upstream sent invalid header: {line[:100]!r}")
    return text_of(name), text_of(value.rstrip(b"\r").strip(b" "))


def _nginx_framing(answer: UpstreamAnswer, method: str) -> str:
    """How the body is framed; headers of which there may be one are one afterwards."""
    kept: Headers = []
    seen: set[str] = set()
    for name, value in answer.headers:
        lower = name.lower()
        if lower in ("content-length", "transfer-encoding"):
            if lower in seen:
                raise InvalidAnswerError(f"upstream sent duplicate header line: {name}")
            if lower == "content-length" and not re.fullmatch("[0-9]{1,18}", value):
                raise InvalidAnswerError(f"upstream sent invalid Content-Length header: {value}")
            if lower == "transfer-encoding" and value.lower() != "chunked":
                raise InvalidAnswerError(f"upstream sent unknown Transfer-Encoding: {value}")
        elif lower in _UNIQUE and lower in seen:
            continue
        seen.add(lower)
        kept.append((name, value))
    if seen >= {"content-length", "transfer-encoding"}:
        raise InvalidAnswerError("upstream sent Content-Length and Transfer-Encoding headers at the same time")
    answer.headers = kept
    if answer.status in (204, 304) or method == "HEAD":
        return "none"
    return "chunked" if "transfer-encoding" in seen else "content-length" if "content-length" in seen else "close"


async def _nginx_body(source: _Source, answer: UpstreamAnswer) -> None:
    if answer.framing == "content-length":
        length = int(answer.first("content-length") or 0)
        answer.body = await source.exactly(length)
        answer.complete = len(answer.body) == length
    elif answer.framing == "close":
        answer.body = await source.all()
    elif answer.framing == "chunked":
        parts = []
        while True:
            line = await source.line()
            size = _CHUNK_LINE.fullmatch(line)
            if size is None:
                answer.garbled, answer.complete = _CHUNK_LINE_BEGUN.fullmatch(line) is None, False
                break
            length = int(size[1], 16)
            if not length:
                while (line := await source.line()).rstrip(b"\r\n"):  # a trailer, which goes no further
                    pass
                answer.complete = line.endswith(b"\n")
                break
            parts.append(await source.exactly(length))
            if len(parts[-1]) < length or (end := await source.line()) == b"":
                answer.complete = False
                break
            if end not in (b"\r\n", b"\n"):
                answer.garbled, answer.complete = True, False
                break
        answer.body = b"".join(parts)


# --- lua-resty-http


async def read_as_lua(
    reader: asyncio.StreamReader, method: str, silence: float = 60.0, *, status_line: bytes | None = None
) -> UpstreamAnswer:
    """Read an answer's head; its body is `rest`.

    Args:
        reader: the connection.
        method: what was asked for.
        silence: seconds after which no more is awaited.
        status_line: the status line, where it was read before.

    Raises:
        InvalidAnswerError: there is no status line.
        EOFError: the connection ended before the headers did.
    """
    source = _Source(reader, silence)
    line = _lua_line(await source.line()) if status_line is None else status_line
    version, status = _lua_number(line[5:8]), _lua_number(line[9:12])
    if version is None or status is None:
        raise InvalidAnswerError(f"couldn't parse response status line: {line[:100]!r}")
    headers: dict[str, tuple[str, list[str]]] = {}
    while (found := _LUA_HEADER.search(_lua_line(await source.line()))) is not None:
        name, value = text_of(found[1]), text_of(found[2])
        headers.setdefault(name.lower(), (name, []))[1].append(value)
    answer = UpstreamAnswer(int(status), text_of(line[13:]))
    answer.headers = [(name, value) for name, values in headers.values() for value in values]
    length: int | None = None
    if method == "HEAD" or answer.status in (204, 304) or 100 <= answer.status < 200:
        answer.framing = "none"
    elif version == 1.1 and "chunked" in ",".join(headers.get("transfer-encoding", ("", []))[1]).lower():
        answer.framing = "chunked"
    else:
        lengths = headers.get("content-length", ("", []))[1]
        said = lengths[0].strip(" \t\v\f").encode("utf-8", "replace") if len(lengths) == 1 else b""
        number = _lua_number(said.removeprefix(b"-"))
        length = None if number is None else int(-number if said.startswith(b"-") else number)
        answer.framing = "close" if length is None else "content-length"
    answer.rest = LuaBody(source, answer.framing, length)
    return answer


class LuaBody:
    """The body of an answer that lua-resty-http reads; once.

    Attributes:
        parts: what it gave.
        failed: it ended with an error.
    """

    def __init__(self, source: _Source, framing: str, length: int | None) -> None:
        self._source = source
        self._framing = framing
        self._length = length
        self._read = False
        self.parts: list[bytes] = []
        self.failed = False

    async def read(self) -> None:
        """Read all of it; a second time, nothing comes."""
        self.parts = []
        if self._read:
            self.failed = False
            return
        self._read = True
        if self._framing == "close":
            self.parts = [await self._source.all()]
            self.failed = self._source.fell_silent
        elif self._framing == "content-length" and (self._length or 0) < 0:
            self.parts = [_NEGATIVE]
        elif self._framing == "content-length":
            body = await self._source.exactly(self._length or 0)
            if len(body) < (self._length or 0):
                self.failed = True
            else:
                self.parts = [body]
        elif self._framing == "chunked":
            await self._read_chunks()

    async def _read_chunks(self) -> None:
        while True:
            line = await self._source.line()
            number = _lua_number(_lua_line(line), 16) if line.endswith(b"\n") else None
            if number is None:
                self.failed = True
                return
            if not number:
                return
            chunk = await self._source.exactly(int(number))
            if len(chunk) < number:
                self.failed = True
                return
            self.parts.append(chunk)
            await self._source.exactly(2)


def _lua_line(line: bytes) -> bytes:
    """A line as a cosocket gives it: without any CR; what ends without LF is an error."""
    if not line.endswith(b"\n"):
        raise EOFError("closed")
    return line[:-1].replace(b"\r", b"")


def _lua_number(text: bytes, base: int = 10) -> float | None:
    """Lua's `tonumber`, as far as it matters here."""
    word = text.strip(b" \t\v\f")
    if base == 16:
        return float(int(word, 16)) if re.fullmatch(rb"(?:0[xX])?[0-9A-Fa-f]+", word) else None
    if re.fullmatch(rb"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", word):
        return float(word)
    return float(int(word, 16)) if re.fullmatch(rb"0[xX][0-9A-Fa-f]+", word) else None


class _Source:
    """Lines and bytes from a connection; at its end, or when it falls silent, what there is."""

    def __init__(self, reader: asyncio.StreamReader, silence: float) -> None:
        self._reader = reader
        self._silence = silence
        self._data = bytearray()
        self.taken = 0
        self.fell_silent = False

    def end_of_head(self) -> Exception:
        """Why there is no head."""
        if self.fell_silent:
            return TimeoutError("upstream timed out")
        return EOFError("upstream prematurely closed connection while reading response header")

    async def line(self) -> bytes:
        """Up to and with the next LF."""
        while (end := self._data.find(b"\n")) < 0 and await self._more():
            pass
        return self._take(end + 1 if end >= 0 else len(self._data))

    async def exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self._data) < size and await self._more():
            pass
        return self._take(min(size, len(self._data)))

    async def all(self) -> bytes:
        """All up to the end."""
        while await self._more():
            pass
        return self._take(len(self._data))

    @property
    def has_head(self) -> bool:
        """A whole head has come already."""
        return re.search(rb"\n\r?\n", self._data) is not None

    def rest(self) -> bytes:
        """What has come already."""
        return self._take(len(self._data))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._data[:size])
        del self._data[:size]
        self.taken += size
        return taken

    async def _more(self) -> bool:
        if self.fell_silent:
            return False
        try:
            async with asyncio.timeout(self._silence):
                data = await self._reader.read(_READ)
        except TimeoutError:
            self.fell_silent, data = True, b""
        except ConnectionError:  # to both readers a reset is an end
            data = b""
        self._data += data
        return bool(data)
