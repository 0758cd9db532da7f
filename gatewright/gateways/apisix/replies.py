"""What the runner sends: conf tokens, actions, ExtraInfo questions and errors, built and read.

The builders give whole frames. The readers serve the embedded gateway and the tests, and take what a real
APISIX takes, no more.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Final

from gatewright.gateways.apisix import _building as building
from gatewright.gateways.apisix import _reading as reading
from gatewright.gateways.apisix._building import Piece
from gatewright.gateways.apisix._reading import Entry
from gatewright.gateways.apisix.frames import MAX_PAYLOAD, FrameType, encode_frame

__all__ = [
    "NO_ACTION_HEAD",
    "ErrorCode",
    "InfoRequest",
    "InfoType",
    "RespReply",
    "Rewrite",
    "Stop",
    "decode_action",
    "decode_conf_token",
    "decode_error",
    "decode_info_request",
    "decode_req_reply",
    "decode_resp_reply",
    "encode_conf_token",
    "encode_error",
    "encode_info_request",
    "encode_no_action",
    "encode_resp_reply",
    "encode_rewrite",
    "encode_stop",
    "split_rewrite",
]

_HEADER: Final = 4
_STOP: Final = 1
_REWRITE: Final = 2
_LONGEST_KEPT: Final = 128
"""Characters of a variable's name: plugins ask for the same few, but may make names up of a client's text."""


class ErrorCode(IntEnum):
    """Why a call is refused. Only as frame type 0 is it an error: under type 2 it reads as "no action"."""

    BAD_REQUEST = 0
    SERVICE_UNAVAILABLE = 1
    CONF_TOKEN_NOT_FOUND = 2


class InfoType(IntEnum):
    """What ExtraInfo can ask for."""

    NONE = 0
    VAR = 1
    REQ_BODY = 2
    RESP_BODY = 3


@dataclass(frozen=True, slots=True)
class Stop:
    """Answer the client now. Status 0 means 200; an absent or empty body is no body."""

    status: int
    headers: Sequence[Entry] = field(default_factory=list)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Go on with a changed request. `None`, or nothing in it, leaves a part untouched."""

    path: str | None = None
    headers: Sequence[Entry] = field(default_factory=list)
    args: Sequence[Entry] = field(default_factory=list)
    resp_headers: Sequence[Entry] = field(default_factory=list)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class RespReply:
    """What to make of the upstream's answer. Status 0 keeps it; no headers keeps them but for ten names."""

    status: int = 0
    headers: Sequence[Entry] = field(default_factory=list)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class InfoRequest:
    """A question to the gateway: its type (a number outside `InfoType` is possible) and, for VAR, the name."""

    kind: int
    name: str | None = None


# --- building ----------------------------------------------------------------------------------------------------


def encode_conf_token(token: int) -> bytes:
    """The answer to PrepareConf."""
    return encode_frame(FrameType.PREPARE_CONF, building.build_root(building.build_table("I", token)))


def encode_error(code: ErrorCode) -> bytes:
    """A refusal (type 0); APISIX closes the connection after it."""
    return encode_frame(FrameType.ERROR, building.build_root(building.build_table("B", code)))


def encode_no_action(id: int) -> bytes:
    """The answer to HTTPReqCall that changes nothing."""
    return NO_ACTION_HEAD + id.to_bytes(4, "little")


NO_ACTION_HEAD: Final = encode_frame(FrameType.HTTP_REQ_CALL, building.build_root(building.build_table("I", 0)))[:-4]
"""What stands before the id in it."""


def encode_stop(id: int, stop: Stop) -> bytes:
    """The answer to HTTPReqCall that ends the request."""
    kinds = "H" + ("O" if stop.headers else "-") + ("O" if stop.body else "-")
    values: list[int | Piece] = [stop.status]
    if stop.headers:
        values.append(Piece(building.build_entries(stop.headers)))
    if stop.body:
        values.append(Piece(building.build_bytes(stop.body)))
    action = building.build_table(kinds, *values)
    return encode_frame(FrameType.HTTP_REQ_CALL, building.build_root(building.build_table("IBO", id, _STOP, action)))


@lru_cache(maxsize=32)
def _rewrite_plan(kinds: str) -> tuple[struct.Struct, bytes, bytes]:
    """All of a Rewrite reply but its id and the five fields, for one choice of fields that are present.

    The reply to nearly every call has the same shape, so its two tables are laid out once: 1.1 us a call
    where building them anew takes 3.4 us.
    """
    count = kinds.count("O")
    empty = building.build_table(kinds, *([Piece(b"")] * count))
    template = building.build_root(building.build_table("IBO", 0xFFFFFFFF, _REWRITE, empty))
    at = template.index(b"\xff\xff\xff\xff")
    middle = template[at + 4 : len(template) - 4 * count]
    return struct.Struct(f"<{at}sI{len(middle)}s{count}I"), template[:at], middle


def encode_rewrite(id: int, rewrite: Rewrite) -> bytes:
    """The answer to HTTPReqCall that lets a changed request go on."""
    pieces: list[bytes] = []
    kinds = ""
    if rewrite.path is None:
        kinds += "-"
    else:
        kinds += "O"
        pieces.append(building.build_string(rewrite.path))
    for entries in (rewrite.headers, rewrite.args, rewrite.resp_headers):
        if entries:
            kinds += "O"
            pieces.append(building.build_entries(entries))
        else:
            kinds += "-"
    if rewrite.body:
        kinds += "O"
        pieces.append(building.build_bytes(rewrite.body))
    else:
        kinds += "-"
    return _join_rewrite(id, kinds, pieces)


def split_rewrite(rewrite: Rewrite) -> tuple[bytes, bytes]:
    """The frame of `encode_rewrite` in two parts, between which the id belongs (4 bytes, little-endian)."""
    frame = encode_rewrite(0xFFFFFFFF, rewrite)
    at = frame.index(b"\xff\xff\xff\xff")
    return frame[:at], frame[at + 4 :]


def _join_rewrite(id: int, kinds: str, pieces: list[bytes]) -> bytes:
    plan, head, middle = _rewrite_plan(kinds)
    references = []
    at = 4 * len(pieces)
    for piece in pieces:
        references.append(at)
        at += len(piece) - 4
    payload = plan.pack(head, id, middle, *references)
    size = len(payload) + at
    if size > MAX_PAYLOAD:
        return encode_frame(FrameType.HTTP_REQ_CALL, payload + b"".join(pieces))  # raises, with the limit
    return (FrameType.HTTP_REQ_CALL << 24 | size).to_bytes(4, "big") + payload + b"".join(pieces)


def encode_resp_reply(id: int, reply: RespReply) -> bytes:
    """The answer to HTTPRespCall."""
    kinds = "I" + ("H" if reply.status else "-") + ("O" if reply.headers else "-") + ("O" if reply.body else "-")
    values: list[int | Piece] = [id]
    if reply.status:
        values.append(reply.status)
    if reply.headers:
        values.append(Piece(building.build_entries(reply.headers)))
    if reply.body:
        values.append(Piece(building.build_bytes(reply.body)))
    return encode_frame(FrameType.HTTP_RESP_CALL, building.build_root(building.build_table(kinds, *values)))


def encode_info_request(request: InfoRequest) -> bytes:
    """An ExtraInfo question."""
    if request.name is not None and len(request.name) > _LONGEST_KEPT:
        return _encode_info_request.__wrapped__(request)
    return _encode_info_request(request)


@lru_cache(maxsize=128)
def _encode_info_request(request: InfoRequest) -> bytes:
    if request.kind == InfoType.VAR:
        info = building.build_table("O", Piece(building.build_string(request.name or "")))
    else:
        info = building.build_table("")
    return encode_frame(FrameType.EXTRA_INFO, building.build_root(building.build_table("BO", request.kind, info)))


# --- reading: the gateway's side ---------------------------------------------------------------------------------


def decode_conf_token(frame: bytes) -> int:
    """The token in an answer to PrepareConf; 0 where absent."""
    table = reading.read_root(frame, _HEADER)
    return reading.read_u32(frame, table, reading.layout_at(frame, table)[0])


def decode_error(frame: bytes) -> int:
    """The code of an error frame; usually an `ErrorCode`."""
    table = reading.read_root(frame, _HEADER)
    return reading.read_u8(frame, table, reading.layout_at(frame, table)[0])


def decode_action(frame: bytes) -> Stop | Rewrite | None:
    """The action of an answer to HTTPReqCall; `None` for none, or one of unknown type. APISIX looks at no more."""
    table = reading.read_root(frame, _HEADER)
    layout = reading.layout_at(frame, table)
    kind = reading.read_u8(frame, table, layout[1])
    action = reading.read_table(frame, table, layout[2])
    if action is None or kind not in (_STOP, _REWRITE):
        return None
    layout = reading.layout_at(frame, action)
    if kind == _STOP:
        return Stop(
            status=reading.read_u16(frame, action, layout[0]),
            headers=reading.read_entries(frame, action, layout[1]),
            body=reading.read_bytes(frame, action, layout[2]) or b"",
        )
    return Rewrite(
        path=reading.read_string(frame, action, layout[0]),
        headers=reading.read_entries(frame, action, layout[1]),
        args=reading.read_entries(frame, action, layout[2]),
        resp_headers=reading.read_entries(frame, action, layout[3]),
        body=reading.read_bytes(frame, action, layout[4]) or b"",
    )


def decode_req_reply(frame: bytes) -> tuple[int, Stop | Rewrite | None]:
    """Id and action of an answer to HTTPReqCall."""
    table = reading.read_root(frame, _HEADER)
    return reading.read_u32(frame, table, reading.layout_at(frame, table)[0]), decode_action(frame)


def decode_resp_reply(frame: bytes) -> tuple[int, RespReply]:
    """Id and content of an answer to HTTPRespCall."""
    table = reading.read_root(frame, _HEADER)
    layout = reading.layout_at(frame, table)
    return reading.read_u32(frame, table, layout[0]), RespReply(
        status=reading.read_u16(frame, table, layout[1]),
        headers=reading.read_entries(frame, table, layout[2]),
        body=reading.read_bytes(frame, table, layout[3]) or b"",
    )


def decode_info_request(frame: bytes) -> InfoRequest:
    """An ExtraInfo question."""
    table = reading.read_root(frame, _HEADER)
    layout = reading.layout_at(frame, table)
    kind = reading.read_u8(frame, table, layout[0])
    info = reading.read_table(frame, table, layout[1])
    if kind != InfoType.VAR or info is None:
        return InfoRequest(kind)
    return InfoRequest(kind, reading.read_string(frame, info, reading.layout_at(frame, info)[0]))
