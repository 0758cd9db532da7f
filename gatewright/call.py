"""A call: one run of a plugin chain for one request or one response.

Its `Call` object holds what came in (through a *source*, decoded late) and what plugins changed, and knows whom to ask
(an *asker*) for more in the middle of it. What plugins see of it is in `http`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from gatewright.datastructures import MOST_FINDS, Headers, Query
from gatewright.errors import MustAwaitError, NotAvailableError
from gatewright.parts import CallParts, Lookup

__all__ = [
    "REQUEST_BODY",
    "RESPONSE_BODY",
    "Asker",
    "Call",
    "CallSource",
    "Question",
    "Recipe",
    "RequestCall",
    "ResponseCall",
    "find_header",
    "follow",
    "follow_sync",
]

Entries = list[tuple[str, "str | None"]]


@dataclass(frozen=True, slots=True)
class Question:
    """Something that a plugin asks the gateway in mid-call: a variable, the request's or the response's body."""

    kind: Literal["var", "request_body", "response_body"]
    name: str = ""


T = TypeVar("T")
Recipe = Generator[Question, "bytes | None", T]
"""Questions to put, one after another, each with the answer to the one before; it returns what follows from them."""

REQUEST_BODY = Question("request_body")
RESPONSE_BODY = Question("response_body")
CONSUMER = Question("var", "consumer_name")


class CallSource(Protocol):
    """What a gateway's message offers. A property that the phase doesn't carry raises `NotAvailableError`."""

    @property
    def id(self) -> int:
        """The gateway's number for the call."""
        ...

    @property
    def method(self) -> str:
        """The method's name."""
        ...

    @property
    def path(self) -> str:
        """The path without the query."""
        ...

    @property
    def src_ip(self) -> bytes:
        """The client's address, 4 or 16 bytes."""
        ...

    def read_args(self) -> Entries:
        """Decode the arguments."""
        ...

    def read_headers(self) -> Entries:
        """Decode the headers."""
        ...

    @property
    def headers_at_hand(self) -> bool:
        """Any header can be had without a question to the gateway."""
        ...

    def has_header(self, name: str) -> bool | None:
        """Whether there is a header of this name, in lower case; `None` if the gateway may have cut it off."""
        ...

    def header_values(self, name: str) -> Sequence[str | None] | None:
        """The values of one header, its name in lower case, if that is cheaper than to read all; `None` if it isn't."""
        ...

    def may_have_alike(self, names: tuple[str, ...]) -> bool:
        """Whether a header may look like one of these, their names in lower case; true where that isn't known."""
        ...


class SourceHeaders(Lookup, Headers):
    """Headers of a call: it knows how to get at them, and what is cheaper than to decode all."""

    _source: CallSource
    _plain = Headers  # type: ignore[assignment]

    # What `Lookup` has no quick way for, where it is in C.
    _contains = Headers.__contains__
    _getitem = Headers.__getitem__
    _setitem = Headers.__setitem__
    _delitem = Headers.__delitem__

    def _load(self) -> Entries:
        return self._source.read_headers()

    def _has(self, name: str) -> bool | None:
        return self._source.has_header(name)

    def _values(self, key: str) -> Sequence[str | None]:
        finds = self._finds
        if finds < MOST_FINDS and key not in self.changes and self._original is None:
            self._finds = finds + 1
            values = self._source.header_values(key)
            if values is not None:
                return values
        return super()._values(key)

    def may_have_alike(self, names: tuple[str, ...]) -> bool:
        """Whether any header may be one that looks like one of these."""
        return self._source.may_have_alike(names)


class Asker(Protocol):
    """Whoever can put a question of this call to the gateway."""

    @property
    def is_over(self) -> bool:
        """The gateway is gone, or has its answer: nobody waits for one."""
        ...

    def ask(self, call: Call, question: Question) -> Awaitable[bytes | None]:
        """Put a question and wait for its answer, in a task."""
        ...

    def ask_sync(self, call: Call, question: Question) -> bytes | None:
        """Put a question and wait for its answer."""
        ...

    def ask_here(self, call: Call, questions: Sequence[Question]) -> list[bytes | None]:
        """Put questions together and wait for the answers wherever the caller is, be it an `async def` handler.

        Raises:
            MustAwaitError: the caller is a task of a plugin's own, which can only await.
        """
        ...

    def reading(self, call: Call, question: Question) -> Recipe[bytes]:
        """How to get a body. The recipe raises `NotAvailableError` where there is, or may be, one that can't be had."""
        ...

    def find_header(self, headers: Headers, name: str) -> str | None:
        """What a header of the call under way is, where the gateway cut them off; see `datastructures.Finder`."""
        ...


class Call(CallParts):
    """One run of a chain: what came in, what plugins changed, and how to ask the gateway for more.

    What isn't a part that every call needs has a class-level default, so making one costs an allocation. The `seen_`
    fields are the headers and the query if a plugin ever looked at them; `route` is the gateway's key of the
    configuration. `asks`: the reply may depend on what the gateway must be asked; `late`: others may have rewritten the
    request's path before. `place`: what the configuration belongs to, where `route` doesn't say it; `takes_consumer`:
    the gateway can be told who calls; `response_unseen`: the upstream has not been asked yet.
    What was learned: `keeps_query` (by a new path), `is_head`, `response_lost` (the upstream's body broke off),
    `forbids_body` (it was taken for granted that the client's is empty).
    """

    source: CallSource
    asker: Asker
    response_status: int = 0
    response_source: Callable[[], Entries] | None = None
    status_change: int = 0
    response_body: bytes | None = None
    read_body: bytes | None = None
    body_was_read: bool = False
    late: bool = False
    keeps_query: bool = False
    is_head: bool = False
    response_lost: bool = False
    forbids_body: bool = False
    read_response_body: bytes | None = None
    trace: Any = None
    record: Any = None
    place: str | None = None
    takes_consumer: bool = False
    response_unseen: bool = False
    ctx_source: Callable[[Call], dict[str, Any]] | None = None

    @property
    def headers(self) -> Headers:
        """The request's headers."""
        headers = self.seen_headers
        if headers is None:
            headers = self.seen_headers = SourceHeaders.of(self.source, self.asker, MOST_FINDS)
        return headers

    @property
    def query(self) -> Query:
        """The request's arguments."""
        query = self.seen_query
        if query is None:
            query = self.seen_query = Query.lazy(self.source.read_args)
        return query

    @property
    def response_headers(self) -> Headers:
        """The response's headers; in the request phase those to be added."""
        headers = self.seen_response_headers
        if headers is None:
            headers = self.seen_response_headers = Headers.lazy(self.response_source or list)
        return headers

    @property
    def consumer(self) -> str | None:
        """Who the gateway, or a plugin before, has found to call."""
        if self.consumer_change is not None:
            return self.consumer_change
        try:
            (name,) = self.asker.ask_here(self, (CONSUMER,))
        except MustAwaitError:
            raise NotAvailableError(
                "a task of one's own can't look at request.consumer, for which the gateway has to be asked: "
                '`await request.var("consumer_name")`'
            ) from None
        return name.decode("utf-8", "surrogateescape") if name else None

    @property
    def ctx(self) -> dict[str, Any]:
        """What plugins share; in the response phase with what the request phase left."""
        ctx = self.kept_ctx
        if ctx is None:
            source = self.ctx_source
            ctx = self.kept_ctx = {} if source is None else source(self)
            self.asks = True
        return ctx


def find_header(asker: Asker, call: Call, name: str) -> str | None:
    """Ask for a header of the client's that the gateway may have cut off.

    Raises:
        NotAvailableError: the caller is a task of a plugin's own, which can't wait here.
    """
    variable = f"http_{name.replace('-', '_')}"
    try:
        (value,) = asker.ask_here(call, (Question("var", variable),))
    except MustAwaitError:
        raise NotAvailableError(
            f"the gateway handed over its limit of headers, and {name!r} may be beyond it; ask for it: "
            f'`await request.var("{variable}")`'
        ) from None
    return None if value is None else value.decode("utf-8", "surrogateescape")


class RequestCall(Call):
    """A request wants to go through the chain of `conf_token`."""


class ResponseCall(Call):
    """An upstream's response wants to go through the chain of `conf_token`."""


async def follow(call: Call, question: Question) -> bytes:
    """Get a body, in a task."""
    recipe, answer = call.asker.reading(call, question), None
    try:
        while True:
            answer = await call.asker.ask(call, recipe.send(answer))
    except StopIteration as end:
        body: bytes = end.value
        return body


def follow_sync(call: Call, question: Question) -> bytes:
    """Get a body, in a strand or in a plugin's thread."""
    recipe, answer = call.asker.reading(call, question), None
    try:
        while True:
            answer = call.asker.ask_sync(call, recipe.send(answer))
    except StopIteration as end:
        body: bytes = end.value
        return body
