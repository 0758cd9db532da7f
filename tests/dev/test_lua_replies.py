"""Frames that are not well-formed, read as APISIX's Lua reads them; and well-formed ones as the strict reader does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.dev.apisix import lua_replies
from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.replies import InfoRequest, InfoType, RespReply, Rewrite, Stop

ENTRIES = [("x-a", "1"), ("x-b", None)]


@pytest.mark.parametrize(
    "action",
    [
        Stop(403, ENTRIES, b"no"), Stop(0), Rewrite(path="/n"), Rewrite(headers=[("x", "\udce9")]),
        Rewrite(path="", args=ENTRIES, resp_headers=[("x-r", "")], body=b"\x00\xff"),
    ],
)  # fmt: skip
def test_what_is_well_formed_is_what_it_says(action: Stop | Rewrite) -> None:
    encode = replies.encode_stop if isinstance(action, Stop) else replies.encode_rewrite
    assert lua_replies.read_action(encode(7, action)) == replies.decode_action(encode(7, action))


def test_other_frames() -> None:
    reply = RespReply(201, ENTRIES, b"own")
    assert lua_replies.read_resp_reply(replies.encode_resp_reply(0, reply)) == reply
    assert lua_replies.read_token(replies.encode_conf_token(2**32 - 1)) == 2**32 - 1
    assert lua_replies.read_action(replies.encode_no_action(0)) is None
    for question in (InfoRequest(InfoType.VAR, "uri"), InfoRequest(InfoType.REQ_BODY), InfoRequest(InfoType.RESP_BODY)):
        assert lua_replies.read_info_request(replies.encode_info_request(question)) == question


def test_a_body_that_is_said_to_go_on_ends_with_the_frame() -> None:
    frame = replies.encode_stop(0, Stop(200, (), b"body"))
    longer = frame.replace(b"\x04\0\0\0body", b"\xff\0\0\0body")
    assert longer != frame
    action = lua_replies.read_action(longer)
    assert isinstance(action, Stop)
    assert action.body.startswith(b"body")


def test_zeros_are_a_table_without_a_field() -> None:
    assert lua_replies.read_action(b"\2\0\0\4" + bytes(4)) is None
    with pytest.raises(ProtocolError):
        lua_replies.read_action(b"\2\0\0\1" + bytes(1))


def test_a_type_that_is_beyond_the_frame_is_none() -> None:
    payload = bytes.fromhex("10000000 00000a00 10000400 0c000800 0a000000 00000000")
    assert lua_replies.read_action(b"\2\0\0\x18" + payload) is None


def test_a_type_without_what_it_is_the_type_of_is_lua_s_error() -> None:
    for read, frame in (
        (lua_replies.read_action, replies.encode_stop(0, Stop(200))),
        (lua_replies.read_info_request, replies.encode_info_request(InfoRequest(InfoType.REQ_BODY))),
    ):
        # The vtable's last slot is that of the table below.
        size = int.from_bytes(frame[4:8], "little") + 4
        vtable = size - int.from_bytes(frame[size : size + 4], "little", signed=True)
        end = vtable + int.from_bytes(frame[vtable : vtable + 2], "little")
        with pytest.raises(ProtocolError):
            read(frame[: end - 2] + b"\0\0" + frame[end:])


@given(st.binary(max_size=80))
def test_whatever_comes_is_read_or_refused(payload: bytes) -> None:
    for read in (
        lua_replies.read_action, lua_replies.read_resp_reply, lua_replies.read_info_request, lua_replies.read_token,
    ):  # fmt: skip
        try:
            read(b"\2\0\0\0" + payload)
        except ProtocolError:
            continue


def test_entries_before_one_that_is_beyond_the_frame_are_read() -> None:
    frame = bytearray(replies.encode_resp_reply(0, RespReply(0, [("x-a", "1"), ("x-b", "2")])))
    vector = frame.index(b"\2\0\0\0", 8)
    while vector + 12 > len(frame) or frame[vector + 8 : vector + 12] == b"\0\0\0\0":
        vector = frame.index(b"\2\0\0\0", vector + 1)
    frame[vector + 8 : vector + 12] = b"\0\0\xff\0"  # where the second one is said to be
    entries = lua_replies.read_resp_headers(bytes(frame))
    assert next(entries) == ("x-a", "1")
    with pytest.raises(ProtocolError):
        next(entries)
