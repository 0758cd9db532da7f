"""The request's headers as nginx's Lua sets them (ngx_http_lua_headers_in.c).

Of a header that nginx knows by name it has a pointer to the first one, and sets that; what else there is of the same
name stays. Of any other the first is set, and the rest goes. What is removed goes whole.
"""

from __future__ import annotations

from typing import Final

from gatewright.dev.messages import Headers
from gatewright.dev.nginx import header_name, header_value, set_header

__all__ = ["header_added", "header_set"]

_POINTED_AT: Final = frozenset(
    (
        "connection", "user-agent", "referer", "content-type", "range", "upgrade", "accept-encoding", "via",
        "keep-alive", "x-real-ip", "depth", "destination", "overwrite", "date",
    )
)  # fmt: skip
"""Those that may come more than once."""


def _first_set(headers: Headers, name: str, value: str) -> Headers | None:
    """Headers with another value for the first of a name; `None` where there is none."""
    at = next((i for i, (present, _) in enumerate(headers) if present.lower() == name.lower()), None)
    return None if at is None else [*headers[:at], (headers[at][0], value), *headers[at + 1 :]]


def header_set(headers: Headers, name: str, value: str | None) -> Headers:
    """Headers with one set; nothing, or an empty value, removes it."""
    out, given = header_name(name), [header_value(value)] if value else []
    if given and name.lower() in _POINTED_AT:
        return _first_set(headers, out, given[0]) or [*headers, (out, given[0])]
    return set_header(headers, out, given)


def header_added(headers: Headers, name: str, value: str) -> Headers:
    """Headers with one more; of those that nginx knows by name, the first is set."""
    out, given = header_name(name), header_value(value)
    known = name.lower() in _POINTED_AT or name.lower() in _SINGLE
    return (_first_set(headers, out, given) if known else None) or [*headers, (out, given)]


_SINGLE: Final = frozenset(
    (
        "host", "if-modified-since", "if-unmodified-since", "if-match", "if-none-match", "content-length", "if-range",
        "transfer-encoding", "expect", "authorization",
    )
)  # fmt: skip
"""Those of which a request with two is refused."""
