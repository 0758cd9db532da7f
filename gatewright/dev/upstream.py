"""Requests to the upstream, byte for byte as APISIX sends them (how answers are read: `upstream_reader`).

The bytes of a request are put together here, since a client library would mend what a real gateway passes on: raw bytes
in a target or a header, names in the client's case.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Protocol

from gatewright.dev.messages import Headers, Tunnel, raw
from gatewright.dev.trail import body_form, current_trail
from gatewright.dev.upstream_reader import InvalidAnswerError, UpstreamAnswer, read_as_lua, read_as_nginx

__all__ = ["Sender", "UpstreamAnswer", "UpstreamError", "send_request"]


class UpstreamError(Exception):
    """The upstream could not be reached, or broke off before its answer began.

    Attributes:
        sent: it was reached, so that it may have the request.
        invalid: it has answered, but what came is no answer.
        late: it was not heard of for too long.
        unknown: its name is nobody's.
    """

    def __init__(
        self, reason: str, *, sent: bool = False, invalid: bool = False, late: bool = False, unknown: bool = False
    ) -> None:
        super().__init__(reason)
        self.sent = sent
        self.invalid = invalid
        self.late = late
        self.unknown = unknown


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
        connect: float | None = None,
        verify: bool = True,
        lua: bool = False,
        upgrade: bool = False,
        early_hints: bool = False,
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
    connect: float | None = None,
    verify: bool = True,
    lua: bool = False,
    upgrade: bool = False,
    early_hints: bool = False,
) -> UpstreamAnswer:
    """Send one request on a connection of its own and read the answer.

    Args:
        host: where to.
        port: where to.
        tls: over TLS.
        method: the request's method.
        target: its target, as it goes over the wire.
        headers: its headers.
        body: its body.
        timeout: seconds for which it may be silent.
        connect: seconds until it's reached; as many, unless told.
        verify: with TLS, check the certificate.
        lua: do so as lua-resty-http does, whose answer's body is read later; otherwise as nginx does, all of it.
        upgrade: the client wants another protocol: with a 101 the connection stays open, as a tunnel.
        early_hints: 103 is no answer, but before one.

    Raises:
        UpstreamError: no answer.
    """
    sent = False
    trail = current_trail()
    noted = trail.send(f"{host}:{port}", method, target, headers, body) if trail is not None else None
    try:
        async with asyncio.timeout(timeout if connect is None else connect):
            context = _tls_context(verify) if tls else None
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
        sent = True
        try:
            head = raw(f"{method} {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n")
            if lua:
                answer = await _ask_as_lua(reader, writer, method, head, headers, body, timeout)
            else:
                writer.write(head + body)
                answer = await read_as_nginx(reader, method, timeout, upgrade=upgrade, early_hints=early_hints)
        except BaseException:
            writer.close()
            raise
    except (OSError, EOFError, TimeoutError, UnicodeError, InvalidAnswerError) as error:
        reason = str(error) or type(error).__name__
        if noted is not None:
            noted.failed(reason)
        raise UpstreamError(
            reason, sent=sent, invalid=isinstance(error, InvalidAnswerError), late=isinstance(error, TimeoutError),
            unknown=isinstance(error, socket.gaierror | UnicodeError),
        ) from None  # fmt: skip

    def note() -> None:
        if noted is not None:
            body = b"".join(answer.parts) if lua else answer.body
            noted.answered(answer.status, answer.reason, answer.headers, body, complete=answer.complete)

    async def close() -> None:
        if lua and noted is not None:  # now that its body has been read
            noted.form["answer"]["body"] = body_form(b"".join(answer.parts))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    note()
    if answer.framing == "tunnel":
        answer.tunnel = Tunnel(reader, writer, answer.body)
        answer.body = b""
    elif lua:  # its body is read later
        answer.close = close
    else:
        await close()
    return answer


async def _ask_as_lua(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    head: bytes,
    headers: Headers,
    body: bytes,
    timeout: float,
) -> UpstreamAnswer:
    waits = any(name.lower() == "expect" and value == "100-continue" for name, value in headers)
    writer.write(head if waits else head + body)
    first = None
    if waits:  # the body is sent after a 100 only
        first = (await asyncio.wait_for(reader.readline(), timeout)).replace(b"\r", b"").removesuffix(b"\n")
        if first[9:12] == b"100":
            await reader.readline()
            writer.write(body)
            first = None
    return await read_as_lua(reader, method, timeout, status_line=first)


def _tls_context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
