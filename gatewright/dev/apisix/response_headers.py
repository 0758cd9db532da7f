"""The headers of an answer, as nginx's Lua keeps them: what is set, added to, taken away, and what there is one of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gatewright.dev.apisix.faults import LuaError
from gatewright.dev.messages import Headers
from gatewright.dev.nginx import header_name, header_value, set_header
from gatewright.gateways.apisix._reading import Entry

__all__ = ["EXCLUDED_RESPONSE_HEADERS", "SINGLE", "added", "taken_over"]

EXCLUDED_RESPONSE_HEADERS = frozenset(
    (
        "connection", "content-length", "transfer-encoding", "location", "server", "www-authenticate",
        "content-encoding", "content-type", "content-location", "content-language"
    )
)  # fmt: skip

SINGLE = frozenset(
    (
        "content-type", "content-length", "content-encoding", "content-range", "location", "refresh", "last-modified",
        "accept-ranges", "www-authenticate", "expires", "etag", "server", "date",
    )
)  # fmt: skip
"""Those that nginx keeps one of."""


def added(
    headers: Headers, entries: Iterable[Entry], excluded: frozenset[str], single: frozenset[str] = SINGLE
) -> Iterator[Headers]:
    """Headers with what a runner sets, entry by entry: what comes before an error stays.

    The first of a name sets, others add; names go out in lower case, with `-` for `_`. Nothing, or an empty value,
    takes the header away. Some headers come once only: the last one counts.

    Raises:
        LuaError: a Content-Length that is no number.
    """
    seen: set[str] = set()
    for name, value in entries:
        lower = name.lower()
        if lower in excluded:
            continue
        if lower == "content-length" and value and not value.isdigit():
            raise LuaError(f"a content-length of {value!r}")
        out = header_name(lower.replace("_", "-"))
        if value or lower in ("content-type", "date"):  # without one of its own, no date is sent at all
            values = [header_value(value or "")]
        else:
            values = []
        if value == "" and lower in seen and out not in single:
            continue  # to add nothing changes nothing
        if lower not in seen or not values or out in single:
            seen.add(lower)
            headers = set_header(headers, out, values)
        else:
            headers = [*headers, (out, values[0])]
        yield headers


def taken_over(headers: Headers, upstream: Headers, single: frozenset[str] = SINGLE) -> Headers:
    """Headers with those of the upstream's answer, which a reply of the response phase leaves as they are."""
    for name in dict.fromkeys(name for name, _ in upstream):
        if name.lower() not in EXCLUDED_RESPONSE_HEADERS:
            values = [header_value(value) for present, value in upstream if present == name and value]
            if name.lower() in single:
                values = values[-1:]
            headers = set_header(headers, header_name(name.replace("_", "-")), values)
    return headers
