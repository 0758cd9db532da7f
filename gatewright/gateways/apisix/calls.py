"""What the gateway sends: PrepareConf, HTTPReqCall, HTTPRespCall and the answers to ExtraInfo, read and built.

The readers take a whole frame, header included, and keep it: fields are decoded when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote

from gatewright.datastructures import CutEntries
from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import _building as building
from gatewright.gateways.apisix import _reading as reading
from gatewright.gateways.apisix._building import Piece
from gatewright.gateways.apisix._reading import Entry
from gatewright.gateways.apisix._request import RequestReader
from gatewright.gateways.apisix.frames import FrameType, encode_frame

__all__ = [
    "METHODS",
    "MOST_PLUGINS",
    "PROBE_KEY",
    "CutHttpReqCall",
    "HttpReqCall",
    "HttpRespCall",
    "PrepareConf",
    "WholeHttpReqCall",
    "decode_extra_info_result",
    "encode_extra_info_result",
    "encode_http_req_call",
    "encode_http_resp_call",
    "encode_prepare_conf",
]

METHODS: Final = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "MKCOL", "COPY", "MOVE",
    "OPTIONS", "PROPFIND", "PROPPATCH", "LOCK", "UNLOCK", "PATCH", "TRACE",
)  # fmt: skip
"""The Method enum in wire order. APISIX answers 500 itself for a method outside it."""

PROBE_KEY: Final = "gatewright doctor"
"""The key of a PrepareConf without plugins that only asks whether a runner answers."""

MOST_PLUGINS: Final = 1000
"""Plugins of one configuration."""
_CAP: Final = 100
_DRIFT: Final = 10  # headers that APISIX's own plugins may have added to what was cut, or taken away
FEWEST: Final = 32 * (_CAP - _DRIFT)  # bytes of so many headers, at the least


class PrepareConf:
    """Type 1: a route's plugin configurations, under a key, to be exchanged for a conf token.

    Attributes:
        key: APISIX's idempotent key, opaque text (it has many forms).
        conf: plugin name and configuration text, in execution order. The field may be absent: no plugins.

    Raises:
        ProtocolError: the frame is malformed, or names so many plugins that it can only be meant to do harm. Entries
            may all point at one text, so that is looked at before any of them is read.
    """

    __slots__ = ("conf", "key")

    def __init__(self, frame: bytes) -> None:
        table = reading.read_root(frame, reading.HEADER)
        layout = reading.layout_at(frame, table)
        count = reading.count_entries(frame, table, layout[0])
        if count > MOST_PLUGINS:
            raise ProtocolError(f"a configuration names {count} plugins, the limit is {MOST_PLUGINS}")
        self.conf: list[tuple[str, str]] = [
            (name, value or "") for name, value in reading.read_entries(frame, table, layout[0])
        ]
        self.key: str = reading.read_string(frame, table, layout[1]) or ""


class HttpReqCall(RequestReader):
    """Type 2: a request on its way to the upstream. Slots: id, src_ip, method, path, args, headers, conf_token.

    Attributes:
        id: the gateway's number for this call; 0 is valid, and numbers come again.
        conf_token: what the gateway got for the route's configuration.
    """

    __slots__ = ()

    cuts_headers: bool | None = None
    """Whether this gateway hands over 100 headers at most; `None` where that's not known."""

    @property
    def frame(self) -> bytes:
        """As it came."""
        return self._frame

    @property
    def method(self) -> str:
        """The method's name."""
        number = reading.read_u8(self._frame, self._table, self._layout[2])
        try:
            return METHODS[number]
        except IndexError:
            raise ProtocolError(f"method number {number} is not in the protocol's enum") from None

    @property
    def path(self) -> str:
        """`$uri` (decoded) or, after another plugin set it, `$upstream_uri` (escaped), without the query."""
        return reading.read_string(self._frame, self._table, self._layout[3]) or ""

    @property
    def src_ip(self) -> bytes:
        """The client's address: 4 bytes, or 16 for IPv6."""
        return reading.read_bytes(self._frame, self._table, self._layout[1]) or b""

    def read_args(self) -> list[Entry]:
        """The query's arguments, decoded; `None` as value for one without `=`."""
        return reading.read_entries(self._frame, self._table, self._layout[4])

    def read_headers(self) -> list[Entry]:
        """The request's headers, names in lower case unless a plugin rewrote them, repeats apart."""
        entries = self.header_entries()
        return CutEntries(entries) if len(self._frame) > FEWEST and self.headers_cut else entries

    @property
    def headers_cut(self) -> bool:
        """Whether the client may have sent more headers than these.

        From 3.10 on 100 are handed over, and plugins before this one may have changed that number a little
        (core/request.lua, `_headers`). Where the version isn't known, many more than 100 show that none were cut.
        """
        if self.cuts_headers is False:
            return False
        count = reading.count_entries(self._frame, self._table, self._layout[5])
        return count >= _CAP - _DRIFT and (self.cuts_headers or count <= _CAP + _DRIFT)

    @property
    def headers_at_hand(self) -> bool:
        """Any header can be had without a question to the gateway."""
        return not self.headers_cut

    def look_for(self, name: str) -> bool | None:
        """What `has_header` gives: whether there is such a header (in lower case), decoding as little as can be.

        Names come in lower case, unless an earlier phase left others behind. `None`: it may have been cut off.
        """
        found = self.has_entry(name)
        if found:
            return True
        if len(self._frame) > FEWEST and self.headers_cut:
            return None
        return False if found is False else any(present.lower() == name for present, _ in self.read_headers())

    def look_up(self, name: str) -> list[str | None] | None:
        """What `header_values` gives: one header's values (its name in lower case); `None`: all are to be decoded."""
        if len(self._frame) > FEWEST and self.headers_cut:
            return None
        return self.find_entry(name)

    def may_have_alike(self, names: tuple[str, ...]) -> bool:
        """Whether any header may be one that an upstream takes for one of these; a look that decodes nothing."""
        return (len(self._frame) > FEWEST and self.headers_cut) or self.has_alike(names)

    def has_args(self) -> bool:
        """Whether the query has any argument."""
        return reading.count_entries(self._frame, self._table, self._layout[4]) > 0

    @property
    def may_be_escaped(self) -> bool:
        """Whether the path looks the same as one that is escaped."""
        return b"%" in self._frame and "%" in self.path

    def with_escaped_path(self) -> HttpReqCall:
        """The same, but its path is known to be `$upstream_uri`, which is escaped."""
        other = _RewrittenHttpReqCall(self._frame)
        other.cuts_headers = self.cuts_headers
        return other


class CutHttpReqCall(HttpReqCall):
    """As a gateway from 3.10 on sends it."""

    __slots__ = ()
    cuts_headers = True


class WholeHttpReqCall(HttpReqCall):
    """As a gateway before 3.10 sends it."""

    __slots__ = ()
    cuts_headers = False


class _RewrittenHttpReqCall(HttpReqCall):
    __slots__ = ("cuts_headers",)
    cuts_headers: bool | None

    @property
    def path(self) -> str:
        return unquote(super().path, errors="surrogateescape")


class HttpRespCall:
    """Type 4: the upstream's answer on its way to the client. Slots: id, status, headers, conf_token."""

    __slots__ = ("_frame", "_layout", "_table", "conf_token", "id", "status")

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._table = table = reading.read_root(frame, reading.HEADER)
        self._layout = layout = reading.layout_at(frame, table)
        self.id = reading.read_u32(frame, table, layout[0])
        self.status = reading.read_u16(frame, table, layout[1])
        self.conf_token = reading.read_u32(frame, table, layout[3])

    @property
    def frame(self) -> bytes:
        """As it came."""
        return self._frame

    def read_headers(self) -> list[Entry]:
        """The upstream's headers, names in the upstream's case, repeats apart."""
        return reading.read_entries(self._frame, self._table, self._layout[2])


def decode_extra_info_result(frame: bytes) -> bytes | None:
    """The answer to an ExtraInfo question; `None` when there is no such value."""
    table = reading.read_root(frame, reading.HEADER)
    return reading.read_bytes(frame, table, reading.layout_at(frame, table)[0])


# --- the gateway's side of the same messages ---------------------------------------------------------------------


def _entries(entries: Sequence[Entry]) -> Piece:
    return Piece(building.build_entries(entries))


def encode_prepare_conf(key: str, conf: Sequence[tuple[str, str]] | None) -> bytes:
    """A PrepareConf frame; `None` leaves the `conf` field out, as APISIX does for a route without any."""
    if conf is None:
        table = building.build_table("-O", Piece(building.build_string(key)))
    else:
        table = building.build_table("OO", _entries(conf), Piece(building.build_string(key)))
    return encode_frame(FrameType.PREPARE_CONF, building.build_root(table))


def encode_http_req_call(
    *,
    id: int,
    conf_token: int,
    src_ip: bytes,
    method: str,
    path: str,
    args: Sequence[Entry],
    headers: Sequence[Entry],
) -> bytes:
    """An HTTPReqCall frame.

    Raises:
        ProtocolError: the method is not in the protocol's enum, or the frame would be too long.
    """
    if method not in METHODS:
        raise ProtocolError(f"method {method!r} is not in the protocol's enum")
    table = building.build_table(
        "IOBOOOI",
        id,
        Piece(building.build_bytes(src_ip)),
        METHODS.index(method),
        Piece(building.build_string(path)),
        _entries(args),
        _entries(headers),
        conf_token,
    )
    return encode_frame(FrameType.HTTP_REQ_CALL, building.build_root(table))


def encode_http_resp_call(*, id: int, conf_token: int, status: int, headers: Sequence[Entry]) -> bytes:
    """An HTTPRespCall frame."""
    table = building.build_table("IHOI", id, status, _entries(headers), conf_token)
    return encode_frame(FrameType.HTTP_RESP_CALL, building.build_root(table))


def encode_extra_info_result(result: bytes | None) -> bytes:
    """The answer to an ExtraInfo question; `None` says that there is no such value."""
    table = (
        building.build_table("-") if result is None else building.build_table("O", Piece(building.build_bytes(result)))
    )
    return encode_frame(FrameType.EXTRA_INFO, building.build_root(table))
