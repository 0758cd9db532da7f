"""What the log phase can still tell of a request.

Kong runs it in a timer, after the request: nginx's variables are gone, and the PDK's functions that read them raise an
error there. But Kong keeps the request's line and its scheme in `ngx.ctx`, whose copy the timer has
(runloop/handler.lua, `access.before`), and the headers; all that those functions give can be made of these.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["KEPT", "PROTOCOL", "from_kept", "host_of", "normalise"]

KEPT: Final = {
    "kong.request.get_scheme": "scheme",
    "kong.request.get_host": "host",
    "kong.request.get_path": "request_uri",
    "kong.request.get_raw_path": "request_uri",
    "kong.request.get_path_with_query": "request_uri",
    "kong.request.get_raw_query": "request_uri",
}
"""Methods, and what of `ngx.ctx` their values are made of. The host is there from Kong 3.10 on."""

PROTOCOL: Final = "kong.client.get_protocol"
"""Is told by the route, or else by the scheme (pdk/client.lua): there Kong looks at nginx's variables."""

_RESERVED: Final = frozenset(b"!*'();:@&=+$,/?%#[]")
_ESCAPED: Final = re.compile(b"%([0-9a-fA-F]{2})")
_SLASHES: Final = re.compile(b"/+")


def from_kept(method: str, kept: str) -> str:
    """A method's value.

    Args:
        method: a key of `KEPT`.
        kept: what Kong kept.
    """
    path, _, query = kept.partition("?")
    match method:
        case "kong.request.get_path":
            return normalise(path)
        case "kong.request.get_raw_path":
            return path
        case "kong.request.get_raw_query":
            return query
    return kept


def host_of(header: str) -> str:
    """Nginx's `$host`, of the header: without port, in lower case."""
    name, colon, port = header.rpartition(":")
    return (name if colon and not port.endswith("]") else header).lower()


def normalise(path: str) -> str:
    """A path as `kong.request.get_path` gives it: decoded but for reserved characters, no dot segments, no `//`."""
    raw = _ESCAPED.sub(_decoded, path.encode("utf-8", "surrogateescape"))
    out: list[bytes] = []
    segments = _SLASHES.sub(b"/", raw).split(b"/")
    for number, segment in enumerate(segments[1:], 1):
        if segment not in (b".", b".."):
            out.append(segment)
            continue
        if segment == b".." and out:
            out.pop()
        if number == len(segments) - 1:
            out.append(b"")
    return (b"/" + b"/".join(out) if raw else raw).decode("utf-8", "surrogateescape")


def _decoded(match: re.Match[bytes]) -> bytes:
    byte = int(match[1], 16)
    return match[0].upper() if byte in _RESERVED else bytes((byte,))
