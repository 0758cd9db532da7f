"""`on_request` and `on_response` on Kong.

A call's facts are fetched through the PDK, and its changes written back in as few PDK calls as there are kinds of it.
Facts are fetched when a `def` handler first looks at them. An `async def` handler can't wait inside a property, so
for one they are fetched before it starts.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast
from urllib.parse import quote, unquote

from gatewright.datastructures import CutEntries, Headers
from gatewright.errors import MustAwaitError, NotAvailableError
from gatewright.http import Call, Question, Recipe, RequestCall, Response, ResponseCall, find_header
from gatewright.runtime.bridge import Strand
from gatewright.runtime.chain import Chain
from gatewright.runtime.kept import KeptContext, pack, unpack
from gatewright.server.drivers.kong.event import Event

__all__ = ["run_access", "run_response"]

_MAX_HEADERS = 1000  # the most that Kong gives (pdk/request.lua, MAX_HEADERS)
_CTX = "gatewright.ctx"
_QUERY_SAFE = "-._~!$'()*,;:@/?"

Entries = list[tuple[str, "str | None"]]

_VARIABLES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "consumer_name": ("kong.client.get_consumer", ("username", "custom_id", "id")),
    "route_id": ("kong.router.get_route", ("id",)),
    "route_name": ("kong.router.get_route", ("name",)),
    "service_id": ("kong.router.get_service", ("id",)),
    "service_name": ("kong.router.get_service", ("name",)),
}
"""Variables of APISIX's that nginx does not have: where Kong knows the same, and the fields to look at."""


class _Facts:
    """A request as Kong knows it (see `gatewright.http.CallSource`)."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def _get(self, method: str, *args: Any) -> Any:
        return self._event.call(f"kong.{method}", args)

    def fetch(self) -> None:
        """Fetch all that a handler may look at without waiting."""
        self._get("request.get_method")
        self._get("request.get_path")
        self._get("request.get_raw_query")
        self._get("client.get_ip")
        self._get("request.get_headers", _MAX_HEADERS)

    @property
    def id(self) -> int:
        """The event's number."""
        return self._event.id

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self._get("request.get_method"))

    @property
    def path(self) -> str:
        """The path, decoded."""
        return unquote(str(self._get("request.get_path")), errors="surrogateescape")

    @property
    def src_ip(self) -> bytes:
        """The client's address."""
        return ipaddress.ip_address(self._get("client.get_ip")).packed

    def read_args(self) -> Entries:
        """The arguments, in order."""
        return _parse_query(self._get("request.get_raw_query") or "")

    def read_headers(self) -> Entries:
        """The request's headers; names in lower case, as Kong gives them."""
        entries = _entries(self._get("request.get_headers", _MAX_HEADERS))
        return CutEntries(entries) if len(entries) >= _MAX_HEADERS else entries

    @property
    def headers_at_hand(self) -> bool:
        """They have been fetched."""
        return self._event.knows("kong.request.get_headers", (_MAX_HEADERS,))

    def has_header(self, name: str) -> bool | None:
        """Whether there is a header of this name; `None` if it may be beyond the most that Kong gives."""
        entries = self.read_headers()
        return any(name == key.lower() for key, _ in entries) or (None if isinstance(entries, CutEntries) else False)


class _Questions:
    """Answers what handlers ask in mid-call (see `gatewright.http.Asker`)."""

    def __init__(self, event: Event) -> None:
        self._event = event

    @staticmethod
    def _method(question: Question) -> tuple[str, tuple[Any, ...]]:
        if question.kind == "request_body":
            return "kong.request.get_raw_body", ()
        if question.kind == "response_body":
            return "kong.service.response.get_raw_body", ()
        if question.name in _VARIABLES:
            return _VARIABLES[question.name][0], ()
        return "kong.nginx.get_var", (question.name,)

    @staticmethod
    def _answer(question: Question, value: Any) -> bytes | None:
        if question.kind == "var" and question.name in _VARIABLES:
            record = value if isinstance(value, Mapping) else {}
            value = next((record[name] for name in _VARIABLES[question.name][1] if record.get(name)), None)
        return _raw(value)

    def ask_sync(self, call: Call, question: Question) -> bytes | None:
        """Ask and wait."""
        return self._answer(question, self._event.call(*self._method(question)))

    def ask(self, call: Call, question: Question) -> Awaitable[bytes | None]:
        """Ask and give something to await."""

        async def asked() -> bytes | None:
            return self._answer(question, await self._event.call_later(*self._method(question)))

        return asked()

    @property
    def is_over(self) -> bool:
        """Kong is gone, or has its answer."""
        return self._event.over

    def ask_here(self, call: Call, questions: Sequence[Question]) -> list[bytes | None]:
        """Ask and wait, wherever the caller is."""
        return [self._answer(each, self._event.call_here(*self._method(each))) for each in questions]

    @staticmethod
    def reading(_: Call, question: Question) -> Recipe[bytes]:
        """How to get a body. Kong gives an empty one where there is none, and nothing where it's on its disk."""
        body = yield question
        if body is None:
            raise NotAvailableError(
                "Kong doesn't hand this body over: it is longer than client_body_buffer_size (nginx keeps it in a file)"
                if question.kind == "request_body"
                else "Kong doesn't hand the upstream's body over"
            )
        return body

    def find_header(self, _: Headers, name: str) -> str | None:
        """Ask for a header that may be beyond the most that Kong gives."""
        return find_header(self, cast("Call", None), name)


def run_access(chain: Chain, event: Event, strand: Strand) -> None:
    """Run `on_request` and write its changes back.

    Raises:
        PhaseExit: the plugin answered the request.
    """
    call = RequestCall(cast("Any", _Facts(event)), 0)
    _prepare(call, chain, event, strand)
    if chain.steps[0].is_async("request"):
        try:
            cast("_Facts", call.source).fetch()
        except Exception as error:
            chain.failed_before(error, strand, "request")
            return  # goes on without it
    response = chain.run_request(call, strand)
    if response is not None:
        _exit(event, response.status, response.content, _response_headers(response))
    _write_request(call, event)
    _keep_ctx(call, event)


def run_response(chain: Chain, event: Event, strand: Strand) -> None:
    """Run `on_response` and write its changes back.

    Raises:
        PhaseExit: the plugin replaced the body, so Kong answers with it.
    """
    call = ResponseCall(cast("Any", _Facts(event)), 0)
    _prepare(call, chain, event, strand)
    try:
        call.response_status = event.call("kong.response.get_status", ())
        if chain.steps[0].is_async("response"):
            headers = event.call("kong.response.get_headers", (_MAX_HEADERS,))
            call.response_source = lambda: _entries(headers)
            cast("_Facts", call.source).fetch()
        else:
            call.response_source = lambda: _entries(event.call("kong.response.get_headers", (_MAX_HEADERS,)))
    except Exception as error:
        chain.failed_before(error, strand, "response")
        return  # goes on without it
    chain.run_response(call, strand)
    _keep_ctx(call, event)
    changed = call.seen_response_headers.changes if call.seen_response_headers is not None else {}
    if call.response_body is not None:
        kept = {name: list(values) for name, values in changed.items() if values}
        for name in (name for name, values in changed.items() if not values):
            event.call("kong.response.clear_header", (name,))
        _exit(event, call.status_change or call.response_status, call.response_body, kept)
    if call.status_change > 0:
        event.call("kong.response.set_status", (call.status_change,))
    _write_headers(event, "kong.response", changed)


def _prepare(call: Call, chain: Chain, event: Event, strand: Strand) -> None:
    call.asker = _Questions(event)
    call.ctx_source = partial(_ctx_kept, event)
    call.route, call.trace = chain.key, event.trace
    strand.call = call
    strand.work, strand.deadline = chain.steps[0], 0.0


def _ctx_kept(event: Event, _: Call) -> dict[str, Any]:
    """What earlier phases and plugins of the request have left, where Kong keeps such things."""
    try:
        text = event.call_here("kong.ctx.shared.get", (_CTX,))
    except MustAwaitError:
        raise NotAvailableError(
            "a task of one's own can't be the first to look at request.ctx: look at it in the handler"
        ) from None
    return unpack(base64.b64decode(text)) if text else KeptContext()


def _keep_ctx(call: Call, event: Event) -> None:
    if call.kept_ctx:
        event.call("kong.ctx.shared.set", (_CTX, base64.b64encode(pack(call.kept_ctx)).decode()))


def _write_request(call: Call, event: Event) -> None:
    if call.path is not None:
        event.call(
            "kong.service.request.set_path", (quote(call.path, safe="/-._~!$&'()*+,;=:@", errors="surrogateescape"),)
        )
    if call.seen_query is not None and call.seen_query.changes:
        valueless = {n for n, value in call.source.read_args() if value is None} - call.seen_query.changes.keys()
        entries = [(n, None if n in valueless else value) for n, value in call.seen_query.multi_items()]
        event.call("kong.service.request.set_raw_query", (_format_query(entries),))
    if call.seen_headers is not None:
        _write_headers(event, "kong.service.request", call.seen_headers.changes)
    if call.body is not None:
        event.call("kong.service.request.set_raw_body", (call.body,))
    if call.seen_response_headers is not None:
        _write_headers(event, "kong.response", call.seen_response_headers.changes)


def _write_headers(event: Event, where: str, changes: Mapping[str, Sequence[str] | None]) -> None:
    kept = {name: list(values) for name, values in changes.items() if values}
    if kept:
        event.call(f"{where}.set_headers", (kept,))
    for name, values in changes.items():
        if not values:
            event.call(f"{where}.clear_header", (name,))


def _exit(event: Event, status: int, body: bytes, headers: Mapping[str, list[str]]) -> None:
    event.call("kong.response.exit", (status, body, dict(headers)))


def _response_headers(response: Response) -> dict[str, list[str]]:
    return {name: list(response.headers.get_all(name)) for name in response.headers}


def _entries(headers: Any) -> Entries:
    entries: Entries = []
    for name, values in (headers or {}).items():
        entries.extend((str(name), _as_text(value)) for value in (values if isinstance(values, list) else [values]))
    return entries


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return "" if value is None or value is True else str(value)


def _raw(value: Any) -> bytes | None:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _parse_query(text: str) -> Entries:
    entries: Entries = []
    for part in text.split("&"):
        if part:
            name, equals, value = part.partition("=")
            entries.append((_decoded(name), _decoded(value) if equals else None))
    return entries


def _decoded(text: str) -> str:
    return unquote(text.replace("+", " "), errors="surrogateescape")


def _format_query(entries: Sequence[tuple[str, str | None]]) -> str:
    parts = []
    for name, value in entries:
        encoded = quote(name, safe=_QUERY_SAFE, errors="surrogateescape")
        parts.append(
            encoded if value is None else f"{encoded}={quote(value, safe=_QUERY_SAFE, errors='surrogateescape')}"
        )
    return "&".join(parts)
