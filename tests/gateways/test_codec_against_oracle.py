"""Our codec against the official flatbuffers runtime, in both directions, for any content."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix.replies import ErrorCode, InfoRequest, InfoType, RespReply, Rewrite, Stop
from tests.gateways import oracle, pure

U32 = st.integers(0, 2**32 - 1)
# Any bytes, as text: also what is not UTF-8, NUL, and nothing at all.
TEXT = st.binary(max_size=40).map(oracle.text)
ENTRIES = st.lists(st.tuples(TEXT, st.none() | TEXT), max_size=8)
BODY = st.binary(max_size=300)


@given(key=TEXT, conf=st.lists(st.tuples(TEXT, TEXT), max_size=5))
def test_prepare_conf_is_read_as_the_oracle_wrote_it(key: str, conf: list[tuple[str, str]]) -> None:
    message = calls.PrepareConf(oracle.prepare_conf(key, conf))
    assert (message.key, message.conf) == (key, conf)
    reader = oracle.Reader(calls.encode_prepare_conf(key, conf))
    assert (reader.string(1), reader.entries(0)) == (key, conf)


@given(U32, U32, st.sampled_from([b"\x7f\0\0\1", b"\0" * 15 + b"\1"]), st.integers(0, 14), TEXT, ENTRIES, ENTRIES)
def test_http_req_call_is_read_as_the_oracle_wrote_it(
    id: int, token: int, ip: bytes, method: int, path: str, args: list, headers: list
) -> None:
    fields = {"id": id, "conf_token": token, "src_ip": ip, "path": path, "args": args, "headers": headers}
    for frame in (
        oracle.http_req_call(method=method, **fields),
        calls.encode_http_req_call(method=calls.METHODS[method], **fields),
    ):
        for call in (calls.HttpReqCall(frame), pure.calls.HttpReqCall(frame)):
            assert (call.id, call.conf_token, call.src_ip, call.path) == (id, token, ip, path)
            assert call.method == calls.METHODS[method]
            assert (call.read_args(), call.read_headers()) == (args, headers)
        reader = oracle.Reader(frame)
        assert (reader.u32(0), reader.u32(6), reader.data(1), reader.u8(2)) == (id, token, ip, method)
        assert (reader.string(3), reader.entries(4), reader.entries(5)) == (path, args, headers)


LONGER = ("if-range", "x-request", "x-a-name-of-thirty-two-letters-x", "x-" + "n" * 60)
"""Names whose length is in each table, is a tab, or is a letter."""


@given(
    st.lists(
        st.tuples(
            st.text("abxX-_", min_size=1, max_size=4) | st.sampled_from(LONGER).map(str.title),
            st.text("abx-\0\1\2\3\5\t", max_size=9) | st.sampled_from(LONGER) | st.just("\t" * 60),
        ),
        max_size=8,
    )
)
def test_has_header_agrees_with_decoding_all(headers: list[tuple[str, str | None]]) -> None:
    """Names that also occur as values, or as parts of others, must not be taken for headers."""
    swapped = [(name.translate(SWAPPED), value) for name, value in headers]  # of the same lengths, so laid out alike
    for entries in (headers, headers, headers, swapped, headers):
        agrees(
            oracle.http_req_call(
                id=1, conf_token=2, src_ip=b"1234", method=0, path="/abx", args=[("x", "a")], headers=entries
            )
        )


SWAPPED = str.maketrans("abx", "bxa")


def agrees(frame: bytes) -> None:
    """What is said of all headers, and of single ones, is what decoding each says; or that cannot be done."""
    for each in (calls, pure.calls):
        agrees_as(each, frame)


def agrees_as(calls: Any, frame: bytes) -> None:
    try:
        call = calls.HttpReqCall(frame)
        headers = pure.reading.read_entries(frame, call._table, call._layout[5])
    except ProtocolError:
        with pytest.raises(ProtocolError):
            calls.HttpReqCall(frame).read_headers()
        return
    assert call.read_headers() == headers
    for name in ("a", "b", "x", "ab", "abx", "x-", "-", *LONGER):
        call = calls.HttpReqCall(frame)
        assert call.has_header(name) == any(present.lower() == name for present, _ in headers)
        values = call.header_values(name)
        assert values is None or values == [value for present, value in headers if present.lower() == name]
        alike = [present for present, _ in headers if present.lower().replace("_", "-") == name]
        assert call.may_have_alike((name,)) or not alike


@pytest.mark.parametrize("seed", range(4))
def test_a_frame_that_is_laid_out_like_one_before_is_looked_at_all_the_same(seed: int) -> None:
    headers = [("x-request", "abx"), ("ab", "x" * 20), ("If-Range", ""), ("x-", "b"), ("abx", "1")]
    frame = oracle.http_req_call(
        id=1, conf_token=2, src_ip=b"1234", method=0, path="/abx", args=[("x", "a")], headers=headers
    )
    for _ in range(3):
        agrees(frame)
    dice = random.Random(seed)
    for _ in range(1500):
        changed = bytearray(frame)
        for _ in range(dice.randint(1, 2)):
            changed[dice.randrange(4, len(frame))] = dice.choice((0, 1, 8, 4, 65, 97, 98, 255, dice.randrange(256)))
        end = dice.choice((len(frame), len(frame), dice.randrange(40, len(frame))))
        agrees(bytes(changed[:end]))


@pytest.mark.parametrize("calls", [calls, pure.calls])
def test_a_header_is_found_without_decoding_the_others(calls: Any) -> None:
    headers = [("host", "x"), ("authorization", "Bearer a"), ("cookie", "authorization=1"), ("x-b", ""), ("x-B", "1")]
    call = calls.HttpReqCall(
        oracle.http_req_call(id=1, conf_token=2, src_ip=b"1234", method=0, path="/", args=[], headers=headers)
    )
    assert call.header_values("authorization") == ["Bearer a"]
    assert call.header_values("accept") == []
    assert call.header_values("x-b") in (None, ["", "1"]), "there are two, in different letters"
    assert call.may_have_alike(("x-user", "cookie"))
    assert not call.may_have_alike(("x-user", "x-b-c"))


def test_where_headers_were_cut_off_one_that_looks_alike_may_be_among_them() -> None:
    headers = [(f"x-{number}", "1") for number in range(100)]
    frame = oracle.http_req_call(id=1, conf_token=2, src_ip=b"1234", method=0, path="/", args=[], headers=headers)
    assert calls.CutHttpReqCall(frame).may_have_alike(("x-user",))
    assert not calls.WholeHttpReqCall(frame).may_have_alike(("x-user",))


@given(U32, U32, st.integers(0, 2**16 - 1), ENTRIES)
def test_http_resp_call_is_read_as_the_oracle_wrote_it(id: int, token: int, status: int, headers: list) -> None:
    for frame in (
        oracle.http_resp_call(id=id, conf_token=token, status=status, headers=headers),
        calls.encode_http_resp_call(id=id, conf_token=token, status=status, headers=headers),
    ):
        call = calls.HttpRespCall(frame)
        assert (call.id, call.conf_token, call.status, call.read_headers()) == (id, token, status, headers)
        reader = oracle.Reader(frame)
        assert (reader.u32(0), reader.u32(3), reader.u16(1), reader.entries(2)) == (id, token, status, headers)


@given(st.none() | BODY)
def test_extra_info_result(result: bytes | None) -> None:
    assert calls.decode_extra_info_result(oracle.extra_info_result(result)) == result
    assert oracle.Reader(calls.encode_extra_info_result(result)).data(0) == result


@given(U32, st.none() | TEXT, ENTRIES, ENTRIES, ENTRIES, BODY)
def test_rewrite_is_written_as_the_oracle_reads_it(
    id: int, path: str | None, headers: list, args: list, resp_headers: list, body: bytes
) -> None:
    rewrite = Rewrite(path, headers, args, resp_headers, body)
    frame = replies.encode_rewrite(id, rewrite)
    assert len(frame) == 4 + int.from_bytes(frame[1:4], "big")
    reader = oracle.Reader(frame)
    action = reader.union(2)
    assert (frame[0], reader.u32(0), reader.u8(1)) == (2, id, 2)
    assert action is not None
    assert (action.string(0), action.entries(1), action.entries(2)) == (path, headers, args)
    assert (action.entries(3), action.data(4) or b"") == (resp_headers, body)
    assert replies.decode_req_reply(frame) == (id, rewrite)


@given(U32, st.integers(0, 2**16 - 1), ENTRIES, BODY)
def test_stop_is_written_as_the_oracle_reads_it(id: int, status: int, headers: list, body: bytes) -> None:
    frame = replies.encode_stop(id, Stop(status, headers, body))
    reader = oracle.Reader(frame)
    action = reader.union(2)
    assert (reader.u32(0), reader.u8(1)) == (id, 1)
    assert action is not None
    assert (action.u16(0), action.entries(1), action.data(2) or b"") == (status, headers, body)
    assert replies.decode_req_reply(frame) == (id, Stop(status, headers, body))


@given(U32, st.integers(0, 2**16 - 1), ENTRIES, BODY)
def test_response_reply_is_written_as_the_oracle_reads_it(id: int, status: int, headers: list, body: bytes) -> None:
    frame = replies.encode_resp_reply(id, RespReply(status, headers, body))
    reader = oracle.Reader(frame)
    assert (reader.u32(0), reader.u16(1), reader.entries(2), reader.data(3) or b"") == (id, status, headers, body)
    assert replies.decode_resp_reply(frame) == (id, RespReply(status, headers, body))


@given(U32)
def test_token_and_no_action(number: int) -> None:
    assert oracle.Reader(replies.encode_conf_token(number)).u32(0) == number
    reader = oracle.Reader(replies.encode_no_action(number))
    assert (reader.u32(0), reader.u8(1), reader.union(2)) == (number, 0, None)


def test_errors_go_out_as_type_0() -> None:
    for code in ErrorCode:
        frame = replies.encode_error(code)
        assert frame[0] == 0
        assert oracle.Reader(frame).u8(0) == code == replies.decode_error(frame)


@given(TEXT)
def test_questions(name: str) -> None:
    frame = replies.encode_info_request(InfoRequest(InfoType.VAR, name))
    reader = oracle.Reader(frame)
    info = reader.union(1)
    assert (frame[0], reader.u8(0)) == (3, 1)
    assert info is not None
    assert info.string(0) == name
    for kind in (InfoType.REQ_BODY, InfoType.RESP_BODY):
        question = InfoRequest(kind)
        assert oracle.Reader(replies.encode_info_request(question)).u8(0) == kind
        assert replies.decode_info_request(replies.encode_info_request(question)) == question
