"""Frames and session: any split, any bytes, the right states."""

from __future__ import annotations

import contextlib
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix._reading import find_entry, has_entry, read_entries
from gatewright.gateways.apisix.frames import MAX_PAYLOAD, FrameBuffer, encode_frame
from gatewright.gateways.apisix.session import ApisixSession, State
from gatewright.gateways.events import Answer, Prepare, Refusal
from gatewright.http import Question, RequestCall, ResponseCall

REQUEST = calls.encode_http_req_call(
    id=0, conf_token=7, src_ip=b"\x7f\0\0\1", method="GET", path="/a", args=[("z", None)], headers=[("host", "x")]
)
PREPARE = calls.encode_prepare_conf("route#1", [("greet", "{}")])
RESPONSE = calls.encode_http_resp_call(id=3, conf_token=7, status=200, headers=[("X-A", "1")])
ANSWER = calls.encode_extra_info_result(b"value")


def test_a_frame_may_be_split_at_every_byte() -> None:
    for at in range(1, len(REQUEST)):
        session = ApisixSession()
        assert not session.receive_data(REQUEST[:at])
        assert session.buffered == at
        (call,) = session.receive_data(REQUEST[at:])
        assert isinstance(call, RequestCall)
        assert (call.source.path, session.buffered, session.busy) == ("/a", 0, True)


def test_a_frame_may_come_byte_by_byte() -> None:
    session = ApisixSession()
    events = [event for byte in REQUEST for event in session.receive_data(bytes([byte]))]
    assert len(events) == 1


def test_the_longest_frame_is_taken_and_a_longer_one_cannot_be_made() -> None:
    payload = bytes(MAX_PAYLOAD)
    frame = encode_frame(3, payload)
    buffer = FrameBuffer()
    buffer.feed(frame[:1000])
    assert buffer.next_frame() is None
    buffer.feed(frame[1000:])
    assert buffer.next_frame() == frame
    with pytest.raises(ProtocolError, match="at most 16777215"):
        encode_frame(3, payload + b"x")


def test_an_empty_payload_is_never_sent() -> None:
    with pytest.raises(ProtocolError, match="empty payload"):
        encode_frame(2, b"")


def test_a_frame_over_the_limit_is_refused_from_its_header_alone() -> None:
    session = ApisixSession(max_payload=1024)
    with pytest.raises(ProtocolError, match="announces 65536 bytes"):
        session.receive_data(b"\x02\x01\x00\x00")


def test_the_session_follows_one_rpc_after_the_other() -> None:
    session = ApisixSession()
    (prepare,) = session.receive_data(PREPARE)
    assert prepare == Prepare("route#1", [("greet", "{}")])
    assert session.state is State.PREPARING
    assert replies.decode_conf_token(session.token(0)) == 0
    (call,) = session.receive_data(REQUEST)
    assert isinstance(call, RequestCall)
    assert session.state is State.CALLED
    asked = session.ask(Question("var", "host"))
    assert replies.decode_info_request(asked).name == "host"
    assert list(session.receive_data(ANSWER)) == [Answer(b"value")]
    assert replies.decode_req_reply(session.reply(call, None)) == (0, None)
    assert session.state is State.IDLE
    (call,) = session.receive_data(RESPONSE)
    assert isinstance(call, ResponseCall)
    assert session.refuse(Refusal.UNKNOWN_CONF)[0] == 0
    assert session.state is State.IDLE


def test_a_call_sent_early_waits_for_the_reply_to_the_first() -> None:
    session = ApisixSession()
    (first,) = session.receive_data(REQUEST + REQUEST)
    assert session.buffered == len(REQUEST)
    session.reply(first, None)
    (second,) = session.receive_data(b"")
    assert isinstance(second, RequestCall)


def test_an_answer_to_an_abandoned_question_is_no_error() -> None:
    session = ApisixSession()
    session.receive_data(REQUEST)
    session.ask(Question("request_body"))
    session.refuse(Refusal.UNAVAILABLE)
    assert list(session.receive_data(ANSWER)) == [Answer(b"value")]


@pytest.mark.parametrize(
    ("frame", "message"),
    [(ANSWER, "not asked"), (b"\x09\0\0\x04\0\0\0\0", "unknown frame type 9"), (b"\0\0\0\x04\0\0\0\0", "type 0")],
)
def test_a_frame_out_of_place_is_a_protocol_error(frame: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        ApisixSession().receive_data(frame)


def decode_everything(frame: bytes) -> None:
    """Read every field of whatever the frame is, as every message that it could be."""
    for read in (
        lambda: calls.PrepareConf(frame),
        lambda: calls.decode_extra_info_result(frame),
        lambda: replies.decode_req_reply(frame),
        lambda: replies.decode_resp_reply(frame),
        lambda: replies.decode_info_request(frame),
        lambda: replies.decode_conf_token(frame),
        lambda: replies.decode_error(frame),
        lambda: calls.HttpRespCall(frame).read_headers(),
    ):
        with contextlib.suppress(ProtocolError):
            read()
    with contextlib.suppress(ProtocolError):
        call = calls.HttpReqCall(frame)
        for field in (lambda: call.method, lambda: call.path, lambda: call.src_ip, call.read_args, call.read_headers):
            with contextlib.suppress(ProtocolError):
                field()
        with contextlib.suppress(ProtocolError):
            call.has_header("host")


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_protocol_error(payload: bytes) -> None:
    decode_everything(b"\x02\0\0\0" + payload)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_message_gives_a_message_or_a_protocol_error(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from([REQUEST, PREPARE, RESPONSE, ANSWER])))
    for _ in range(data.draw(st.integers(1, 6))):
        frame[data.draw(st.integers(4, len(frame) - 1))] = data.draw(st.integers(0, 255))
    decode_everything(bytes(frame[: data.draw(st.integers(4, len(frame)))]))


def shared_entries(count: int, text: bytes) -> bytes:
    """A PrepareConf frame of `count` entries that are all one and the same, whose name and value are `text`."""
    raw = len(text).to_bytes(4, "little") + text
    vector = count.to_bytes(4, "little")
    # one entry table, to which all slots point, behind the vector; its vtable in front of it
    entry_at = 4 + 4 * count + 8
    offsets = b"".join((entry_at - 4 - 4 * i).to_bytes(4, "little") for i in range(count))
    entry = (
        bytes((8, 0, 12, 0, 4, 0, 8, 0)) + bytes((8, 0, 0, 0)) + (8).to_bytes(4, "little") + (4).to_bytes(4, "little")
    )
    table = bytes((6, 0, 8, 0, 4, 0, 0, 0)) + (8).to_bytes(4, "little") + (4).to_bytes(4, "little")
    return b"\x01\0\0\0" + (12).to_bytes(4, "little") + table + vector + offsets + entry + raw


def test_a_small_frame_cannot_make_a_huge_allocation() -> None:
    """Entries may share one string: 1,000 entries that all point to 1 MB would be a GB of text."""
    with pytest.raises(ProtocolError, match="repeat the same text too often"):
        calls.PrepareConf(shared_entries(1000, b"x" * (1 << 20)))


def test_a_configuration_of_too_many_plugins_is_refused_before_it_is_expanded() -> None:
    assert len(calls.PrepareConf(shared_entries(calls.MOST_PLUGINS, b"p")).conf) == calls.MOST_PLUGINS
    frame = shared_entries(1_000_000, b"p")
    began = time.process_time()
    with pytest.raises(ProtocolError, match="names 1000000 plugins, the limit is 1000"):
        calls.PrepareConf(frame)
    assert time.process_time() - began < 0.1


def test_a_request_of_a_million_headers_is_refused_before_they_are_read() -> None:
    """The vector of headers is laid out like that of plugins: in slot 5 of HTTPReqCall rather than slot 0."""
    name = "x-name-of-more-than-thirty-two-letters"
    frame = shared_entries(1_000_000, name.encode())
    root = 4 + int.from_bytes(frame[4:8], "little")
    for read in (read_entries, lambda *where: has_entry(*where, name), lambda *where: find_entry(*where, name)):
        with pytest.raises(ProtocolError, match="more than 65536 entries"):
            read(frame, root, 4)


def test_random_streams_never_crash_a_session() -> None:
    dice = random.Random(20261121)
    for _ in range(300):
        session = ApisixSession(max_payload=4096)
        with contextlib.suppress(ProtocolError):
            for _ in range(20):
                piece = dice.choice([dice.randbytes(dice.randint(1, 40)), REQUEST, PREPARE, ANSWER])
                for event in session.receive_data(piece):
                    if isinstance(event, Prepare):
                        session.token(1)
                    elif isinstance(event, RequestCall):
                        session.reply(event, None)
