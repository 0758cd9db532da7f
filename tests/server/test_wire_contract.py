"""The APISIX wire contract, point by point, against a real runner process over a real socket."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix.replies import ErrorCode, InfoRequest, InfoType, RespReply, Rewrite, Stop
from tests.conftest import RunnerProcess
from tests.peer import Peer, Refused

Prepare = Callable[..., int]


def test_header_and_payload_may_be_split_at_any_byte(peer: Peer, prepare: Prepare) -> None:
    token = prepare("request.headers['x-a'] = '1'")
    frame = calls.encode_http_req_call(
        id=5, conf_token=token, src_ip=b"\x7f\0\0\1", method="GET", path="/", args=[], headers=[]
    )
    for byte in frame:
        peer.send(bytes([byte]))
    assert replies.decode_req_reply(peer.receive()) == (5, Rewrite(headers=[("x-a", "1")]))


def test_prepare_conf_is_answered_on_a_second_connection_while_the_first_waits(runner: RunnerProcess) -> None:
    with runner.peer() as first, runner.peer() as second:
        token = second.prepare(("do", "{}"))
        assert first.request(token) is None


def test_request_id_0_is_valid(peer: Peer, prepare: Prepare) -> None:
    assert peer.request(prepare("return Response(403, body=b'no')"), id=0) == Stop(403, body=b"no")


def test_the_id_is_echoed_up_to_the_largest(peer: Peer, prepare: Prepare) -> None:
    assert peer.request(prepare(""), id=2**32 - 1) is None


def test_the_same_configuration_under_the_same_key_has_the_same_token(peer: Peer) -> None:
    tokens = {peer.prepare(("do", "{}"), key=key) for key in ("a", "a", "b")}
    assert len(tokens) == 2
    assert peer.prepare(("do", '{"request": ""}'), key="a") not in tokens


def test_a_configuration_without_plugins_still_gets_a_token(peer: Peer) -> None:
    peer.send(calls.encode_prepare_conf("route#1", None))
    assert peer.request(replies.decode_conf_token(peer.receive())) is None


def test_the_order_of_the_configuration_is_the_order_of_execution(peer: Peer, prepare: Prepare) -> None:
    step = "request.ctx.setdefault('seen', []).append({0}); request.headers['x-seen'] = str(request.ctx['seen'])"
    assert peer.request(prepare(*(step.format(i) for i in (3, 1, 2)))) == Rewrite(headers=[("x-seen", "[3, 1, 2]")])


def test_the_same_plugin_twice_in_a_chain_runs_twice_with_its_own_configuration(peer: Peer, prepare: Prepare) -> None:
    token = prepare("request.headers['x-a'] = '1'", "request.headers['x-b'] = '2'")
    assert peer.request(token) == Rewrite(headers=[("x-a", "1"), ("x-b", "2")])


def test_an_unknown_token_is_refused_before_any_plugin_runs(peer: Peer) -> None:
    with pytest.raises(Refused) as refused:
        peer.request(123456789)
    assert refused.value.code is ErrorCode.CONF_TOKEN_NOT_FOUND


def test_path_args_and_headers_arrive_as_they_are_on_the_wire(peer: Peer, prepare: Prepare) -> None:
    token = prepare(
        """
        assert request.path == "/a?b", request.path
        assert request.query.multi_items() == [("y", ""), ("z", ""), ("n", "1"), ("n", "2")]
        assert request.query.is_bare("z") and not request.query.is_bare("y")
        assert request.headers.get_all("X-DUP") == ["1", "2"]
        assert request.headers["x-latin"].encode("utf-8", "surrogateescape") == b"caf\\xe9"
        assert (request.method, request.client_ip) == ("PATCH", "2001:db8::1")
        """
    )
    action = peer.request(
        token, "/a?b", method="PATCH", args=[("y", ""), ("z", None), ("n", "1"), ("n", "2")],
        headers=[("x-dup", "1"), ("x-dup", "2"), ("x-latin", "caf\udce9")],
        src_ip=bytes.fromhex("20010db8000000000000000000000001"),
    )  # fmt: skip
    assert action is None


def test_nothing_changed_is_no_action(peer: Peer, prepare: Prepare) -> None:
    assert peer.request(prepare("list(request.headers); list(request.query)"), args=[("z", None)]) is None


def test_only_what_changed_is_sent(peer: Peer, prepare: Prepare) -> None:
    action = peer.request(
        prepare("request.headers['X-New'] = 'n'; del request.headers['x-a']; request.query['k'] = 'v'"),
        headers=[("host", "h"), ("x-a", "1"), ("x-dup", "1"), ("x-dup", "2")], args=[("z", None), ("a", "1")],
    )  # fmt: skip
    assert action == Rewrite(headers=[("x-new", "n"), ("x-a", None)], args=[("k", "v")])


def test_header_names_go_out_in_lower_case(peer: Peer, prepare: Prepare) -> None:
    action = peer.request(prepare("request.headers['Host'] = 'h'; request.response_headers['X-Up'] = '1'"))
    assert action == Rewrite(headers=[("host", "h")], resp_headers=[("x-up", "1")])


def test_several_values_of_a_request_header_are_joined_since_the_last_one_would_win(
    peer: Peer, prepare: Prepare
) -> None:
    code = "request.headers.add('X-A', '2'); request.headers.add('cookie', 'b=2')"
    action = peer.request(prepare(code), headers=[("x-a", "1"), ("cookie", "a=1")])
    assert action == Rewrite(headers=[("x-a", "1, 2"), ("cookie", "a=1; b=2")])


def test_the_path_is_sent_decoded(peer: Peer, prepare: Prepare) -> None:
    assert peer.request(prepare("request.path = '/p q?%'")) == Rewrite(path="/p q?%")


def test_a_path_that_should_keep_its_query_names_an_argument_that_is_not_there(peer: Peer, prepare: Prepare) -> None:
    action = peer.request(prepare("request.path = '/new'"), args=[("-", "1"), ("z", None)])
    assert action == Rewrite(path="/new", args=[("--", None)])


def test_a_path_with_changed_arguments_sends_just_these(peer: Peer, prepare: Prepare) -> None:
    action = peer.request(prepare("request.path = '/new'; request.query['a'] = '2'"), args=[("a", "1")])
    assert action == Rewrite(path="/new", args=[("a", "2")])


def test_arguments_are_set_added_and_deleted_by_name(peer: Peer, prepare: Prepare) -> None:
    code = "request.query['a'] = '2'; request.query.add('b', '3'); del request.query['c']"
    action = peer.request(prepare(code), args=[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")])
    assert action == Rewrite(args=[("a", "2"), ("b", "1"), ("b", "3"), ("c", None)])


def test_a_valueless_argument_is_not_sent_back(peer: Peer, prepare: Prepare) -> None:
    assert peer.request(prepare("request.query['k'] = '1'"), args=[("z", None)]) == Rewrite(args=[("k", "1")])


def test_a_new_body_is_sent_after_reading_the_clients_and_with_its_length(peer: Peer, prepare: Prepare) -> None:
    action = peer.request(
        prepare("request.set_body('new body')"), method="POST",
        headers=[("content-length", "3"), ("transfer-encoding", "chunked")], answers={"REQ_BODY": b"old"},
    )  # fmt: skip
    assert peer.asked == [InfoRequest(InfoType.REQ_BODY)]
    assert action == Rewrite(headers=[("content-length", "8"), ("transfer-encoding", None)], body=b"new body")


def test_a_body_that_was_read_is_not_asked_for_again(peer: Peer, prepare: Prepare) -> None:
    token = prepare("request.set_body(request.body().upper())", "assert request.body() == b'OLD'")
    action = peer.request(token, method="POST", answers={"REQ_BODY": b"old"})
    assert peer.asked == [InfoRequest(InfoType.REQ_BODY)]
    assert action == Rewrite(headers=[("content-length", "3")], body=b"OLD")


def test_an_empty_body_cannot_be_expressed_and_is_refused(peer: Peer, prepare: Prepare, runner: RunnerProcess) -> None:
    with pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
        peer.request(prepare("request.set_body(b'')"), method="POST")
    assert "can't be told to send an empty request body" in runner.log


def test_binary_bodies_pass_both_ways(peer: Peer, prepare: Prepare) -> None:
    body = bytes(range(256)) * 3000
    token = prepare("return Response(200, {'content-type': 'image/png'}, request.body()[::-1])")
    action = peer.request(token, method="POST", answers={"REQ_BODY": body})
    assert action == Stop(200, [("content-type", "image/png")], body[::-1])


def test_a_stop_ends_the_chain_and_keeps_repeated_headers(peer: Peer, prepare: Prepare) -> None:
    token = prepare(
        "return Response(418, [('Set-Cookie', 'a=1'), ('Set-Cookie', 'b=2')], 'tea')", "raise AssertionError()"
    )
    assert peer.request(token) == Stop(
        418, [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-type", "text/plain; charset=utf-8")], b"tea"
    )


def test_a_stop_brings_the_response_headers_of_earlier_plugins(peer: Peer, prepare: Prepare) -> None:
    token = prepare("request.response_headers['x-limit'] = '9'", "return Response(429)")
    assert peer.request(token) == Stop(429, [("x-limit", "9")])


def test_a_stop_never_sends_a_length_that_could_cut_its_body(peer: Peer, prepare: Prepare) -> None:
    token = prepare("return Response(200, {'content-length': '1', 'connection': 'close', 'x-a': '1'}, b'body')")
    assert peer.request(token) == Stop(200, [("x-a", "1")], b"body")


@pytest.mark.parametrize(
    "code",
    [
        "return Response(100)", "return Response(99)", "return Response(1000)",
        "request.headers['x'] = 'a\\r\\nx-evil: 1'", "request.headers['a b'] = '1'", "request.path = 'relative'",
        "request.path = '/a\\r\\nb'", "return 'text'", "return True",
    ],
)  # fmt: skip
def test_what_the_gateway_could_not_carry_out_is_refused(peer: Peer, prepare: Prepare, code: str) -> None:
    with pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
        peer.request(prepare(code))


def test_response_headers_from_the_request_phase(peer: Peer, prepare: Prepare) -> None:
    code = "request.response_headers.add('X-A', '1'); request.response_headers.add('x-a', '2')"
    assert peer.request(prepare(code)) == Rewrite(resp_headers=[("x-a", "1"), ("x-a", "2")])


def test_extra_info_may_be_asked_any_number_of_times(peer: Peer, prepare: Prepare) -> None:
    token = prepare("request.headers['x'] = ','.join(str(request.var(n)) for n in ('host', 'nope', 'empty'))")
    action = peer.request(token, answers={"host": b"h", "empty": b""})
    assert action == Rewrite(headers=[("x", "h,None,")])
    assert [question.name for question in peer.asked] == ["host", "nope", "empty"]


def test_async_handlers_may_ask_at_once_and_answers_come_in_order(peer: Peer, prepare: Prepare) -> None:
    code = "a, b = await asyncio.gather(request.var('a'), request.var('b')); request.headers['x'] = a + b"
    assert peer.request(prepare(("do-async", code)), answers={"a": b"1", "b": b"2"}) == Rewrite(headers=[("x", "12")])


# --- response phase

UPSTREAM = [
    ("Content-Type", "application/json"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Content-Encoding", "gzip"),
    ("Content-Length", "9"), ("Connection", "close"), ("Transfer-Encoding", "chunked"), ("X-Up", "u"),
]  # fmt: skip
KEPT = [
    ("content-type", "application/json"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-encoding", "gzip"),
    ("content-length", "9"), ("x-up", "u"),
]  # fmt: skip


def test_a_response_phase_that_changes_nothing_keeps_all_headers_but_hop_by_hop_ones(
    peer: Peer, prepare: Prepare
) -> None:
    assert peer.response(prepare("", phase="response"), headers=UPSTREAM) == RespReply(0, KEPT)


def test_a_response_header_change_keeps_all_others(peer: Peer, prepare: Prepare) -> None:
    code = "response.headers.add('Set-Cookie', 'c=3'); response.headers['X-Up'] = 'v'; response.headers['n'] = '1'"
    reply = peer.response(prepare(code, phase="response"), headers=UPSTREAM)
    assert reply.headers == [
        ("content-type", "application/json"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("set-cookie", "c=3"),
        ("content-encoding", "gzip"), ("content-length", "9"), ("x-up", "v"), ("n", "1"),
    ]  # fmt: skip


def test_deleting_every_response_header_does_not_bring_them_back(peer: Peer, prepare: Prepare) -> None:
    reply = peer.response(prepare("response.headers.clear()", phase="response"), headers=[("Content-Type", "a/b")])
    assert reply.headers == [("connection", None)]


def test_a_new_response_body_drops_the_old_length(peer: Peer, prepare: Prepare) -> None:
    code = "response.set_body(response.body().upper())"
    reply = peer.response(prepare(code, phase="response"), headers=UPSTREAM, answers={"RESP_BODY": b"body"})
    assert reply == RespReply(200, [entry for entry in KEPT if entry[0] != "content-length"], b"BODY")


def test_the_response_body_is_read_once_even_when_empty(peer: Peer, prepare: Prepare) -> None:
    code = "assert response.body() == b'' == response.body()"
    peer.response(prepare(code, code, phase="response"), headers=[("Content-Length", "0")], answers={"RESP_BODY": b""})
    assert peer.asked.count(InfoRequest(InfoType.RESP_BODY)) == 1


def test_status_only_keeps_the_body(peer: Peer, prepare: Prepare) -> None:
    reply = peer.response(prepare("response.status = 404", phase="response"), headers=[("Content-Type", "a/b")])
    assert reply == RespReply(404, [("content-type", "a/b")])


@pytest.mark.parametrize("status", [204, 304])
def test_a_bodiless_answer_gets_an_unseen_body_so_that_the_upstream_is_not_asked_again(
    peer: Peer, prepare: Prepare, status: int
) -> None:
    reply = peer.response(prepare("", phase="response"), status, headers=[("X-Up", "u")])
    assert reply == RespReply(status, [("x-up", "u")], b"\n")


def test_plugins_of_a_response_chain_see_each_others_changes(peer: Peer, prepare: Prepare) -> None:
    token = prepare(
        "response.set_body(response.body() + b'1'); response.status = 500",
        "assert response.status == 500; response.set_body(response.body() + b'2')",
        "return Response(201, {'x-n': '1'}, response.body() + b'3')",
        "response.headers['x-m'] = '1'",
        phase="response",
    )
    reply = peer.response(token, headers=[("X-Up", "u")], answers={"RESP_BODY": b"0"})
    assert reply == RespReply(201, [("x-n", "1"), ("x-m", "1")], b"0123")


def test_what_the_response_phase_does_not_carry_is_asked_for(peer: Peer, prepare: Prepare) -> None:
    reply = peer.response(prepare("response.headers['x'] = request.path", phase="response"), answers={"uri": b"/p"})
    assert ("x", "/p") in reply.headers


def test_async_response_handlers(peer: Peer, prepare: Prepare) -> None:
    code = "response.set_body((await response.body()) + (await request.var('host')).encode())"
    reply = peer.response(
        prepare(("do-async", code), phase="response"), headers=[("X-Up", "u")],
        answers={"RESP_BODY": b"b", "host": b"h"},
    )  # fmt: skip
    assert reply == RespReply(200, [("x-up", "u")], b"bh")


# --- failing


@pytest.mark.parametrize("plugin", ["do", "do-async", "do-blocking"])
@pytest.mark.parametrize("code", ["raise RuntimeError('boom')", "import sys; sys.exit(3)", "raise KeyError('{x}')"])
def test_an_exception_refuses_the_request_with_a_type_0_frame_and_one_log_line(
    peer: Peer, prepare: Prepare, runner: RunnerProcess, plugin: str, code: str
) -> None:
    token = prepare((plugin, code))
    before = runner.log.count("plugin failed: request refused")
    with pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
        peer.request(token)
    assert runner.log.count("plugin failed: request refused") == before + 1
    assert peer.request(peer.prepare(("do", "{}"))) is None, "the same connection goes on"


def test_skip_goes_on_without_the_plugin(peer: Peer, prepare: Prepare) -> None:
    token = prepare(("do-skip", "raise RuntimeError()"), "request.headers['x'] = '1'")
    assert peer.request(token) == Rewrite(headers=[("x", "1")])


@pytest.mark.parametrize(
    ("plugin", "code"),
    [
        ("do-quick", "request.body()"), ("do-quick", "time.sleep(0.3)"), ("do-quick-blocking", "time.sleep(1)"),
        ("do-quick-async", "await asyncio.sleep(5)"), ("do-quick-async", "await request.body()"),
        ("do-quick-blocking", "request.body()"),
    ],
)  # fmt: skip
@pytest.mark.alone
def test_a_missed_deadline_refuses_the_request(
    runner: RunnerProcess, peer: Peer, prepare: Prepare, plugin: str, code: str
) -> None:
    token = prepare((plugin, code))
    began = time.monotonic()
    peer.send(
        calls.encode_http_req_call(
            id=1, conf_token=token, src_ip=b"\x7f\0\0\1", method="POST", path="/", args=[], headers=[]
        )
    )
    frame = peer.receive()
    if frame[0] == 3:  # it asked for the body, which never comes
        frame = peer.receive()
    assert frame[0] == 0
    assert replies.decode_error(frame) == ErrorCode.SERVICE_UNAVAILABLE
    assert time.monotonic() - began < 1.5
    assert "plugin missed its deadline: request refused" in runner.log


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (("nobody", "{}"), "no plugin is called 'nobody'; known plugins: "),
        (("cros", "{}"), "no plugin is called 'cros'; did you mean cors? known plugins: "),
        (("do", "not json"), "not valid JSON"),
        (("do", "[]"), "expected a JSON object, got list"),
        (("do", '{"request": "this is no python"}'), "SyntaxError"),
    ],
)
def test_an_unusable_configuration_gets_a_token_and_each_request_is_refused(
    peer: Peer, runner: RunnerProcess, conf: tuple[str, str], message: str
) -> None:
    token = peer.prepare(conf)
    with pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
        peer.request(token)
    assert message in runner.log


def test_configurations_are_never_logged(peer: Peer, runner: RunnerProcess) -> None:
    with pytest.raises(Refused):
        peer.request(peer.prepare(("do", '{"password": "hunter2", "request": 5}')))
    assert "hunter2" not in runner.log
