"""`Request` of the plugin guide."""

from __future__ import annotations

from collections.abc import Mapping

from gatewright import http
from gatewright.datastructures import Headers, Query
from gatewright.errors import NotAvailableError

__all__ = ["Request"]


class Request:
    """The request: `path`, `method`, `headers`, `args`, `body`, `remote_addr`. Without a call, one for unit tests."""

    def __init__(self, request: http.Request | http.SyncRequest | None = None) -> None:
        self._request = request
        self._headers = Headers()
        self._args = Query()
        self._path = "/"
        self._method = "GET"
        self._remote_addr = "127.0.0.1"
        self._body: bytes | str | None = None

    @property
    def headers(self) -> Headers:
        """The headers, names in any case. Changes reach the upstream; a dict may be assigned."""
        return self._headers if self._request is None else self._request.headers

    @headers.setter
    def headers(self, headers: Mapping[str, str]) -> None:
        if self._request is None:
            self._headers = Headers(headers)
        else:
            self._request.headers.replace(headers)

    @property
    def args(self) -> Query:
        """The query's arguments. Changes reach the upstream; a dict may be assigned."""
        return self._args if self._request is None else self._request.query

    @args.setter
    def args(self, args: Mapping[str, str]) -> None:
        if self._request is None:
            self._args = Query(args)
        else:
            self._request.query.replace(args)

    @property
    def path(self) -> str:
        """The path without the query; assign to send the request elsewhere."""
        return self._path if self._request is None else self._request.path

    @path.setter
    def path(self, path: str) -> None:
        if self._request is None:
            self._path = path
        else:
            self._request.path = path

    @property
    def method(self) -> str:
        """The method."""
        return self._method if self._request is None else self._request.method

    @method.setter
    def method(self, method: str) -> None:
        self._refuse_in_call("method")
        self._method = method

    @property
    def remote_addr(self) -> str:
        """The client's address."""
        return self._remote_addr if self._request is None else self._request.client_ip

    @remote_addr.setter
    def remote_addr(self, address: str) -> None:
        self._refuse_in_call("remote_addr")
        self._remote_addr = address

    @property
    def body(self) -> str | bytes:
        """The body as text; bytes that are not UTF-8 survive as surrogates. Assign to send another."""
        if self._body is None:
            if isinstance(self._request, http.SyncRequest):
                self._body = self._request.body().decode("utf-8", "surrogateescape")
            elif self._request is not None:
                raise NotAvailableError("in filter_async the body has to be awaited: `await request.read_body()`")
        return self._body or ""

    @body.setter
    def body(self, body: str | bytes) -> None:
        self._body = body
        if self._request is not None:
            self._request.set_body(body)

    async def read_body(self) -> str | bytes:
        """The body, in `filter_async`."""
        if self._body is None and isinstance(self._request, http.Request):
            self._body = (await self._request.body()).decode("utf-8", "surrogateescape")
        return self._body or ""

    def _refuse_in_call(self, what: str) -> None:
        if self._request is not None:
            raise NotAvailableError(f"APISIX can't change a request's {what}")
