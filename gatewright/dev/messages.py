"""What passes between a development gateway, its clients and its upstreams.

Text is `str` with `surrogateescape`, so that every byte survives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = ["Answer", "ClientRequest", "Headers", "Tunnel", "Upload", "raw", "text_of"]

Headers = list[tuple[str, str]]


class Upload(NamedTuple):
    """A request's body once it has come.

    Attributes:
        body: it.
        is_broken: what should be the body in chunks is none.
        wire: it, as it came.
    """

    body: bytes
    is_broken: bool
    wire: bytes


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """What the client sent.

    `framing` is `none`, `content-length` or `chunked`, or `h2` for a body over HTTP/2 without a length.
    """

    method: str
    target: str
    headers: Headers
    client_ip: str
    version: str = "1.1"
    body: bytes = b""
    framing: str = "none"
    server_port: int = 9080
    server_addr: str = "127.0.0.1"
    client_port: int = 0
    keep_alive: bool = True
    """The client wants the connection to stay open."""
    head_size: int = 0
    """Bytes of the request line and the headers."""
    head: bytes = b""
    """These, over HTTP/1."""
    wire: bytes = b""
    """The body as it came: with its chunks, if it came in some."""
    body_is_broken: bool = False
    """What should be the body in chunks is none, which is found out when somebody reads it."""
    number: int = 1
    """Which of its connection's requests it is."""
    is_gone: Callable[[], bool] = lambda: False
    """Whether the client has closed its side meanwhile."""
    upload: Callable[[], Awaitable[Upload | None]] | None = None
    """Waits for the body; `None`: the client has gone. Where it has not come yet."""
    give_back: Callable[[bytes], None] = lambda _rest: None
    """Takes what of the body nobody reads: it's taken for the next request."""
    go_on: Callable[[], None] = lambda: None
    """Tells the client `100 Continue`, once."""


@dataclass(slots=True)
class Tunnel:
    """A connection to an upstream that client and upstream go on with in a protocol of their own.

    Attributes:
        reader: what the upstream sends.
        writer: what it's sent.
        begun: what it has sent already.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    begun: bytes = b""


@dataclass(slots=True)
class Answer:
    """What the client gets.

    `body` is `None` where nothing is printed; `page`: the gateway's own HTML page; `cut`: the upstream broke off in the
    middle, and the connection ends there; `status_line`: the upstream's own; `headless`: the body is
    all there is; `names_charset`: a type of text gets one; `method`: what the request's is by now;
    `goes_on`: after it the client is told to send its body, which is done away with;
    `mute`: nothing is printed, and nothing sent; `unended`: what Lua prints never ends, so that nginx keeps back what
    doesn't fill a buffer; `unframed`: its Content-Length is
    one that Lua has set or taken away, whatever the upstream's `sized` or `chunked` body has;
    `rewritten`: the body was put in the place of the upstream's; `began`: the status with which nginx began, before a
    plugin made it another; `untyped`: it has no type unless it's given one.
    """

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes | None = None
    framing: str = "chunked"
    page: bool = False
    close: bool = False
    cut: bool = False
    status_line: str | None = None
    headless: bool = False
    goes_on: bool = False
    mute: bool = False
    unended: bool = False
    unframed: Literal["", "sized", "chunked"] = ""
    names_charset: bool = True
    rewritten: bool = False
    began: int | None = None
    untyped: bool = False
    method: str | None = None
    server: str | None = None
    tunnel: Tunnel | None = None
    """What follows a 101."""


def raw(text: str) -> bytes:
    """The bytes of a text."""
    return text.encode("utf-8", "surrogateescape")


def text_of(data: bytes) -> str:
    """The text of bytes."""
    return data.decode("utf-8", "surrogateescape")
