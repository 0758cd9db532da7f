"""Kong's usual steps are the same in C and in Python, whatever comes and in whichever pieces."""

from __future__ import annotations

import gc
import struct
import weakref
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.built import steps as built
from gatewright.errors import GatewrightError
from gatewright.gateways.kong import answers, msgpack_session, protobuf_session
from gatewright.gateways.kong.events import Answer, HandleEvent
from gatewright.gateways.kong.messages import RPC_CALL, STRUCT
from tests.gateways.pure import again
from tests.growth import growth

_KONG = "gatewright.gateways.kong"
*_, plain_msgpack, plain_protobuf = again(
    "gatewright.built", f"{_KONG}._which_steps", f"{_KONG}.msgpack_session", f"{_KONG}.protobuf_session"
)
needs_c = pytest.mark.skipif(built is None, reason="nothing was built in C: no compiler was there")


@needs_c
def test_they_are_two() -> None:
    assert msgpack_session.MsgPackSteps is not plain_msgpack.MsgPackSteps
    assert protobuf_session.ProtoBufSteps is not plain_protobuf.ProtoBufSteps


NUMBERS = (0, 1, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1)
number = st.sampled_from(NUMBERS)
odd = st.sampled_from((-1, 1 << 63, 3.0, 3.5, "3", b"3", None, True, [1], {}))
phase = st.sampled_from(("access", "log", "accessed", "", "é", b"access", b"\xff", 5, None))
value = st.one_of(
    st.none(),
    st.booleans(),
    number,
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False),
    st.text(max_size=40),
    st.sampled_from(("t" * 31, "t" * 32, "t" * 256, "\udcff", "t" * 70_000)),
    st.binary(max_size=3),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)


@st.composite
def arguments(draw: st.DrawFn) -> Any:
    """What Kong sends with a request, and what it doesn't."""
    fields = draw(
        st.sampled_from(
            (
                {"InstanceId": number, "EventName": phase},
                {"EventName": phase, "InstanceId": number},
                {"EventId": number},
                {"EventId": number, "Data": value},
                {"Data": value, "EventId": number},
                {"InstanceId": odd, "EventName": phase},
                {"EventId": odd, "Data": value},
                {"InstanceId": number},
                {"EventName": phase, "EventId": number},
                {"InstanceId": number, "EventName": phase, "Data": value},
                {},
            )
        )
    )
    return {key: draw(each) for key, each in fields.items()}


METHODS = (
    "plugin.HandleEvent", "plugin.Step", "plugin.StepError", "plugin.StepMore", "plugin.GetStatus", "other", 5, None,
)  # fmt: skip
message = st.tuples(
    st.sampled_from((0, 0, 0, 0, 0.0, 1, False)),
    st.one_of(number, number, odd),
    st.sampled_from(METHODS),
    st.one_of(st.lists(arguments(), min_size=1, max_size=1), st.lists(arguments(), max_size=2), st.integers(0, 9)),
)


def packed(content: Any) -> bytes:
    data: bytes = msgpack.packb(content, unicode_errors="surrogateescape")
    return data


def received(session: Any, pieces: list[bytes]) -> list[Any]:
    """What comes of pieces."""
    notes: list[Any] = []
    for piece in pieces:
        try:
            notes.append(([repr(event) for event in session.receive_data(piece)], session.buffered))
        except GatewrightError as error:
            return [*notes, type(error), str(error)]
    return notes


def in_pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """A stream cut there."""
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True) if end > start]


@needs_c
@given(st.lists(message, min_size=1, max_size=3), st.lists(st.integers(0, 400), max_size=2), st.binary(max_size=2))
@settings(max_examples=600, deadline=None)
def test_messages_say_the_same(messages: list[Any], cuts: list[int], rest: bytes) -> None:
    whole = [packed(each) for each in messages]
    for pieces in (whole, in_pieces(b"".join(whole) + rest, cuts)):
        heard = received(plain_msgpack.MsgPackSession(), pieces)
        assert received(msgpack_session.MsgPackSession(), pieces) == heard


@needs_c
@given(message, st.integers(0, 200), st.integers(0, 255))
@settings(max_examples=600, deadline=None)
def test_a_message_with_a_byte_that_is_wrong_says_the_same(content: Any, place: int, byte: int) -> None:
    data = bytearray(packed(content))
    data[place % len(data)] = byte
    piece = [bytes(data)]
    assert received(msgpack_session.MsgPackSession(), piece) == received(plain_msgpack.MsgPackSession(), piece)


called = st.sampled_from(
    (
        "kong.response.set_header", "kong.log", "kong.request.get_raw_body", "kong.response.exit", "kong.é",
        "kong.\udcff", "kong." + "m" * 2000, "kong.nonsense", "kong.request.get_query_arg", "kong.request.get_header",
    )
)  # fmt: skip


def said(session: Any, ticket: int, event: int, method: str, args: Any) -> Any:
    """What is written for a call and for the end."""
    try:
        call = session.call(ticket, event, method, args)
    except Exception as error:
        call = type(error), str(error)
    return call, session.done(ticket, event), session.ahead, session.buffered


@needs_c
@given(number, number, called, st.lists(value, max_size=10), st.booleans())
@settings(max_examples=600, deadline=None)
def test_calls_are_written_alike(ticket: int, event: int, method: str, args: list[Any], as_tuple: bool) -> None:
    given_ones = tuple(args) if as_tuple else args
    for ours, plain in (
        (msgpack_session.MsgPackSession(), plain_msgpack.MsgPackSession()),
        (protobuf_session.ProtoBufSession(), plain_protobuf.ProtoBufSession()),
    ):
        for _ in range(2):  # the second time it may have been kept
            assert said(ours, ticket, event, method, given_ones) == said(plain, ticket, event, method, given_ones)


def test_a_call_is_packed_as_any_library_packs_it() -> None:
    session = msgpack_session.MsgPackSession()
    for ticket in NUMBERS:
        for text in ("", "t" * 31, "t" * 32, "t" * 255, "t" * 256, "t" * 65_536):
            args = [text, *NUMBERS[:6], None, True]
            content = {"Data": {"Method": "kong.log.notice", "Args": args}, "EventId": ticket}
            assert session.call(ticket, ticket, "kong.log.notice", args) == packed([1, ticket, None, content])
            assert session.done(ticket, ticket) == packed([1, ticket, None, {"Data": "ret", "EventId": ticket}])


def event_frame(sequence: int, instance: int, name: str = "access") -> bytes:
    call = RPC_CALL.encode({"sequence": sequence, "handle_event": {"instance_id": instance, "event_name": name}})
    return struct.pack("=I", len(call)) + call


FRAMES = [
    event_frame(1, 7), event_frame(300, 7), event_frame(0, 7), event_frame(1 << 40, 7), event_frame(2, 8, "log"),
    event_frame(3, 9, "n" * 300), bytes(4), struct.pack("=I", 3) + b"\x0a\x01x", struct.pack("=I", 1) + b"\x08",
    struct.pack("=I", 2) + b"\x08\xff", struct.pack("=I", 100), b"\x02", struct.pack("=I", 1 << 30),
]  # fmt: skip
EXCHANGES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(("set", "get", "numbers")), max_size=3),
        st.lists(st.integers(0, len(FRAMES) - 1), max_size=4),
        st.integers(0, 60),
    ),
    max_size=6,
)
_CALLS = {
    "set": ("kong.response.set_header", ("a", "b")),
    "get": ("kong.request.get_header", ("a",)),
    "numbers": ("kong.log.notice", (1, True)),
}


def exchanged(module: Any, exchanges: Any, *, patient: bool, max_payload: int) -> list[Any]:
    """What comes of calls made and frames received in turn."""
    session = module.ProtoBufSession(max_payload=max_payload)
    session.patient = patient
    notes: list[Any] = []
    for calls, frames, cut in exchanges:
        for call in calls:
            notes.append(said(session, 0, 0, *_CALLS[call]))
        stream = b"".join(FRAMES[frame] for frame in frames)
        heard = received(session, in_pieces(stream, [cut]))
        notes.append((heard, session.number_of(0), session.done(0, 0)))
        if heard and isinstance(heard[-1], str):  # the connection would be closed
            return notes
    return notes


@needs_c
@given(EXCHANGES, st.booleans(), st.sampled_from((64 << 20, 16)))
@settings(max_examples=600, deadline=None)
def test_frames_say_the_same(exchanges: Any, patient: bool, max_payload: int) -> None:
    assert exchanged(protobuf_session, exchanges, patient=patient, max_payload=max_payload) == exchanged(
        plain_protobuf, exchanges, patient=patient, max_payload=max_payload
    )


def test_an_event_that_comes_together_with_the_answers_before_it_begins() -> None:
    session = protobuf_session.ProtoBufSession()
    assert len(session.receive_data(FRAMES[0])) == 1
    for _ in range(2):
        session.call(0, 0, "kong.response.set_header", ("a", "b"))
    assert session.buffered == 2
    (event,) = session.receive_data(bytes(4) * 2 + FRAMES[1])
    assert (event.instance, event.phase, session.number_of(0), session.buffered) == (7, "access", 300, 0)


@needs_c
def test_more_calls_than_are_kept_are_made_all_the_same() -> None:
    session = protobuf_session.ProtoBufSession()
    for each in range(2000):
        assert str(each).encode() in session.call(0, 0, "kong.response.set_header", ("n", str(each)))
        session.receive_data(bytes(4))
    assert not session.buffered


@needs_c
@pytest.mark.parametrize("module", [msgpack_session, protobuf_session], ids=["msgpack", "protobuf"])
def test_nothing_is_left_behind(module: Any) -> None:
    step = packed([0, 4, "plugin.Step", [{"EventId": 1 << 40, "Data": "text"}]])
    begin = packed([0, 4, "plugin.HandleEvent", [{"EventName": "access", "InstanceId": 1 << 30}]])

    def work(_: str) -> None:
        session = module.MsgPackSession() if module is msgpack_session else module.ProtoBufSession()
        for _ in range(2000):
            pieces = [begin, step, step[:9], step[9:]] if module is msgpack_session else [FRAMES[0], FRAMES[1]]
            for piece in pieces:
                session.receive_data(piece)
            session.call(5, 6, "kong.response.set_header", ("a", "b"))
            session.call(5, 6, "kong.log.notice", [1, None, ["x"]])
            session.done(5, 6)
            if module is protobuf_session:
                session.receive_data(bytes(4) * 2)

    assert growth(work, None, 0, HandleEvent, Answer) < 20_000


@needs_c
@pytest.mark.parametrize(
    "kind", [msgpack_session.MsgPackSession, protobuf_session.ProtoBufSession], ids=["msgpack", "protobuf"]
)
def test_a_session_that_knows_itself_goes(kind: Any) -> None:
    session = kind()
    session.itself = session
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None


@needs_c
@pytest.mark.parametrize("name", ["MsgPackSteps", "ProtoBufSteps"])
def test_one_that_has_not_begun_does_no_harm(name: str) -> None:
    steps = getattr(built, name)
    empty = steps.__new__(steps)
    for use in (
        lambda: empty.receive_data(b"\0\0\0\0"),
        lambda: empty.call(1, 1, "kong.log", ()),
        lambda: empty.call(1),
        empty.done,
        lambda: steps(1),
    ):
        with pytest.raises((AttributeError, TypeError, SystemError)):
            use()


def a_struct(draw: st.DrawFn) -> bytes:
    """Headers as Kong writes them, a Struct that holds other things, and one that is broken."""
    text = st.one_of(st.text(max_size=8), st.sampled_from(("", "v" * 127, "v" * 128, "v" * 16_384, "\udcff")))
    other = st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.lists(st.text(max_size=3), max_size=2))
    values = draw(st.sampled_from((text, text, st.one_of(text, other))))
    data = STRUCT.encode({"fields": draw(st.dictionaries(text, values, max_size=5))})
    if draw(st.booleans()):
        return data
    spoiled = bytearray(data)
    for _ in range(draw(st.integers(1, 2))):
        if spoiled:
            spoiled[draw(st.integers(0, len(spoiled) - 1))] = draw(st.integers(0, 255))
    return bytes(spoiled[: draw(st.integers(0, len(spoiled)))])


@needs_c
@given(st.composite(a_struct)())
@settings(max_examples=500)
def test_headers_are_read_alike(data: bytes) -> None:
    assert built is not None
    texts = built.texts_of(data)
    if texts is not None:
        assert texts == answers._texts(data) == answers.fold_headers(STRUCT.decode(data).get("fields", {}))


@needs_c
def test_headers_of_one_value_are_read_in_c() -> None:
    assert built is not None
    headers = {"host": "a", "x-long": "v" * 16_000, "x-odd": "\udcff", "x-empty": ""}
    assert built.texts_of(STRUCT.encode({"fields": headers})) == {name: [value] for name, value in headers.items()}
    assert built.texts_of(b"") == {}
    assert built.texts_of(STRUCT.encode({"fields": {"x": ["1", "2"]}})) is None
    assert built.texts_of(bytearray()) is None


@needs_c
def test_headers_leave_nothing_behind() -> None:
    def read(word: str) -> None:
        assert built is not None
        whole = STRUCT.encode({"fields": {f"x-{word}-{number}": word * 50 for number in range(100)}})
        for data in (whole, whole[:-1], STRUCT.encode({"fields": {word: word, "more": [word]}})):
            for _ in range(100):
                built.texts_of(data)

    assert growth(read) < 2000
