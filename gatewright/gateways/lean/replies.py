"""Answers: what a chain wants the gateway to do, as operations.

The first field of an answer has a byte for each operation; each takes as many of the fields that follow as `Op`
says. Only what plugins changed is told. An answer that changes nothing has no fields at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final
from urllib.parse import quote, unquote

from gatewright.datastructures import Headers
from gatewright.errors import PluginError
from gatewright.gateways.caches import NotKeptError, keep_short
from gatewright.gateways.lean.calls import LeanSource, UnseenHeaders
from gatewright.gateways.lean.frames import CHUNK, Flag, Kind, encode_frame
from gatewright.http import Call, Response
from gatewright.runtime.kept import pack

__all__ = ["Op", "query_with", "request_answer", "response_answer"]

_QUERY_SAFE: Final = "-._~!$'()*,;:@/?"
_HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
Changes = Mapping[str, tuple[str, ...] | None]
Appended = tuple[tuple[str, tuple[str, ...]], ...]


class Op(Enum):
    """Operations, and how many fields each takes."""

    SET_HEADER = b"H", 2
    ADD_HEADER = b"h", 2
    DROP_HEADER = b"d", 1
    PATH = b"P", 1
    QUERY = b"Q", 1
    BODY = b"B", 1
    SET_RESPONSE_HEADER = b"R", 2
    ADD_RESPONSE_HEADER = b"r", 2
    DROP_RESPONSE_HEADER = b"x", 1
    APPEND_RESPONSE_HEADER = b"a", 2
    """One more value, to whatever the upstream will have sent."""
    STATUS = b"S", 1
    RESPONSE_BODY = b"b", 1
    CTX = b"C", 1
    CONSUMER = b"U", 1
    PLAN = b"N", 1

    @property
    def byte(self) -> bytes:
        """How it's told."""
        return self.value[0]

    @property
    def fields(self) -> int:
        """How many it takes."""
        return self.value[1]


_REQUEST_OPS: Final = (Op.SET_HEADER.byte, Op.ADD_HEADER.byte, Op.DROP_HEADER.byte)
_RESPONSE_OPS: Final = (Op.SET_RESPONSE_HEADER.byte, Op.ADD_RESPONSE_HEADER.byte, Op.DROP_RESPONSE_HEADER.byte)


class _Answer:
    """Operations being gathered."""

    __slots__ = ("fields", "ops", "parts")

    def __init__(self) -> None:
        self.ops: list[bytes] = []
        self.fields: list[bytes | None] = []
        self.parts: list[bytes] = []

    def put(self, op: Op, *fields: bytes) -> None:
        self.ops.append(op.byte)
        self.fields.extend(fields)

    def put_body(self, op: Op, body: bytes) -> None:
        """A long one goes ahead, in parts, and its operation has no field of its own."""
        self.ops.append(op.byte)
        if len(body) > CHUNK:
            self.parts = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
            self.fields.append(None)
        else:
            self.fields.append(body)

    def put_headers(self, changes: Changes, ops: tuple[bytes, bytes, bytes]) -> None:
        for name, values in changes.items():
            key = _raw(name)
            if not values:
                self.ops.append(ops[2])
                self.fields.append(key)
                continue
            for number, value in enumerate(values):
                self.ops.append(ops[1] if number else ops[0])
                self.fields.append(key)
                self.fields.append(_raw(value))

    def put_response_headers(self, changes: Changes, appended: Appended) -> None:
        own = {name: values for name, values in changes.items() if name not in _HOP_BY_HOP}
        self.put_headers(own, _RESPONSE_OPS)
        for name, values in appended:
            for value in values if name not in changes else ():
                self.put(Op.APPEND_RESPONSE_HEADER, _raw(name), _raw(value))

    def encode(self, kind: int, id: int, *, flags: int = 0) -> bytes:
        ahead = b"".join(encode_frame(Kind.PART, id, (part,)) for part in self.parts)
        fields = (b"".join(self.ops), *self.fields) if self.ops else ()
        return ahead + encode_frame(kind, id, fields, flags=flags)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def request_answer(call: Call, response: Response | None, plan: bytes | None) -> bytes:
    """The answer to a request.

    Args:
        call: the request, with what plugins changed.
        response: what a plugin answers the client instead.
        plan: what further calls had better bring, if that is not what this one did.

    Raises:
        PluginError: what plugins want can't be told.
    """
    id = call.source.id
    headers = call.seen_headers
    changes = call.header_changes()
    if changes is not None and response is None and plan is None and not call.kept_ctx and call.consumer_change is None:
        try:
            head, tail = _header_answer(changes)
        except NotKeptError as long:
            head, tail = long.parts
        return head + id.to_bytes(4, "little") + tail
    answer = _Answer()
    if plan is not None:
        answer.put(Op.PLAN, plan)
    if call.kept_ctx:
        answer.put(Op.CTX, pack(call.kept_ctx))
    if response is not None:
        return _stop(answer, Kind.REQUEST, id, response)
    if call.consumer_change is not None:
        answer.put(Op.CONSUMER, _raw(call.consumer_change))
    if call.path is not None:
        answer.put(Op.PATH, _raw(call.path))
    if call.seen_query is not None and call.seen_query.changes:
        answer.put(Op.QUERY, query_with(_source(call).raw_query, call.seen_query.changes))
    if headers is not None and headers.changes:
        answer.put_headers(headers.changes, _REQUEST_OPS)
    if call.body is not None:
        answer.put_body(Op.BODY, call.body)
    if call.seen_response_headers is not None:
        answer.put_headers(call.seen_response_headers.changes, _RESPONSE_OPS)
    return answer.encode(Kind.REQUEST, id)


@keep_short(256)
def _header_answer(changes: tuple[tuple[str, tuple[str, ...] | None], ...]) -> tuple[bytes, bytes]:
    """What stands before and after the id in an answer that changes request headers only, as most do: 3 us less."""
    answer = _Answer()
    answer.put_headers(dict(changes), _REQUEST_OPS)
    frame = answer.encode(Kind.REQUEST, 0)
    return frame[:8], frame[12:]


@keep_short(256)
def _response_header_answer(
    changes: tuple[tuple[str, tuple[str, ...] | None], ...], appended: Appended
) -> tuple[bytes, bytes]:
    """The same for a response."""
    answer = _Answer()
    answer.put_response_headers(dict(changes), appended)
    frame = answer.encode(Kind.RESPONSE, 0)
    return frame[:8], frame[12:]


def _appended(headers: UnseenHeaders | Headers | None) -> Appended:
    appended = headers.appended if isinstance(headers, UnseenHeaders) else {}
    return tuple((name, tuple(values)) for name, values in appended.items()) if appended else ()


def response_answer(call: Call, plan: bytes | None) -> bytes:
    """The answer to an upstream's response; see `request_answer`."""
    headers = call.seen_response_headers
    is_unseen = type(headers) is UnseenHeaders
    has_status = call.status_change > 0 and call.status_change != call.response_status
    if plan is None and not has_status and call.response_body is None and not call.kept_ctx:
        changes = tuple(headers.changes.items()) if headers is not None and headers.changes else ()
        appended = _appended(headers) if is_unseen else ()
        try:
            head, tail = _response_header_answer(changes, appended)
        except NotKeptError as long:
            head, tail = long.parts
        return head + call.source.id.to_bytes(4, "little") + tail
    answer = _Answer()
    if plan is not None:
        answer.put(Op.PLAN, plan)
    if call.kept_ctx:
        answer.put(Op.CTX, pack(call.kept_ctx))
    if has_status:
        answer.put(Op.STATUS, str(call.status_change).encode())
    if headers is not None:
        answer.put_response_headers(headers.changes, _appended(headers) if is_unseen else ())
    if call.response_body is not None:
        if call.response_unseen:
            raise PluginError("with `early_response = True` there is no other body to be set")
        answer.put_body(Op.RESPONSE_BODY, call.response_body)
    return answer.encode(Kind.RESPONSE, call.source.id)


def _stop(answer: _Answer, kind: int, id: int, response: Response) -> bytes:
    answer.put(Op.STATUS, str(response.status).encode())
    own: dict[str, tuple[str, ...] | None] = {}
    for name in response.headers:
        if name != "content-length" and name not in _HOP_BY_HOP:  # the gateway frames the body itself
            own[name] = tuple(response.headers.get_all(name))
    answer.put_headers(own, _RESPONSE_OPS)
    answer.put_body(Op.RESPONSE_BODY, response.content)
    return answer.encode(kind, id, flags=Flag.STOP)


def _source(call: Call) -> LeanSource:
    source = call.source
    if not isinstance(source, LeanSource):
        raise PluginError("not a call of this protocol")
    return source


def query_with(raw: bytes, changes: Changes) -> bytes:
    """A query with some arguments changed; the others stay byte for byte, those that change where they first stood."""
    done: set[str] = set()
    parts: list[bytes] = []
    for part in raw.split(b"&") if raw else []:
        name = _name_of(part)
        if not part or name not in changes:
            parts.append(part)
        elif name not in done:
            done.add(name)
            parts.extend(_arguments(name, changes[name]))
    for name, values in changes.items():
        if name not in done:
            parts.extend(_arguments(name, values))
    return b"&".join(parts)


def _name_of(part: bytes) -> str:
    return unquote(_text(part.partition(b"=")[0]).replace("+", " "), errors="surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _arguments(name: str, values: tuple[str, ...] | None) -> list[bytes]:
    return [f"{_quoted(name)}={_quoted(value)}".encode() for value in values or ()]


def _quoted(text: str) -> str:
    return quote(text, safe=_QUERY_SAFE, errors="surrogateescape")
