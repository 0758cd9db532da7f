"""Calls: what the gateway brings, decoded when it's looked at, and asked for where it was not brought."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, Self
from urllib.parse import unquote

from gatewright.datastructures import Finder, Headers
from gatewright.errors import NotAvailableError, ProtocolError
from gatewright.gateways.lean._which_brought import Brought
from gatewright.gateways.lean.needs import EARLY, fields_of
from gatewright.http import Call, RequestCall, ResponseCall
from gatewright.parts import Lookup
from gatewright.runtime.kept import unpack

__all__ = [
    "LeanRequestCall",
    "LeanResponseCall",
    "LeanSource",
    "NamedHeaders",
    "Teller",
    "UnseenHeaders",
    "read_header_text",
]

Entries = list[tuple[str, "str | None"]]

_ALWAYS: Final = sys.maxsize
"""It's cheaper to look one header up, however many were before."""


class Teller(Protocol):
    """Whoever can be asked for what a call did not bring, wherever the asker is."""

    def tell(self, source: LeanSource, name: str) -> bytes | None:
        """One thing of a call (see `needs`)."""


def text_of(raw: bytes) -> str:
    """Bytes as plugins see them."""
    return raw.decode("utf-8", "surrogateescape")


def read_header_text(text: bytes) -> Entries:
    """All headers of a text with a `name:value` a line: neither can hold a line feed, nor a name a colon."""
    entries: Entries = []
    for line in text_of(text).split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            entries.append((name, value))
    return entries


class LeanSource(Brought):
    """One call's facts (see `gatewright.http.CallSource`), and what a handler has looked at.

    Attributes:
        id: the gateway's number of the call.
        plan: what it brings.
        index: where in `fields` each thing is.
        fields: the plan, and what it names.
        note: told of everything that is looked at.
        teller: who tells what was not brought; set by the driver.
    """

    __slots__ = ()

    teller: Teller

    @staticmethod
    def index_of(fields: list[bytes | None]) -> Mapping[str, int]:
        """Where each thing is that a call brings.

        Raises:
            ProtocolError: the fields are not what the first of them says.
        """
        plan = fields[0] if fields else None
        if plan is None:
            raise ProtocolError("a call doesn't say what it brings")
        index = fields_of(plan)
        if len(index) + 1 != len(fields):
            raise ProtocolError(f"a call of {len(fields)} fields brings {len(index)} things")
        return index

    def brings(self, name: str) -> bool:
        """Whether it was brought, or has been asked for."""
        return name in self.index or (self._told is not None and name in self._told)

    def brought(self, name: str) -> bytes | None:
        """What was brought, without a question."""
        number = self.index.get(name)
        return None if number is None else self.fields[number]

    def get(self, name: str) -> bytes | None:
        """One thing, asked for if need be."""
        self.note(name)
        number = self.index.get(name)
        if number is not None:
            return self.fields[number]
        told = self._told
        if told is None:
            told = self._told = {}
        if name not in told:
            told[name] = self.teller.tell(self, name)
        return told[name]

    @property
    def method(self) -> str:
        """The method."""
        return text_of(self.get("method") or b"")

    @property
    def path(self) -> str:
        """The path, decoded, without the query."""
        return text_of(self.get("path") or b"")

    @property
    def raw_query(self) -> bytes:
        """The query as the client sent it."""
        return self.get("query") or b""

    @property
    def src_ip(self) -> bytes:
        """The client's address."""
        raw = self.get("ip") or b""
        try:
            return ipaddress.ip_address(raw.decode("latin-1")).packed
        except ValueError:
            return raw  # of a client on a unix socket: `Request.client_ip` says what it is

    def read_args(self) -> Entries:
        """The arguments, decoded."""
        return [
            (_decoded(name), _decoded(value) if equals else None)
            for name, equals, value in (part.partition("=") for part in text_of(self.raw_query).split("&") if part)
        ]

    def read_headers(self) -> Entries:
        """All headers of the request."""
        return read_header_text(self.get("headers") or b"")

    def read_response_headers(self) -> Entries:
        """All headers of the response."""
        if EARLY in self.index:
            raise NotAvailableError(
                "with `early_response = True` nothing of the answer can be looked at: the upstream was not asked yet"
            )
        return read_header_text(self.get("rheaders") or b"")

    @property
    def headers_at_hand(self) -> bool:
        """All have been brought."""
        return self.brings("headers")

    def look_up(self, name: str) -> Sequence[str | None] | None:
        """`header_values` (see `CallSource`), of one that may not have been brought for itself."""
        return header_values(self, "headers", "h:", name)

    def may_have_alike(self, names: tuple[str, ...]) -> bool:
        """See `CallSource`."""
        return True

    def look_for(self, name: str) -> bool | None:
        """`has_header` (see `CallSource`), of one that may not have been brought for itself."""
        return bool(header_values(self, "headers", "h:", name))


def header_values(source: LeanSource, whole: str, prefix: str, name: str) -> list[str | None]:
    """All values of one header, without reading the others."""
    if prefix == "r:" and source.brings(EARLY):
        source.read_response_headers()  # says why not
    single = prefix + name
    if source.brings(whole) and not source.brings(single):
        source.note(single)
        text = source.brought(whole) or b""
        key = name.encode()
        found: list[str | None] = []
        if key in text.lower():
            found = [value for given, value in read_header_text(text) if given.lower() == name]
        return found
    raw = source.get(single)
    return [] if raw is None else list(text_of(raw).split("\n"))


def _decoded(text: str) -> str:
    return unquote(text.replace("+", " "), errors="surrogateescape")


class _NamedHeaders(Headers):
    """Headers of which single ones can be had without the others."""

    _source: LeanSource | None = None
    _prefix = "h:"
    _together = "headers"

    def _entries(self) -> Entries:
        source = self._source
        if source is None or self._original is not None:
            return super()._entries()
        entries = self._original = self._read(source)
        return entries

    @staticmethod
    def _read(source: LeanSource) -> Entries:
        return source.read_headers()

    def _values(self, key: str) -> Sequence[str | None]:
        source = self._source
        if source is None or key in self.changes or self._original is not None:
            return super()._values(key)
        number = source.index.get(self._prefix + key)
        if number is None:
            return header_values(source, self._together, self._prefix, key)
        raw = source.fields[number]  # it was brought for itself, so it's known that it is looked at
        if raw is None:
            return ()
        return (raw.decode("utf-8", "surrogateescape"),) if b"\n" not in raw else text_of(raw).split("\n")


class NamedHeaders(Lookup, _NamedHeaders):
    """Those of a request."""

    _plain = Headers  # type: ignore[assignment]

    # What `Lookup` has no quick way for, where it is in C.
    _contains = _NamedHeaders.__contains__
    _getitem = _NamedHeaders.__getitem__
    _setitem = _NamedHeaders.__setitem__
    _delitem = _NamedHeaders.__delitem__


class NamedResponseHeaders(_NamedHeaders):
    """Those of a response."""

    _prefix = "r:"
    _together = "rheaders"

    @classmethod
    def of(cls, source: LeanSource) -> Self:
        """Headers of a call."""
        self = cls.__new__(cls)
        self._source = source
        self.changes = {}
        return self

    @staticmethod
    def _read(source: LeanSource) -> Entries:
        return source.read_response_headers()


class UnseenHeaders(NamedResponseHeaders):
    """Headers of an answer that has not come yet: they can be set, deleted and added to, and not be looked at.

    Attributes:
        appended: by name, values to add to whatever there will be.
    """

    appended: dict[str, list[str]]

    def add(self, name: str, value: str) -> None:
        """Append one more value to a name."""
        key = self._key(name)
        if key in self.changes:
            super().add(name, value)
        else:
            self.appended.setdefault(key, []).append(self._check(key, value))

    def copied(self, finder: Finder | None = None) -> Self:
        """See `Headers.copied`."""
        other = super().copied(finder)
        other.appended = {key: list(values) for key, values in self.appended.items()}
        return other

    def take_changes(self, other: Self) -> None:
        """See `Headers.take_changes`."""
        super().take_changes(other)
        self.appended = {key: list(values) for key, values in other.appended.items()}


class _LeanCall(Call):
    source: LeanSource
    takes_consumer = True

    @property
    def headers(self) -> Headers:
        """The request's headers."""
        headers = self.seen_headers
        if headers is None:
            headers = self.seen_headers = NamedHeaders.of(self.source, None, _ALWAYS)
        return headers

    @property
    def ctx(self) -> dict[str, Any]:
        """What other plugins and earlier phases of the request have left, which the gateway keeps."""
        ctx = self.kept_ctx
        if ctx is None:
            packed = self.source.get("ctx")
            ctx = self.kept_ctx = unpack(packed) if packed else {}
        return ctx

    @property
    def consumer(self) -> str | None:
        """Who calls."""
        if self.consumer_change is not None:
            return self.consumer_change
        name = self.source.get("consumer")
        return text_of(name) if name else None


class LeanRequestCall(_LeanCall, RequestCall):
    """A request."""


class LeanResponseCall(_LeanCall, ResponseCall):
    """An upstream's answer."""

    takes_consumer = False

    @property
    def response_headers(self) -> Headers:
        """The answer's headers."""
        headers = self.seen_response_headers
        if headers is None:
            kind = UnseenHeaders if self.response_unseen else NamedResponseHeaders
            headers = self.seen_response_headers = kind.of(self.source)
            if isinstance(headers, UnseenHeaders):
                headers.appended = {}
        return headers
