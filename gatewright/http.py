"""`Request` and `Response`, as plugins see them.

Handlers written as `async def` see a call through `Request` and `Response`; handlers written as `def` through
`SyncRequest` and `SyncResponse`, which have the same shape without awaits. All plugins of a chain share the one `Call`
that stands behind them, so mixing both kinds in a chain works.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol, overload

from gatewright.call import (
    REQUEST_BODY,
    RESPONSE_BODY,
    Asker,
    Call,
    CallSource,
    Question,
    Recipe,
    RequestCall,
    ResponseCall,
    find_header,
    follow,
    follow_sync,
)
from gatewright.datastructures import Headers, Query, check_sendable
from gatewright.errors import NotAvailableError
from gatewright.json_bodies import read_json

__all__ = [
    "REQUEST_BODY",
    "RESPONSE_BODY",
    "Asker",
    "Call",
    "CallSource",
    "Question",
    "Recipe",
    "Request",
    "RequestCall",
    "Response",
    "ResponseCall",
    "SyncRequest",
    "SyncResponse",
    "find_header",
]


@lru_cache(maxsize=4096)
def _address_text(raw: bytes) -> str:
    return str(ipaddress.ip_address(raw))


class _BaseRequest:
    """All of a request that needs no waiting."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    @property
    def id(self) -> int:
        """The gateway's number for this call; it comes again after some millions, so it's for logs only."""
        return self._call.source.id

    @property
    def conf_token(self) -> int:
        """The token under which the gateway knows the configuration; 0 with Kong."""
        return self._call.conf_token

    @property
    def method(self) -> str:
        """The method, e.g. `GET`."""
        return self._call.source.method

    @property
    def path(self) -> str:
        """The path, decoded, without the query; what was set last. Assign to send the request elsewhere.

        Assign a *decoded* path: the gateway escapes it. The query stays as it is.
        """
        path = self._call.path
        return path if path is not None else self._call.source.path

    @path.setter
    def path(self, path: str) -> None:
        if not isinstance(path, str):
            raise TypeError(f"a path is a str, not {type(path).__name__}")
        if not path.startswith("/"):
            raise ValueError(f"a path starts with '/', this one does not: {path!r}")
        if any(char in path for char in "\r\n\0"):
            raise ValueError(f"a path must not contain CR, LF or NUL: {path!r}")
        check_sendable(path, "a path")
        self._call.path = path
        self._call.asks = True

    @property
    def headers(self) -> Headers:
        """The request's headers. Changes reach the upstream."""
        headers = self._call.seen_headers
        return self._call.headers if headers is None else headers

    @property
    def query(self) -> Query:
        """The query's arguments. Changes reach the upstream."""
        return self._call.query

    @property
    def client_ip(self) -> str:
        """The client's address as text, IPv4 or IPv6."""
        raw = self._call.source.src_ip
        try:
            return _address_text(raw)
        except ValueError:
            raise NotAvailableError(f"the gateway sent no usable client address: {raw!r}") from None

    @property
    def route(self) -> str:
        """What the configuration belongs to, in the gateway's words; the same in all runners and after a reload.

        `route#1`, `route&consumer#1&jack` or `global_rule#1` with APISIX; with Kong the id of a route, service or
        consumer, or `global`.
        """
        if self._call.place is not None:
            return self._call.place
        place, apisix, _ = self._call.route.partition("#ext-plugin-")
        return place if apisix else place.partition("#")[2] or place

    @property
    def consumer(self) -> str | None:
        """The name of the consumer that the gateway, or a plugin before, has found to call; `None` for nobody.

        Before the gateway's own authentication it knows of none.
        """
        return self._call.consumer

    def set_consumer(self, name: str) -> None:
        """Tell the gateway who calls: what it knows of that consumer (plugins, limits) counts from then on.

        A consumer that the gateway doesn't know refuses the request.

        Raises:
            NotAvailableError: the gateway can't be told: that needs the lean path.
        """
        if not isinstance(name, str):
            raise TypeError(f"a consumer is a name, not {type(name).__name__}")
        if not name or any(char in name for char in "\r\n\0"):
            raise ValueError(f"this is no consumer's name: {name!r}")
        check_sendable(name, "a consumer's name")
        if not self._call.takes_consumer:
            raise NotAvailableError("this gateway can't be told who calls; over the lean path it can (docs/lean.md)")
        self._call.consumer_change = name

    @property
    def response_headers(self) -> Headers:
        """Headers to add to the answer that the client will get, without stopping the request.

        APISIX adds them before it asks the upstream: an upstream header of the same name is sent as well, and ten
        names are ignored (connection, content-encoding, content-language, content-length, content-location,
        content-type, location, server, transfer-encoding, www-authenticate).
        """
        return self._call.response_headers

    @property
    def ctx(self) -> dict[str, Any]:
        """A dict of the plugins' own, shared by all plugins of this call, and kept for those of the response phase.

        They get a copy, of plain data only: `None`, booleans, numbers, `str`, `bytes`, lists and dicts.
        """
        return self._call.ctx

    def set_body(self, body: bytes | str) -> None:
        """Send this body to the upstream instead of the client's. `str` is sent as UTF-8.

        The gateway has to be asked for the client's body first, which is done when the chain ends.
        """
        self._call.body = _content_of(body)
        self._call.asks = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"


class Request(_BaseRequest):
    """The request, for `async def` handlers."""

    __slots__ = ()

    async def body(self) -> bytes:
        """The client's body (or what was set last); empty where there is none. It is fetched once.

        Raises:
            NotAvailableError: there is, or may be, one that the gateway doesn't hand over; the message says why.
        """
        call = self._call
        if call.body is not None:
            return call.body
        if not call.body_was_read:
            call.read_body = await follow(call, REQUEST_BODY)
            call.body_was_read = True
        return call.read_body or b""

    async def json(self) -> Any:
        """The body, read as JSON.

        Raises:
            NotJsonError: it isn't: the client's fault, worth a 400.
            NotAvailableError: see `body`.
        """
        return read_json(await self.body(), "the request's body")

    async def var(self, name: str) -> str | None:
        """One of the gateway's variables (`request_uri`, `host`, `http_x_name`, ...); `None` where unknown."""
        value = await self._call.asker.ask(self._call, Question("var", name))
        return None if value is None else value.decode("utf-8", "surrogateescape")


class SyncRequest(_BaseRequest):
    """The request, for `def` handlers. Waiting for the gateway stops only this call, nobody else's."""

    __slots__ = ()

    def body(self) -> bytes:
        """The client's body (or what was set last); empty where there is none. It is fetched once.

        Raises:
            NotAvailableError: there is, or may be, one that the gateway doesn't hand over; the message says why.
        """
        call = self._call
        if call.body is not None:
            return call.body
        if not call.body_was_read:
            call.read_body = follow_sync(call, REQUEST_BODY)
            call.body_was_read = True
        return call.read_body or b""

    def json(self) -> Any:
        """The body, read as JSON.

        Raises:
            NotJsonError: it isn't: the client's fault, worth a 400.
            NotAvailableError: see `body`.
        """
        return read_json(self.body(), "the request's body")

    def var(self, name: str) -> str | None:
        """One of the gateway's variables (`request_uri`, `host`, `http_x_name`, ...); `None` where unknown."""
        value = self._call.asker.ask_sync(self._call, Question("var", name))
        return None if value is None else value.decode("utf-8", "surrogateescape")


def _content_of(body: object) -> bytes:
    """A body's bytes; nothing is guessed: `bytes(12)`, say, would be twelve NULs."""
    if isinstance(body, str):
        return body.encode("utf-8", "surrogateescape")
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise TypeError(f"a body is bytes or str, not {type(body).__name__}")


def _check_status(status: object) -> int:
    # With 1xx, or less, APISIX leaves the client waiting for ever.
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 999:
        raise ValueError(f"a response's status is a number from 200 to 999, not {status!r}")
    return status


class _BaseResponse:
    """All of a response that needs no waiting."""

    __slots__ = ("_call", "_content", "_headers", "_status")

    def __init__(
        self,
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        body: bytes | str = b"",
    ) -> None:
        """An answer of the plugin's own.

        Args:
            status: 200 to 999. A 3xx to 5xx without a body gets the gateway's own error page.
            headers: names and values; repeated names are kept apart.
            body: bytes, or text to be sent as UTF-8 (with `content-type: text/plain` unless `headers` say otherwise).

        Raises:
            ValueError: the status or a header can't be sent.
        """
        self._call: Call | None = None
        self._status = _check_status(status)
        self._headers = Headers(headers or ())
        self._content = _content_of(body)
        if isinstance(body, str) and body and "content-type" not in self._headers:
            self._headers["content-type"] = "text/plain; charset=utf-8"

    @property
    def status(self) -> int:
        """The status code. Assign 200 to 999 to change it."""
        call = self._call
        if call is None:
            return self._status
        if call.response_unseen and not call.status_change:
            raise NotAvailableError(
                "with `early_response = True` nothing of the answer can be looked at: the upstream was not asked yet"
            )
        return max(call.status_change, 0) or call.response_status

    @status.setter
    def status(self, status: int) -> None:
        if self._call is None:
            self._status = _check_status(status)
        else:
            self._call.status_change = _check_status(status)

    @property
    def headers(self) -> Headers:
        """The headers. What is not changed reaches the client as the upstream sent it."""
        return self._headers if self._call is None else self._call.response_headers

    @property
    def content(self) -> bytes:
        """The body of an answer of the plugin's own, or of an upstream's that has been read or replaced.

        Raises:
            NotAvailableError: the upstream's body has not been read yet; use `body()`.
        """
        call = self._call
        if call is None:
            return self._content
        content = call.response_body if call.response_body is not None else call.read_response_body
        if content is None:
            raise NotAvailableError("the upstream's body has not been read: use `await response.body()`")
        return content

    def set_body(self, body: bytes | str) -> None:
        """Replace the body. `str` is sent as UTF-8. Content-Length follows; Content-Encoding is yours to change."""
        content = _content_of(body)
        if self._call is None:
            self._content = content
        else:
            self._call.response_body = content

    def answers(self, call: Call) -> bool:
        """Whether this is the upstream's answer to that call, not one of the plugin's own."""
        return self._call is call

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status}>"


class _MakesJson(Protocol):
    def __call__(
        self,
        data: Any,
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> Response: ...


class _Json:
    """`json` of `Response`: of the class it makes an answer, of an answer it reads the body."""

    @overload
    def __get__(self, response: None, owner: type[Response]) -> _MakesJson: ...

    @overload
    def __get__(self, response: Response, owner: type[Response]) -> Callable[[], Coroutine[Any, Any, Any]]: ...

    def __get__(self, response: Response | None, owner: type[Response]) -> Any:
        if response is None:
            return partial(_json_answer, owner)
        return partial(_body_as_json, response)


def _json_answer(
    kind: type[Response],
    data: Any,
    status: int = 200,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
) -> Response:
    response = kind(status, headers, json.dumps(data, ensure_ascii=False).encode())
    if "content-type" not in response.headers:
        response.headers["content-type"] = "application/json"
    return response


async def _body_as_json(response: Response) -> Any:
    return read_json(await response.body(), "the response's body")


class Response(_BaseResponse):
    """An answer to the client: a plugin's own, or the upstream's on its way back (for `async def` handlers)."""

    __slots__ = ()

    @classmethod
    def of_call(cls, call: Call) -> Response:
        """The upstream's answer of a call in the response phase."""
        self = cls.__new__(cls)
        self._call = call
        return self

    json = _Json()
    """`Response.json(data, status, headers)` makes an answer with `data` as JSON and `content-type: application/json`;
    `await response.json()` is the body, read as JSON (raises `NotJsonError`)."""

    async def body(self) -> bytes:
        """The body. An upstream's is fetched from the gateway once.

        Raises:
            NotAvailableError: the gateway doesn't hand it over: it is over 16 MiB, or broke off.
        """
        call = self._call
        if call is not None and call.response_body is None and call.read_response_body is None:
            call.read_response_body = await follow(call, RESPONSE_BODY)
        return self.content


class SyncResponse(_BaseResponse):
    """The upstream's answer on its way back, for `def` handlers."""

    __slots__ = ()

    @classmethod
    def of_call(cls, call: Call) -> SyncResponse:
        """The upstream's answer of a call in the response phase."""
        self = cls.__new__(cls)
        self._call = call
        return self

    def body(self) -> bytes:
        """The body. An upstream's is fetched from the gateway once.

        Raises:
            NotAvailableError: the gateway doesn't hand it over: it is over 16 MiB, or broke off.
        """
        call = self._call
        if call is not None and call.response_body is None and call.read_response_body is None:
            call.read_response_body = follow_sync(call, RESPONSE_BODY)
        return self.content

    def json(self) -> Any:
        """The body, read as JSON.

        Raises:
            NotJsonError: it isn't.
            NotAvailableError: see `body`.
        """
        return read_json(self.body(), "the response's body")
