"""Both sessions without any socket: however the bytes are cut, the same events come."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.errors import ProtocolError
from gatewright.gateways.kong.events import HandleEvent, Query, StartInstance
from gatewright.gateways.kong.messages import RPC_CALL, RPC_RETURN
from gatewright.gateways.kong.msgpack_session import MsgPackSession
from gatewright.gateways.kong.protobuf_session import ProtoBufSession

HANDLE = msgpack.packb([0, 1, "plugin.HandleEvent", [{"InstanceId": 5, "EventName": "access"}]])
START = msgpack.packb([0, 70000, "plugin.StartInstance", [{"Name": "a", "Config": b'{"b": "' + b"c" * 300 + b'"}'}]])
STATUS = msgpack.packb([0, 3.0, "plugin.GetStatus", []])


def frame(**fields: Any) -> bytes:
    payload = RPC_CALL.encode(fields)
    return struct.pack("=I", len(payload)) + payload


def test_a_message_cut_anywhere_is_one_message_and_known_to_be_cut() -> None:
    for at in range(1, len(HANDLE)):
        session = MsgPackSession()
        assert not session.receive_data(HANDLE[:at])
        assert session.buffered == at
        assert list(session.receive_data(HANDLE[at:])) == [HandleEvent(1, 5, "access")]
        assert session.buffered == 0


@given(st.lists(st.sampled_from([HANDLE, START, STATUS]), min_size=1, max_size=6), st.data())
@settings(max_examples=200, deadline=None)
def test_messages_in_any_pieces(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    ends = {sum(map(len, messages[:n])) for n in range(len(messages) + 1)}
    session, whole, events = MsgPackSession(), MsgPackSession(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        if end > start:
            events += session.receive_data(stream[start:end])
            assert (session.buffered == 0) == (end in ends)
    assert events == [event for message in messages for event in whole.receive_data(message)]
    kinds = {HANDLE: HandleEvent, START: StartInstance, STATUS: Query}
    assert [type(event) for event in events] == [kinds[message] for message in messages]


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=6), st.data())
@settings(max_examples=200, deadline=None)
def test_frames_in_any_pieces(sequences: list[int], data: st.DataObject) -> None:
    """With calls in between whose answers say nothing, so that Kong is behind by some."""
    session = ProtoBufSession()
    for sequence in sequences:
        ahead = data.draw(st.integers(0, 3))
        for _ in range(ahead):
            session.call(sequence, 0, "kong.response.set_header", ("a", "b"))
            assert session.ahead
        event = frame(sequence=sequence, handle_event={"instance_id": 7, "event_name": "access"})
        stream = struct.pack("=I", 0) * ahead + event
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
        events: list[Any] = []
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            events += session.receive_data(stream[start:end])
            assert (session.buffered == 0) == (end in (4 * ahead, len(stream)))
        assert events == [HandleEvent(0, 7, "access")]
        answer = session.done(sequence, 0)
        assert answer[:4] == bytes(4)
        assert struct.unpack("=I", answer[4:8])[0] == len(answer) - 8
        assert RPC_RETURN.decode(answer[8:]).get("sequence", 0) == sequence


def test_the_end_of_an_event_tells_its_own_sequence() -> None:
    session = ProtoBufSession()
    event = {"instance_id": 7, "event_name": "access"}
    for sequence in (300, 300, 5, 1 << 40, 0, 7):
        session.receive_data(frame(sequence=sequence, handle_event=event))
        assert RPC_RETURN.decode(session.done(0, 0)[8:]).get("sequence", 0) == sequence
        names = session.receive_data(frame(sequence=9, get_plugin_names={}))[0]
        assert RPC_RETURN.decode(session.answered(names.ticket, "plugin_names", {})[4:])["sequence"] == 9


@given(st.binary(max_size=12))
def test_an_odd_sequence_is_refused_or_taken(varint: bytes) -> None:
    """Whatever stands where a call that is known has its sequence."""
    session, tail = ProtoBufSession(), frame(handle_event={"instance_id": 7, "event_name": "access"})[4:]
    session.receive_data(frame(sequence=1, handle_event={"instance_id": 7, "event_name": "access"}))
    payload = b"\x08" + varint + tail
    try:
        events = session.receive_data(struct.pack("=I", len(payload)) + payload)
    except ProtocolError:
        return
    assert len(events) == 1


@pytest.mark.parametrize("payload", [b"\x08", b"\x08\xff", b"\x08\xff\xff", b"\x08\x01", b"\xff", b"\x00"])
def test_calls_that_are_cut_off_are_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        ProtoBufSession().receive_data(struct.pack("=I", len(payload)) + payload)


@pytest.mark.parametrize("size", [1 << 26, (1 << 32) - 1])
def test_a_frame_that_is_too_long_is_refused_before_it_has_come(size: int) -> None:
    with pytest.raises(ProtocolError, match="longer than the limit"):
        ProtoBufSession(max_payload=1 << 20).receive_data(struct.pack("=I", size))
