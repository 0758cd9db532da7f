"""Requests and responses made by hand, to call a handler with: no gateway, no chain.

request = Request(headers={"x-user": "ann"})
assert await Greet({"greeting": "hi"}).on_request(request) is None
assert request.changes.headers == {"x-greeting": ("hi",)}
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import unquote_plus

import gatewright
from gatewright.call import Call, CallSource, Question, Recipe, RequestCall, ResponseCall
from gatewright.datastructures import Headers, Query
from gatewright.testing.changes import Changes

__all__ = ["Request", "Response", "SyncRequest", "SyncResponse", "body_bytes"]

Pairs = Mapping[str, str] | Iterable[tuple[str, str]]
Entries = list[tuple[str, "str | None"]]


def _entries(pairs: Pairs | None) -> Entries:
    return [*(pairs.items() if isinstance(pairs, Mapping) else pairs or ())]


def _query(query: Pairs | str | None) -> Entries:
    if not isinstance(query, str):
        return list(Query(query or ()).multi_items())
    parts = (part.partition("=") for part in query.removeprefix("?").split("&") if part)
    return [(unquote_plus(name), unquote_plus(value) if equals else None) for name, equals, value in parts]


def body_bytes(body: bytes | str | None) -> bytes:
    """A body as bytes: text goes as UTF-8.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(body, str):
        return body.encode("utf-8", "surrogateescape")
    if body is not None and not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"a body is bytes or str, not {type(body).__name__} (a test client sends JSON with `json=`)")
    return bytes(body or b"")


class _Source:
    """See `gatewright.call.CallSource`."""

    headers_at_hand = True
    id = 0

    def __init__(self, method: str, path: str, headers: Entries, query: Entries, client_ip: str) -> None:
        self.method, self.path = method, path
        self._headers, self._query = headers, query
        self.src_ip = ipaddress.ip_address(client_ip).packed

    def read_args(self) -> Entries:
        return self._query

    def read_headers(self) -> Entries:
        return [(name.lower(), value) for name, value in self._headers]

    def header_values(self, name: str) -> Sequence[str | None] | None:
        """See `CallSource`."""
        return None

    def may_have_alike(self, names: tuple[str, ...]) -> bool:
        """See `CallSource`."""
        return True

    def has_header(self, name: str) -> bool:
        return any(name == present for present, _ in self.read_headers())


class _Gateway:
    """Answers what a handler asks (see `gatewright.call.Asker`), from what the test said."""

    is_over = False

    def __init__(self, body: bytes, variables: Mapping[str, str], response_body: bytes = b"") -> None:
        self._bodies = {"request_body": body, "response_body": response_body}
        self._variables = variables

    def _answer(self, question: Question) -> bytes | None:
        if question.kind in self._bodies:
            return self._bodies[question.kind]
        value = self._variables.get(question.name)
        return None if value is None else body_bytes(value)

    def ask(self, _: Call, question: Question) -> Awaitable[bytes | None]:
        async def answer() -> bytes | None:
            return self._answer(question)

        return answer()

    def ask_sync(self, _: Call, question: Question) -> bytes | None:
        return self._answer(question)

    def ask_here(self, _: Call, questions: Sequence[Question]) -> list[bytes | None]:
        return [self._answer(question) for question in questions]

    def reading(self, _: Call, question: Question) -> Recipe[bytes]:
        return (yield question) or b""

    def find_header(self, _: Headers, name: str) -> str | None:
        return None


def _check_type(source: CallSource) -> CallSource:
    return source


class _Made(Protocol):
    _call: Call


class _RequestExtras:
    """What a request made by hand can be asked afterwards."""

    __slots__ = ()

    @property
    def changes(self: _Made) -> Changes:
        """What handlers changed."""
        return Changes.of(self._call)

    @property
    def body_sent(self: _Made) -> bytes:
        """The body that goes to the upstream."""
        return self._call.body if self._call.body is not None else self._call.asker.ask_sync(
            self._call, Question("request_body")
        ) or b""  # fmt: skip


def _request_call(
    method: str,
    path: str,
    headers: Pairs | None,
    query: Pairs | str | None,
    body: bytes | str,
    client_ip: str,
    variables: Mapping[str, str] | None,
    ctx: dict[str, Any] | None,
) -> RequestCall:
    path, mark, rest = path.partition("?")
    if mark and query is not None:
        raise ValueError("the query is in `path` and in `query`: say it once")
    Headers(headers or ())  # what is no header is refused
    source = _Source(method, path, _entries(headers), _query(rest if mark else query), client_ip)
    call = RequestCall(_check_type(source), 0)
    call.asker = _Gateway(body_bytes(body), variables or {})
    call.kept_ctx = ctx
    return call


class Request(_RequestExtras, gatewright.Request):
    """A request made by hand, for `async def` handlers."""

    __slots__ = ()

    def __init__(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: Pairs | None = None,
        query: Pairs | str | None = None,
        body: bytes | str = b"",
        client_ip: str = "127.0.0.1",
        variables: Mapping[str, str] | None = None,
        ctx: dict[str, Any] | None = None,
    ) -> None:
        """Make a request.

        Args:
            method: its method.
            path: its path, decoded; it may have a query (`/x?a=1`).
            headers: names and values; pairs for names that come more than once.
            query: its arguments, as names and values or as text (`a=1&z`).
            body: what `await request.body()` gives.
            client_ip: the client's address.
            variables: what `await request.var(name)` gives, by name.
            ctx: what plugins before have left in `request.ctx`.
        """
        super().__init__(_request_call(method, path, headers, query, body, client_ip, variables, ctx))


class SyncRequest(_RequestExtras, gatewright.SyncRequest):
    """A request made by hand, for `def` handlers."""

    __slots__ = ()

    def __init__(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: Pairs | None = None,
        query: Pairs | str | None = None,
        body: bytes | str = b"",
        client_ip: str = "127.0.0.1",
        variables: Mapping[str, str] | None = None,
        ctx: dict[str, Any] | None = None,
    ) -> None:
        """Make a request; see `Request`."""
        super().__init__(_request_call(method, path, headers, query, body, client_ip, variables, ctx))


def _response_call(status: int, headers: Pairs | None, body: bytes | str) -> ResponseCall:
    gatewright.Response(status, headers, body)  # what can't be sent is refused
    entries = _entries(headers)
    call = ResponseCall(_Source("GET", "/", [], [], "127.0.0.1"), 0)
    call.response_status = status
    call.response_source = lambda: list(entries)
    call.asker = _Gateway(b"", {}, body_bytes(body))
    return call


class _ResponseExtras:
    """What a response made by hand can be asked afterwards."""

    __slots__ = ()

    @property
    def changes(self: Any) -> Changes:
        """What handlers changed."""
        return Changes.of(self._call)

    @property
    def content(self: Any) -> bytes:
        """The body: of a response made by hand, it is always there."""
        body: bytes = self.body_sent
        return body

    @property
    def body_sent(self: Any) -> bytes:
        """The body that goes to the client."""
        call: Call = self._call
        if call.response_body is not None:
            return call.response_body
        return call.asker.ask_sync(call, Question("response_body")) or b""


class Response(_ResponseExtras, gatewright.Response):
    """An upstream's answer made by hand, for the `on_response` of `async def` handlers."""

    __slots__ = ()

    def __init__(self, status: int = 200, headers: Pairs | None = None, body: bytes | str = b"") -> None:
        """Make an answer.

        Args:
            status: its status, 200 to 999.
            headers: names and values; pairs for names that come more than once.
            body: what `await response.body()` gives.
        """
        self._call = _response_call(status, headers, body)


class SyncResponse(_ResponseExtras, gatewright.SyncResponse):
    """An upstream's answer made by hand, for the `on_response` of `def` handlers."""

    __slots__ = ()

    def __init__(self, status: int = 200, headers: Pairs | None = None, body: bytes | str = b"") -> None:
        """Make an answer; see `Response`."""
        self._call = _response_call(status, headers, body)
