"""`Request` and `SyncRequest`: the client's request, as plugins see it."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

from gatewright.bodies import content_of, read_json
from gatewright.call import REQUEST_BODY, Call, Question, follow, follow_sync
from gatewright.datastructures import Headers, Query, check_sendable
from gatewright.errors import NotAvailableError
from gatewright.parts import View

__all__ = ["Request", "SyncRequest"]


@lru_cache(maxsize=4096)
def _address_text(raw: bytes) -> str:
    return str(ipaddress.ip_address(raw))


class _BaseRequest(View):
    """All of a request that needs no waiting."""

    __slots__ = ()
    _call: Call

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
        self._call.body = content_of(body)
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
