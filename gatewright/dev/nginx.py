"""What nginx does with targets, arguments and header values, for both gateways."""

from __future__ import annotations

import re

from gatewright.dev.messages import Headers, raw, text_of

__all__ = ["Args", "escape", "format_args", "header_value", "normalise", "parse_args", "set_header", "unescape"]

Args = dict[str, list["str | None"]]

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!*'()")


def escape(text: str, *, component: bool = False) -> str:
    """Escape as nginx does: a path (type 0), or a component of the query."""
    out = []
    for byte in raw(text):
        if component:
            plain = byte in _UNRESERVED
        else:
            plain = 0x20 < byte < 0x7F and byte not in b"#%?"
        out.append(chr(byte) if plain else f"%{byte:02X}")
    return "".join(out)


def unescape(text: str, *, plus: bool = False) -> str:
    """Undo percent-escapes; what is not one stays as it is."""
    data = raw(text)
    if plus:
        data = data.replace(b"+", b" ")
    return text_of(re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes((int(match[1], 16),)), data))


def parse_args(query: str) -> Args:
    """As `ngx.req.get_uri_args`: `None` for an argument without `=`; one without a name is left out."""
    args: Args = {}
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if name:
            args.setdefault(unescape(name, plus=True), []).append(unescape(value, plus=True) if equals else None)
    return args


def format_args(args: Args) -> str:
    """As `ngx.encode_args`."""
    parts = []
    for name, values in args.items():
        key = escape(name, component=True)
        for value in values:
            parts.append(key if value is None else f"{key}={escape(value, component=True)}")
    return "&".join(parts)


def normalise(path: str) -> str:
    """Nginx's `$uri`: decoded, slashes merged, dot segments resolved."""
    out: list[str] = []
    segments = re.sub("/+", "/", unescape(path)).split("/")
    for number, segment in enumerate(segments[1:], 1):
        last = number == len(segments) - 1
        if segment == "..":
            if out:
                out.pop()
            if last:
                out.append("")
        elif segment == ".":
            if last:
                out.append("")
        else:
            out.append(segment)
    return "/" + "/".join(out)


def set_header(headers: Headers, name: str, values: list[str]) -> Headers:
    """Set a header as nginx does: one that is there keeps its place and its name's case."""
    lower = name.lower()
    at = next((i for i, (present, _) in enumerate(headers) if present.lower() == lower), len(headers))
    kept = headers[at][0] if at < len(headers) else name
    before = headers[:at]
    after = [entry for entry in headers[at:] if entry[0].lower() != lower]
    return [*before, *((kept if i == 0 else name, value) for i, value in enumerate(values)), *after]


def header_value(value: str) -> str:
    """A header's value as nginx lets it out: line breaks and NUL escaped."""
    return re.sub(r"[\r\n\0]", lambda match: f"%{ord(match[0]):02X}", value)
