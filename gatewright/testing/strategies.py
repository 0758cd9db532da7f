"""Hypothesis strategies for requests: what clients may send, odd things included.

from hypothesis import given
from gatewright.testing.strategies import requests

@given(requests())
def test_nothing_breaks_it(request):
    answer = client.request(**request)
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from gatewright.testing.handmade import Request, SyncRequest

__all__ = [
    "bodies",
    "header_names",
    "header_values",
    "made_requests",
    "made_sync_requests",
    "queries",
    "requests",
    "targets",
]

_TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FRAMING = frozenset(
    ("content-length", "transfer-encoding", "host", "expect", "connection", "upgrade", "te", "trailer")
)
_UNIQUE = frozenset(
    (
        "if-modified-since", "if-unmodified-since", "if-match", "if-none-match", "content-range", "if-range",
        "authorization", "x-real-ip",
    )
)  # fmt: skip


def header_names() -> st.SearchStrategy[str]:
    """Names of headers; none that frame the message, or that may come once only."""
    usual = st.sampled_from(["accept", "cookie", "user-agent", "x-forwarded-for", "x-request-id", "x-user", "referer"])
    names = st.one_of(usual, st.text("abcdefghijklmnopqrstuvwxyz-_0123456789", min_size=1, max_size=20))
    return names.filter(lambda name: name.lower() not in _FRAMING | _UNIQUE and name[0].isalpha())


def header_values() -> st.SearchStrategy[str]:
    """Values of headers: printable, or any byte but controls, as `surrogateescape` has them."""
    raw = st.binary(max_size=30).map(lambda data: bytes(byte for byte in data if byte >= 0x20 and byte != 0x7F))
    odd = raw.map(lambda data: data.decode("utf-8", "surrogateescape"))
    return st.one_of(st.text(_TOKEN + " ,;=/", max_size=40), odd).map(str.strip)


def queries() -> st.SearchStrategy[list[tuple[str, str]]]:
    """Arguments, repeated ones among them."""
    text = st.text(st.characters(codec="utf-8"), max_size=12)
    return st.lists(st.tuples(text.filter(bool), text), max_size=5)


def targets() -> st.SearchStrategy[str]:
    """Paths as clients write them, with and without a query."""
    segment = st.text("abcXYZ019-._~!$&'()*+,;=:@", min_size=1, max_size=8).filter(lambda text: text not in (".", ".."))
    escaped = (
        st.binary(min_size=1, max_size=4)
        .map(lambda data: "".join(f"%{byte:02X}" for byte in data if byte))
        .filter(bool)
    )
    path = st.lists(st.one_of(segment, escaped), max_size=4).map(lambda parts: "/" + "/".join(parts))
    bare = st.sampled_from(["", "?", "?z", "?a=", "?a=1&a=2", "?=x", "?a=%20b+c", "?%zz", "?a=1&z"])
    return st.tuples(path, bare).map("".join)


def bodies() -> st.SearchStrategy[bytes | None]:
    """Bodies: none, empty, text, JSON, any bytes."""
    return st.one_of(
        st.none(), st.just(b""), st.binary(max_size=200), st.sampled_from([b'{"a": [1, null]}', b"a=1&b=2"])
    )


def requests() -> st.SearchStrategy[dict[str, Any]]:
    """Arguments for `TestClient.request`."""
    return st.fixed_dictionaries(
        {
            "method": st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]),
            "path": targets(),
            "headers": st.lists(st.tuples(header_names(), header_values()), max_size=6),
            "body": bodies(),
        }
    )


def _made(kind: Any) -> st.SearchStrategy[Any]:
    return st.builds(
        kind,
        st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
        st.text("abc/xyz ä", max_size=12).map(lambda text: f"/{text}"),
        headers=st.lists(st.tuples(header_names(), header_values()), max_size=6),
        query=queries(),
        body=bodies().map(lambda body: body or b""),
    )


def made_requests() -> st.SearchStrategy[Request]:
    """Requests made by hand, for `async def` handlers."""
    return _made(Request)


def made_sync_requests() -> st.SearchStrategy[SyncRequest]:
    """Requests made by hand, for `def` handlers."""
    return _made(SyncRequest)
