"""What passes between a test and the gateway: requests and answers as HTTP/1.1, and the upstream's side."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus

import h11

from gatewright.datastructures import Headers, Query
from gatewright.dev.answers import response_head
from gatewright.dev.messages import Answer as GatewayAnswer
from gatewright.dev.messages import ClientRequest, raw, text_of
from gatewright.dev.nginx import parse_args, unescape
from gatewright.dev.reader import RequestReader
from gatewright.dev.trail import current_trail
from gatewright.dev.upstream import UpstreamAnswer, UpstreamError
from gatewright.errors import GatewayClosedError, GatewrightError
from gatewright.http import Response, SyncResponse
from gatewright.testing.handmade import body_bytes
from gatewright.testing.runs import CURRENT

__all__ = ["Pairs", "Upstream", "UpstreamRequest", "answer_parts", "client_request", "response_of", "sender_for"]

Pairs = Mapping[str, str] | Iterable[tuple[str, str]]

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def _pairs(pairs: Pairs | None) -> list[tuple[str, str]]:
    return [*(pairs.items() if isinstance(pairs, Mapping) else pairs or ())]


def _target(path: str, query: Pairs | str | None) -> str:
    target = quote(path, safe=_PRINTABLE, errors="surrogateescape")
    if query is None:
        return target
    text = query if isinstance(query, str) else "&".join(
        f"{quote_plus(name, errors='surrogateescape')}={quote_plus(value, errors='surrogateescape')}"
        for name, value in _pairs(query)
    )  # fmt: skip
    return f"{target}{'&' if '?' in target else '?'}{text}" if text else target


def client_request(
    method: str,
    path: str,
    *,
    headers: Pairs | None,
    query: Pairs | str | None,
    body: bytes | str | None,
    json_body: Any,
    client_ip: str,
) -> ClientRequest:
    """A request as it comes over HTTP/1.1.

    Args:
        method: the method.
        path: the target as a client writes it: `/a%20b?x=1`; what can't stand there is escaped.
        headers: names and values; Host, Content-Length and, with `json_body`, Content-Type are added where missing.
        query: arguments to be added, as names and values or as they are to be written.
        body: the body; `str` goes as UTF-8.
        json_body: something to send as JSON instead; `...` for nothing.
        client_ip: the client's address.

    Raises:
        RefusedError: the gateway would refuse it before any plugin sees it.
        ValueError: it is none that a client could send.
    """
    if body is not None and json_body is not ...:
        raise ValueError("`body` and `json` are given: say one")
    if not path.startswith(("/", "http://", "https://")) and path != "*":
        raise ValueError(f"a path begins with /, and {path!r} doesn't")
    entries = _pairs(headers)
    names = {name.lower() for name, _ in entries}
    if json_body is not ...:
        body = json.dumps(json_body, ensure_ascii=False)
        if "content-type" not in names:
            entries.append(("Content-Type", "application/json"))
    content = body_bytes(body)
    if "host" not in names:
        entries.insert(0, ("Host", "gateway.test"))
    if "transfer-encoding" in names:
        content = (b"%x\r\n%s\r\n" % (len(content), content) if content else b"") + b"0\r\n\r\n"
    elif body is not None and "content-length" not in names:
        entries.append(("Content-Length", str(len(content))))
    for name, value in entries:
        if not isinstance(value, str):
            raise TypeError(f"the value of header {name!r} must be str, not {type(value).__name__}")
        if re.search(r"[\r\n\0]", name + value):
            raise ValueError(f"a client can't send the header {name!r} with the value {value!r}")
    head = f"{method} {_target(path, query)} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in entries) + "\r\n"
    reader = RequestReader()
    reader.receive_data(raw(head) + content)
    incoming = reader.next_request()
    if incoming is None:
        raise ValueError(f"the body has {len(content)} bytes, and is announced as longer: the gateway would wait")
    return ClientRequest(
        method=incoming.method, target=incoming.target, headers=incoming.headers, client_ip=client_ip,
        version=incoming.version, body=incoming.body, framing=incoming.framing, keep_alive=incoming.keeps_alive,
        head_size=len(incoming.head), body_is_broken=incoming.body_is_broken,
    )  # fmt: skip


def answer_parts(
    answer: GatewayAnswer, request: ClientRequest, *, server: str, charset: bool
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body as a client reads them.

    Args:
        answer: the gateway's answer.
        request: what was asked.
        server: what the gateway calls itself.
        charset: see `response_head`.

    Raises:
        GatewayClosedError: the client gets no answer, or half of one.
    """
    if answer.status < 200:
        raise GatewayClosedError(f"the gateway closes the connection without an answer (status {answer.status})")
    line, headers, body = response_head(answer, request, server, charset=charset)
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=request.method, target="/", headers=[("host", "gateway")]))
    parser.send(h11.EndOfMessage())
    head = f"{line}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    parser.receive_data(raw(head) + body)
    parser.receive_data(b"")
    chunks: list[bytes] = []
    got: list[tuple[str, str]] = []
    status = 0
    try:
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
                got = [(text_of(name), text_of(value)) for name, value in event.headers.raw_items()]
            elif isinstance(event, h11.Data):
                chunks.append(bytes(event.data))
    except h11.RemoteProtocolError as error:
        raise GatewayClosedError(f"the client can't read the gateway's answer: {error}") from None
    return status, got, b"".join(chunks)


# --- the upstream's side


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What the upstream was sent.

    Attributes:
        method: the method.
        target: the target as it was written: path and query, escaped.
        headers: all headers.
        body: the body.
    """

    method: str
    target: str
    headers: Headers
    body: bytes

    @property
    def path(self) -> str:
        """The path, decoded."""
        return unescape(self.target.partition("?")[0])

    @property
    def query(self) -> Query:
        """The arguments, decoded; one without `=` as an empty text."""
        args = parse_args(self.target.partition("?")[2])
        return Query([(name, value or "") for name, values in args.items() for value in values])

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


Reply = Response | SyncResponse | bytes | str | int | None
Upstream = Callable[[UpstreamRequest], "Reply | Awaitable[Reply] | Any"] | Response
"""What stands for the upstream: a function (or `async` one) of the request, or an answer for all requests."""


def sender_for(upstream: Upstream | None) -> Any:
    """What sends requests to a test's upstream instead of over a network (see `gatewright.dev.upstream.Sender`)."""

    async def send(
        host: str,
        port: int,
        *,
        tls: bool,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes,
        timeout: float = 60.0,
        connect: float | None = None,
        verify: bool = True,
        lua: bool = False,
        upgrade: bool = False,
        early_hints: bool = False,
    ) -> UpstreamAnswer:
        visit = CURRENT.get()
        request = UpstreamRequest(method, target, Headers(headers), body)
        visit.upstream.append(request)
        trail = current_trail()
        noted = trail.send(f"{host}:{port}", method, target, headers, body) if trail is not None else None
        try:
            result = upstream(request) if callable(upstream) else upstream
            if inspect.isawaitable(result):
                result = await result
            answer = _answer_of(response_of(result), method)
            if noted is not None:
                noted.answered(answer.status, answer.reason, answer.headers, answer.body, complete=True)
            return answer
        except (OSError, GatewrightError) as error:
            if noted is not None:
                noted.failed(str(error) or type(error).__name__)
            raise UpstreamError(str(error) or type(error).__name__, sent=True) from error
        except Exception as error:
            visit.failed = error
            raise UpstreamError(f"the test's upstream raised {type(error).__name__}: {error}") from error

    return send


def response_of(result: Any) -> Response | SyncResponse:
    """What an upstream function returned, as a response."""
    if isinstance(result, Response | SyncResponse):
        return result
    if result is None:
        return Response(200, {"content-type": "text/plain"}, b"hello from the upstream\n")
    if isinstance(result, bool):
        raise TypeError("an upstream gives a Response, a status, bytes, text, or something for JSON, not a bool")
    if isinstance(result, int):
        return Response(result)
    if isinstance(result, bytes | str):
        return Response(200, None, result)
    return Response.json(result)


def _answer_of(response: Response | SyncResponse, method: str) -> UpstreamAnswer:
    headers = list(response.headers.multi_items())
    body = response.content
    names = {name.lower() for name, _ in headers}
    if method == "HEAD" or response.status in (204, 304):
        return UpstreamAnswer(response.status, "", headers, b"", "none")
    if "transfer-encoding" in names:
        return UpstreamAnswer(response.status, "", headers, body, "chunked")
    if "content-length" not in names:
        headers.append(("content-length", str(len(body))))
    return UpstreamAnswer(response.status, "", headers, body, "content-length")
