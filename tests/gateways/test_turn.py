"""A connection's usual turn is the same in C and in Python, whatever comes and in whichever pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.built import turn as built
from gatewright.errors import GatewrightError
from gatewright.gateways.apisix import calls, session
from gatewright.gateways.caches import LONGEST_KEPT
from gatewright.gateways.events import Answer, Prepare, Refusal
from gatewright.http import Question, RequestCall, Response
from tests.gateways.pure import again
from tests.growth import growth

_, _, plain = again("gatewright.built", "gatewright.gateways.apisix._which_turn", "gatewright.gateways.apisix.session")
needs_c = pytest.mark.skipif(built is None, reason="nothing was built in C: no compiler was there")


def request(id: int = 0, *, path: str = "/a", headers: Any = (("host", "x"),)) -> bytes:
    return calls.encode_http_req_call(
        id=id, conf_token=7, src_ip=b"\x7f\0\0\1", method="GET", path=path, args=[("z", None)], headers=list(headers)
    )


FRAMES = [
    request(), request(0xFFFFFFFF), request(5, headers=[("h", "v" * 50)] * 120), request()[:8] + b"\xff" * 40,
    calls.encode_prepare_conf("route#1", [("greet", "{}")]),
    calls.encode_http_resp_call(id=3, conf_token=7, status=200, headers=[("X-A", "1")]),
    calls.encode_extra_info_result(b"value"), b"\x02\0\0\0", b"\x02\0\0\x04\0\0\0\0", b"\x09\0\0\x04\0\0\0\0", b"",
]  # fmt: skip
ANSWERS = (
    "nothing",
    "header",
    "same header",
    "headers",
    "deleted",
    "long",
    "path",
    "body",
    "query",
    "added",
    "stop",
    "refuse",
    "ask",
)


def described(event: Any) -> Any:
    if isinstance(event, Prepare):
        return "prepare", event.key, event.conf
    if isinstance(event, Answer):
        return "answer", event.value
    return type(event).__name__, event.source.id, event.conf_token


def answered(conversation: Any, call: Any, how: str, number: int) -> bytes:
    """Answer a call, or ask something in between."""
    if how == "refuse":
        return bytes(conversation.refuse(Refusal.UNAVAILABLE, call))
    if how == "ask":
        return bytes(conversation.ask(Question("var", "uri")))
    if how == "header":
        call.headers["x-a"] = str(number)
    elif how == "same header":
        call.headers["x-same"] = "1"
    elif how == "headers":
        call.headers.add("x-many", "1")
        call.headers.add("x-many", "2")
    elif how == "deleted":
        call.headers.discard("host")
    elif how == "long":
        call.headers["x-long"] = "l" * LONGEST_KEPT
    elif how == "path":
        call.path = "/new"
    elif how == "body":
        call.body = b"body"
    elif how == "query":
        call.query["q"] = "1"
    elif how == "added":
        call.response_headers["x-added"] = "1"
    return bytes(conversation.reply(call, Response(403, {"x": "y"}, b"no") if how == "stop" else None))


def conversed(module: Any, said: list[tuple[int, int, str]], max_payload: int) -> list[Any]:
    """All that comes of frames in pieces, each followed by an answer to what is open."""
    conversation = module.ApisixSession(max_payload=max_payload)
    notes: list[Any] = []
    conversation.on_buffered = lambda: notes.append(("buffered", conversation.buffered))
    open_call: Any = None
    for number, (which, cut, how) in enumerate(said):
        frame = FRAMES[which]
        for piece in (frame[:cut], frame[cut:]) if cut else (frame,):
            try:
                for event in conversation.receive_data(piece):
                    notes.append(described(event))
                    if not isinstance(event, Answer):
                        open_call = event
            except GatewrightError as error:
                return [*notes, type(error), str(error), conversation.busy, conversation.buffered]
        notes.append((conversation.state.value, conversation.busy, conversation.buffered))
        try:
            if isinstance(open_call, Prepare):
                notes.append(conversation.token(number))
            elif open_call is not None:
                notes.append(answered(conversation, open_call, how, number))
        except GatewrightError as error:
            notes.append((type(error), str(error)))
        if not conversation.busy:
            open_call = None
        notes.append((conversation.state.value, conversation.busy))
    return notes


@needs_c
def test_they_are_two() -> None:
    assert session.ApisixSession.__mro__[1] is not plain.ApisixSession.__mro__[1]


@given(
    st.lists(
        st.tuples(st.integers(0, len(FRAMES) - 1), st.sampled_from((0, 0, 1, 3, 5, 20)), st.sampled_from(ANSWERS)),
        max_size=8,
    ),
    st.sampled_from((1 << 24, 200)),
)
@settings(max_examples=500)
def test_they_converse_alike(said: list[tuple[int, int, str]], max_payload: int) -> None:
    assert conversed(session, said, max_payload) == conversed(plain, said, max_payload)


@pytest.mark.parametrize("how", ANSWERS)
def test_each_answer_is_the_same_when_it_is_given_again(how: str) -> None:
    said = [(0, 0, how), (1, 0, how), (0, 0, "nothing")]
    assert conversed(session, said, 1 << 20) == conversed(plain, said, 1 << 20)


@needs_c
def test_answers_are_kept_but_not_without_end() -> None:
    conversation = session.ApisixSession()

    def turns(prefix: str) -> None:
        for number in range(2000):
            (call,) = conversation.receive_data(request(number))
            assert isinstance(call, RequestCall)
            call.headers["x-made-up"] = f"{prefix}{number}" + "v" * 1000
            conversation.reply(call, None)

    assert growth(turns, session.ApisixSession, RequestCall, calls.HttpReqCall) < 256 * 5000


@needs_c
def test_what_is_no_use_of_it_is_refused() -> None:
    conversation = session.ApisixSession()
    for wrong in ((), ("a",), (1, 2, 3)):
        with pytest.raises(TypeError):
            conversation.reply(*wrong)
    with pytest.raises(TypeError):
        conversation.receive_data("text")  # type: ignore[arg-type]
    assert (conversation.busy, conversation.buffered) == (False, 0)
