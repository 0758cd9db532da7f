"""The lean protocol without a socket: frames, what calls bring, what is learnt, what answers say."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.errors import NotAvailableError, ProtocolError
from gatewright.gateways.lean.calls import LeanRequestCall, LeanSource
from gatewright.gateways.lean.frames import PREFACE, FrameBuffer, Kind, encode_frame
from gatewright.gateways.lean.needs import ALL_OF_REQUEST, Learner, plan_of
from gatewright.gateways.lean.replies import query_with, request_answer
from gatewright.gateways.lean.session import Hello, LeanSession, Prepared, Told
from gatewright.http import Response

FIELDS = st.lists(st.none() | st.binary(max_size=40), max_size=40)
WORD = st.integers(0, 0xFFFFFFFF)


def session_with(*frames: bytes) -> tuple[LeanSession, list[object]]:
    session = LeanSession()
    return session, list(session.receive_data(PREFACE + b"".join(frames)))


def call_of(**brought: bytes | None) -> LeanRequestCall:
    names = [name.replace("__", ":").replace("_", "-") for name in brought]
    source = LeanSource(7, [",".join(names).encode(), *brought.values()])
    source.note = lambda _: None
    return LeanRequestCall(source, 1)


# --- frames


def test_a_frame_in_bytes() -> None:
    frame = encode_frame(Kind.REQUEST, 7, (b"path", b"/", None), argument=0x01020304)
    assert frame == bytes.fromhex("1d000000 03000300 07000000 04030201 04000000 01000000 ffffffff 70617468 2f")


@given(st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 255), WORD, WORD, FIELDS), max_size=5), st.randoms())
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    frames: list[tuple[Kind, int, int, int, list[bytes | None]]], chance: random.Random
) -> None:
    data = b"".join(
        encode_frame(kind, id, fields, flags=flags, argument=argument) for kind, flags, id, argument, fields in frames
    )
    buffer, got = FrameBuffer(), []
    while data:
        size = chance.randint(1, len(data))
        got += buffer.feed(data[:size])
        data = data[size:]
    assert got == frames
    assert buffer.buffered == 0


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("<IBBHII", 1 << 25, 3, 0, 0, 1, 1),
        struct.pack("<IBBHII", 11, 3, 0, 0, 1, 1),
        struct.pack("<IBBHII", 12, 3, 0, 1, 1, 1),
        struct.pack("<IBBHIII", 16, 3, 0, 1, 1, 1, 1),
        struct.pack("<IBBHIII", 17, 3, 0, 1, 1, 1, 0) + b"x",
        struct.pack("<IBBHIII", 17, 3, 0, 1, 1, 1, 0xFFFFFFFF) + b"x",
    ],
    ids=[
        "too long",
        "shorter than its head",
        "no room for lengths",
        "field cut off",
        "too many bytes",
        "absent and more",
    ],
)
def test_a_frame_that_contradicts_itself_ends_the_connection(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        session_with(frame + bytes(64))


@given(st.lists(st.binary(max_size=200), max_size=8), st.booleans())
def test_random_input_is_read_or_refused(pieces: list[bytes], greeted: bool) -> None:
    session = LeanSession(max_size=1000)
    try:
        if greeted:
            session.receive_data(PREFACE)
        for piece in pieces:
            session.receive_data(piece)
    except ProtocolError:
        return
    assert session.buffered <= 1000 + 200


@given(st.integers(0, 12), WORD, WORD, FIELDS)
def test_random_frames_are_events_or_refused(kind: int, id: int, argument: int, fields: list[bytes | None]) -> None:
    try:
        session_with(encode_frame(kind, id, fields, argument=argument))
    except ProtocolError as error:
        assert str(error)


def test_another_protocol_or_version_is_refused_with_its_first_bytes() -> None:
    for start in (b"GWL2", b"\x01\x00\x00\x10", b"GET "):
        with pytest.raises(ProtocolError, match="version"):
            LeanSession().receive_data(start)


# --- events


def test_hello_and_a_configuration() -> None:
    _, events = session_with(
        encode_frame(Kind.HELLO, 1, (b"nginx",), argument=1),
        encode_frame(Kind.PREPARE, 2, (b"route", b"greet", b"{}", b"auth", b"{}"), argument=3),
    )
    assert events == [Hello(1, "nginx"), Prepared(2, "route\0lean3", [("greet", "{}"), ("auth", "{}")], 3)]


@pytest.mark.parametrize("fields", [(), (b"route", b"greet"), (b"r", *[b"x"] * 2002)], ids=["none", "half", "too many"])
def test_a_configuration_is_a_key_and_pairs(fields: tuple[bytes, ...]) -> None:
    with pytest.raises(ProtocolError, match="pairs"):
        session_with(encode_frame(Kind.PREPARE, 2, fields))


def test_a_call_brings_what_it_says() -> None:
    twice = (b"path,path", b"/", b"/"), (b"path,path,query", b"/", b"/")
    for fields in ((), (None,), (b"path",), *twice, (b"\xff", b""), (b"path", b"/", b"/")):
        with pytest.raises(ProtocolError):
            session_with(encode_frame(Kind.REQUEST, 1, fields))


def test_a_long_answer_to_a_question_comes_in_parts() -> None:
    session, _ = session_with()
    session.ask(1, 5, "body")
    assert session.receive_data(encode_frame(Kind.PART, 1, (b"ab",), argument=5)) == []
    assert session.buffered == 2
    assert session.receive_data(encode_frame(Kind.ASK, 1, (b"cd",), argument=5)) == [Told(1, 5, b"abcd")]
    assert session.buffered == 0


def test_what_was_not_asked_is_no_answer() -> None:
    for kind in (Kind.ASK, Kind.PART):
        with pytest.raises(ProtocolError, match="not asked"):
            session_with(encode_frame(kind, 1, (b"x",), argument=5))


# --- what calls bring


def test_single_headers_are_found_in_all_or_alone() -> None:
    for call in (
        call_of(headers=b"X-A:1\nhost:h\nx-a:2:3\nempty:"),
        call_of(h__x_a=b"1\n2:3", h__host=b"h", h__empty=b"", h__other=None),
    ):
        assert call.headers.get_all("X-A") == ["1", "2:3"]
        assert call.headers["empty"] == ""
        assert "other" not in call.headers
        call.headers.add("x-a", "4")
        assert call.headers.get_all("x-a") == ["1", "2:3", "4"]


def test_what_was_not_brought_is_asked_for_once() -> None:
    asked: list[str] = []

    class Gateway:
        def tell(self, id: int, name: str) -> bytes | None:
            asked.append(name)
            return {"path": b"/p", "h:x": b"1\n2"}.get(name)

    call = call_of(method=b"GET")
    call.source.teller = Gateway()
    assert (call.source.path, call.source.path, call.source.method) == ("/p", "/p", "GET")
    assert call.headers.get_all("x") == ["1", "2"]
    assert "y" not in call.headers
    assert asked == ["path", "h:x", "h:y"]


def test_what_is_looked_at_is_learnt() -> None:
    learner = Learner(ALL_OF_REQUEST)
    for _ in range(49):
        learner.note("h:authorization")
        assert learner.after_call(ALL_OF_REQUEST) is None
    learner.note("path")
    assert learner.after_call(ALL_OF_REQUEST) == b"h:authorization,path"
    assert learner.after_call(b"h:authorization,path") is None
    learner.note("ip")  # it was asked for
    assert learner.after_call(b"h:authorization,path") == b"h:authorization,ip,path"


def test_workers_of_one_runner_come_to_agree() -> None:
    first, second = Learner(ALL_OF_REQUEST), Learner(ALL_OF_REQUEST)
    for learner, name in ((first, "path"), (second, "method")):
        learner.note(name)
        for _ in range(50):
            learner.after_call(ALL_OF_REQUEST)
    plan = first.wants
    for _ in range(2):
        for learner in (second, first):
            plan = learner.after_call(plan) or plan
    assert plan == first.wants == second.wants == b"method,path"


def test_bodies_are_brought_where_most_calls_read_them() -> None:
    seldom, often = Learner(ALL_OF_REQUEST), Learner(ALL_OF_REQUEST)
    for number in range(50):
        often.note("body")
        if number % 5 == 0:
            seldom.note("body")
        for learner in (seldom, often):
            learner.after_call(ALL_OF_REQUEST)
    assert (seldom.wants, often.wants) == (b"", b"body")


def test_many_single_headers_are_all_headers() -> None:
    assert plan_of(f"h:x-{number}" for number in range(13)) == b"headers"
    assert plan_of(["h:x", "headers", "r:y"]) == b"headers,r:y"


# --- answers


def test_nothing_changed_is_said_in_sixteen_bytes() -> None:
    assert request_answer(call_of(), None, None) == encode_frame(Kind.REQUEST, 7)


def test_changes_are_operations() -> None:
    call = call_of(query=b"a=1&b")
    call.headers.set_all("x-a", ["1", "2"])
    call.headers.discard("x-b")
    call.path = "/ä"
    call.query["b"] = "2"
    call.body = b""
    assert request_answer(call, None, b"query") == encode_frame(
        Kind.REQUEST,
        7,
        (b"NPQHhdB", b"query", "/ä".encode(), b"a=1&b=2", b"x-a", b"1", b"x-a", b"2", b"x-b", b""),
    )


def test_an_answer_for_the_client_frames_no_body_itself() -> None:
    response = Response(200, [("content-length", "99"), ("connection", "close"), ("x", "1")], b"body")
    assert request_answer(call_of(), response, None) == encode_frame(
        Kind.REQUEST, 7, (b"SRb", b"200", b"x", b"1", b"body"), flags=1
    )


@given(st.lists(st.sampled_from([b"a=1", b"b", b"", b"%61=2", b"c=%zz", b"=", b"+=x"]), max_size=6))
def test_a_query_keeps_what_is_not_changed(parts: list[bytes]) -> None:
    raw = b"&".join(parts)
    assert query_with(raw, {}) == raw
    changed = query_with(raw, {"a": ("9",)}).split(b"&")
    assert changed.count(b"a=9") == 1
    if parts and raw:
        assert [part for part in changed if part != b"a=9"] == [p for p in parts if p not in (b"a=1", b"%61=2")]


def test_nobody_can_be_asked_by_a_call_that_has_ended() -> None:
    class Gone:
        def tell(self, id: int, name: str) -> bytes | None:
            raise NotAvailableError("the call has ended")

    call = call_of(method=b"GET")
    call.source.teller = Gone()
    with pytest.raises(NotAvailableError):
        _ = call.source.path
