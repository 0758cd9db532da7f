"""A native plugin's request as Kong knows it: facts that are asked for when a handler first looks at them.

Each costs a round trip, so none is asked for that nobody looks at, and none twice. Headers come all at once: asked for
one by one, Kong would give what came as `x_user` for `x-user`, too.

An `async def` handler waits for a fact as a `def` does, in the property that it looks at. Only tasks of its own can't:
where a plugin's source speaks of tasks, all is fetched before its handler starts. One that makes tasks unseen is found
out when such a task looks at what nobody has looked at before; its later calls are then fetched for, too.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Awaitable, Mapping, MutableMapping, Sequence
from typing import Any, Final, cast
from urllib.parse import unquote

from gatewright.datastructures import CutEntries, Headers
from gatewright.errors import MustAwaitError, NotAvailableError
from gatewright.http import Call, Question, Recipe, find_header
from gatewright.runtime.kept import KeptContext, unpack
from gatewright.server.drivers.kong.event import Event

__all__ = ["CTX", "Facts", "Questions"]

_MAX_HEADERS = 1000  # the most that Kong gives (pdk/request.lua, MAX_HEADERS)
CTX = "gatewright.ctx"
"""Where Kong keeps what plugins share, in `kong.ctx.shared`."""

Entries = list[tuple[str, "str | None"]]

_VARIABLES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "consumer_name": ("kong.client.get_consumer", ("username", "custom_id", "id")),
    "route_id": ("kong.router.get_route", ("id",)),
    "route_name": ("kong.router.get_route", ("name",)),
    "service_id": ("kong.router.get_service", ("id",)),
    "service_name": ("kong.router.get_service", ("name",)),
}
"""Variables of APISIX's that nginx does not have: where Kong knows the same, and the fields to look at."""


class Facts:
    """A request as Kong knows it (see `gatewright.http.CallSource`), and its answer."""

    def __init__(self, event: Event, fetched_first: MutableMapping[str, bool]) -> None:
        """Begin without any.

        Args:
            event: the phase that they are for.
            fetched_first: whether a plugin's facts are fetched before its `async def` handlers start, by its name.
        """
        self._event = event
        self._fetched_first = fetched_first
        self._known: dict[str, Any] = {}
        self._headers: Entries | None = None

    def _get(self, method: str, *args: Any) -> Any:
        known = self._known
        if method not in known:
            known[method] = self._ask(f"kong.{method}", args)
        return known[method]

    def _ask(self, method: str, args: Sequence[Any]) -> Any:
        try:
            return self._event.call_here(method, args)
        except MustAwaitError:
            self._fetched_first[self._event.chain.name] = True
            raise NotAvailableError(
                "a task of one's own can't be the first to look at this part of the request: look at it in the handler"
            ) from None

    def fetch(self) -> None:
        """Fetch all that a handler may look at without waiting."""
        self._get("request.get_method")
        self._get("request.get_path")
        self._get("request.get_raw_query")
        self._get("client.get_ip")
        self.read_headers()

    def fetch_answer(self) -> None:
        """Fetch what it may look at of the upstream's answer."""
        self._get("response.get_status")
        self._get("response.get_headers", _MAX_HEADERS)

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
        if self._headers is None:
            entries = _entries(self._ask("kong.request.get_headers", (_MAX_HEADERS,)))
            self._headers = CutEntries(entries) if len(entries) >= _MAX_HEADERS else entries
        return self._headers

    @property
    def headers_at_hand(self) -> bool:
        """They have been fetched."""
        return self._headers is not None

    def header_values(self, name: str) -> Sequence[str | None] | None:
        """See `CallSource`."""
        return None

    def may_have_alike(self, names: tuple[str, ...]) -> bool:
        """See `CallSource`."""
        return True

    def has_header(self, name: str) -> bool | None:
        """Whether there is a header of this name; `None` if it may be beyond the most that Kong gives."""
        entries = self.read_headers()
        return any(name == key.lower() for key, _ in entries) or (None if isinstance(entries, CutEntries) else False)

    @property
    def status(self) -> int:
        """The answer's status."""
        status: int = self._get("response.get_status")
        return status

    def read_answer_headers(self) -> Entries:
        """The answer's headers."""
        return _entries(self._get("response.get_headers", _MAX_HEADERS))

    def read_ctx(self, _: Call) -> dict[str, Any]:
        """What earlier phases and plugins of the request have left, where Kong keeps such things."""
        text = self._ask("kong.ctx.shared.get", (CTX,))
        return unpack(base64.b64decode(text)) if text else KeptContext()


class Questions:
    """Answers what handlers ask in mid-call (see `gatewright.http.Asker`)."""

    def __init__(self, event: Event) -> None:
        """Ask in this event."""
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


def _entries(headers: Any) -> Entries:
    entries: Entries = []
    for name, values in (headers or {}).items():
        if type(values) is list:
            entries.extend((name, value if type(value) is str else _as_text(value)) for value in values)
        else:
            entries.append((name, _as_text(values)))
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
