"""`Response` and `SyncResponse`: an answer, the upstream's or a plugin's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Protocol, overload

from gatewright.bodies import content_of, read_json
from gatewright.call import RESPONSE_BODY, Call, follow, follow_sync
from gatewright.datastructures import Headers
from gatewright.errors import NotAvailableError

__all__ = ["Response", "SyncResponse"]


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
        self._headers = Headers(() if headers is None else headers)
        self._content = content_of(body)
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
        content = content_of(body)
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
    response = kind(status, headers, json.dumps(data, ensure_ascii=False, allow_nan=False).encode())
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
