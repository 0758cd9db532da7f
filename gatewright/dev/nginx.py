"""What nginx does with targets, arguments and header values, for both gateways."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from gatewright.dev.messages import Headers, raw, text_of

__all__ = [
    "Args", "Target", "TargetError", "escape", "format_args", "forwarded_address", "header_name", "header_value",
    "host_name", "normalise", "parse_args", "set_header", "split_target", "unescape", "valid_host",
]  # fmt: skip

Args = dict[str, list["str | None"]]

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!*'()")


def escape(text: str, *, component: bool = False) -> str:
    """Escape as nginx does: a path (type 0), or a component of the query."""
    out = []
    for byte in raw(text):
        if component:
            plain = byte in _UNRESERVED
        else:
            plain = 0x20 < byte < 0x7F and byte not in b'"#%<>?\\^`{|}'
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


class TargetError(ValueError):
    """A target that nginx answers with 400."""


@dataclass(frozen=True, slots=True)
class Target:
    """A request's target, taken apart.

    Attributes:
        host: of an absolute target, else empty.
        unparsed: `$request_uri`: as the client sent it, without scheme and host.
        uri: `$uri`: decoded and normalised.
        args: `$args`: as the client sent it, `None` where there is no question mark.
        quoted: there are percent-escapes in the path; only then does nginx escape it again.
        passed_on: it goes upstream as the client sent it, where nothing changes it.
    """

    host: str
    unparsed: str
    uri: str
    args: str | None
    quoted: bool
    passed_on: bool


_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(\[[^\[\]/?# ]*\]|[A-Za-z0-9.-]*)(?::[0-9]*)?(?=[/?]|$)")


@lru_cache(maxsize=256)
def split_target(target: str) -> Target:
    """Take a target apart as nginx does (ngx_http_parse_request_line, ngx_http_process_request_uri).

    Raises:
        TargetError: nginx refuses it.
    """
    host, passed_on = "", True
    if not target.startswith("/"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None:
            raise TargetError("neither a path nor an absolute URL")
        host = absolute[1].lower()
        if not valid_host(host):
            raise TargetError("client sent invalid host in request line")
        target = target[absolute.end() :]
        passed_on = not target.startswith("?")
        target = target or "/"
    before_fragment = target.partition("#")[0]
    path, question, args = before_fragment.partition("?")
    return Target(
        host=host_name(host),
        unparsed=target,
        uri=normalise(path if passed_on else "/"),
        args=args if question else None,
        quoted="%" in path,
        passed_on=passed_on,
    )


def valid_host(host: str) -> bool:
    """Whether nginx takes a host, with or without a port (ngx_http_validate_host)."""
    if ".." in host or "/" in host or any(ord(char) <= 0x20 or ord(char) == 0x7F for char in host):
        return False
    return host_name(host) != ""


def host_name(host: str) -> str:
    """The name in a host that may have a port: in lower case, without a last dot."""
    name = re.match(r"\[[^\]]*\]|[^:]*", host)
    return name[0].lower().removesuffix(".") if name is not None else ""


def forwarded_address(value: str) -> tuple[str, str] | None:
    """Address and port (or nothing) in a header that a proxy set: the last one of a list.

    As `real_ip_header` reads it; what is no address is ignored.
    """
    last = re.split("[ ,]", value.rstrip(" ,"))[-1]
    with_port = re.fullmatch(r"(?:\[([^\]]+)\]|([0-9.]+))(?::([0-9]{1,5}))?", last)
    if with_port is not None:
        if with_port[3] is not None and not 1 <= int(with_port[3]) <= 65535:
            return None
        last = with_port[1] or with_port[2]
    try:
        return str(ip_address(last)), (with_port[3] or "") if with_port is not None else ""
    except ValueError:
        return None


def normalise(path: str) -> str:
    """Nginx's `$uri`: decoded, slashes merged, dot segments resolved (ngx_http_parse_complex_uri).

    Raises:
        TargetError: an escape is not one or is a NUL, or dots lead above the root.
    """
    data = raw(path)
    if re.search(rb"%(?![0-9A-Fa-f]{2})|%00", data):
        raise TargetError("an escape that is none, or a NUL")
    out: list[bytes] = []
    # Escaped slashes and dots count as such; an escaped `?` or `#` is a character of the path.
    segments = re.sub(b"/+", b"/", re.sub(rb"%(..)", lambda match: bytes((int(match[1], 16),)), data)).split(b"/")
    for number, segment in enumerate(segments[1:], 1):
        last = number == len(segments) - 1
        if segment == b"..":
            if not out:
                raise TargetError("dots that lead above the root")
            out.pop()
            if last:
                out.append(b"")
        elif segment == b".":
            if last:
                out.append(b"")
        else:
            out.append(segment)
    return text_of(b"/" + b"/".join(out))


def set_header(headers: Headers, name: str, values: list[str]) -> Headers:
    """Set a header as nginx does: one that is there keeps its place and its name's case."""
    lower = name.lower()
    at = next((i for i, (present, _) in enumerate(headers) if present.lower() == lower), len(headers))
    kept = headers[at][0] if at < len(headers) else name
    before = headers[:at]
    after = [entry for entry in headers[at:] if entry[0].lower() != lower]
    return [*before, *((kept if i == 0 else name, value) for i, value in enumerate(values)), *after]


def header_name(name: str) -> str:
    """A header's name as Lua lets it out: what can't be in one is escaped."""
    return re.sub(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]", lambda match: b"%%%02X" % match[0][0], raw(name)).decode("ascii")


def header_value(value: str) -> str:
    """A header's value as Lua lets it out: control characters escaped, but for the tab."""
    return re.sub(r"[\0-\x08\n-\x1f\x7f]", lambda match: f"%{ord(match[0]):02X}", value)
