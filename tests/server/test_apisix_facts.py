"""What APISIX does to requests and answers that must not fool a plugin, each a fact seen on the real gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix.replies import InfoRequest, InfoType, RespReply, Rewrite, Stop
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Peer, Refused
from tests.server.conftest import PLUGINS

Prepare = Callable[..., int]
VAR = InfoType.VAR
REFUSED = RespReply(503, [("content-type", "text/plain; charset=utf-8")], b"The service is unavailable.\n")
POST_REQ = "route#1#ext-plugin-post-req#1"


def late(peer: Peer, code: str, plugin: str = "do") -> int:
    """A token for the phase after APISIX's own plugins."""
    return peer.prepare((plugin, json.dumps({"request": code})), key=POST_REQ)


# --- the response phase fails closed


@pytest.mark.parametrize("plugin", ["do", "do-async", "do-blocking"])
@pytest.mark.parametrize("status", [200, 204, 304])
def test_a_failure_in_the_response_phase_is_answered_without_anything_of_the_upstreams(
    peer: Peer, prepare: Prepare, plugin: str, status: int
) -> None:
    token = prepare((plugin, "raise RuntimeError('boom')"), phase="response")
    secret = [("Set-Cookie", "session=1"), ("Content-Encoding", "gzip"), ("X-Secret", "1")]
    assert peer.response(token, status, headers=secret, id=7) == REFUSED
    assert peer.response(token, status, headers=secret, id=8) == REFUSED, "the connection goes on"


def test_a_deadline_a_bad_configuration_and_a_wish_that_cannot_be_carried_out_are_failures_too(
    peer: Peer, prepare: Prepare
) -> None:
    assert peer.response(prepare(("do-quick-async", "await asyncio.sleep(5)"), phase="response")) == REFUSED
    assert peer.response(peer.prepare(("nobody", "{}"))) == REFUSED
    assert peer.response(prepare("response.status = 200", phase="response"), 204) == REFUSED


def test_an_unknown_token_stays_an_error_so_that_the_gateway_prepares_anew(peer: Peer) -> None:
    with pytest.raises(Refused, match="CONF_TOKEN_NOT_FOUND"):
        peer.response(12345)


def test_skip_keeps_the_upstreams_answer_without_asking_twice(peer: Peer, prepare: Prepare) -> None:
    token = prepare(("do-skip", "raise RuntimeError()"), phase="response")
    headers = [("Content-Type", "a/b"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    kept = [("content-type", "a/b"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
    assert peer.response(token, headers=headers) == RespReply(0, kept)
    assert peer.response(token, 304, headers=headers) == RespReply(304, kept, b"\n")


def test_failures_are_left_to_the_gateway_where_that_is_set(start_runner: StartRunner, tmp_path: Path) -> None:
    runner = configured(start_runner, tmp_path, "--response-failure", "gateway")
    with runner.peer() as peer, pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
        peer.response(peer.prepare(("do", json.dumps({"response": "raise RuntimeError()"}))))


def test_a_call_that_a_shutdown_cuts_off_is_answered(start_runner: StartRunner, tmp_path: Path) -> None:
    runner = configured(start_runner, tmp_path, "--drain", "0.1")
    with runner.peer() as peer:
        token = peer.prepare(("do-async", json.dumps({"response": "await asyncio.sleep(30)"})))
        peer.send(calls.encode_http_resp_call(id=3, conf_token=token, status=200, headers=[("X-Secret", "1")]))
        runner.wait_for(lambda: runner.workers()[0]["calls_under_way"])
        runner.process.terminate()
        assert replies.decode_resp_reply(peer.receive()) == (3, REFUSED)


def configured(start_runner: StartRunner, tmp_path: Path, *flags: str) -> RunnerProcess:
    (tmp_path / "do.py").write_text(PLUGINS)
    return start_runner("-p", tmp_path / "do.py", "--no-installed-plugins", *flags)


# --- answers without a body


def test_head_is_asked_for_and_gets_a_body_that_is_not_seen(peer: Peer, prepare: Prepare) -> None:
    headers = [("Content-Type", "a/b"), ("Content-Length", "9"), ("X-Secret", "1")]
    reply = peer.response(
        prepare("del response.headers['x-secret']; response.status = 404", phase="response"),
        headers=headers, answers={"request_method": b"HEAD"},
    )  # fmt: skip
    assert reply == RespReply(404, [("content-type", "a/b"), ("content-length", "9")], b"\n")
    assert peer.asked == [InfoRequest(VAR, "request_method")]


def test_a_204_of_a_plugins_has_no_length(peer: Peer, prepare: Prepare) -> None:
    headers = [("Content-Length", "9"), ("X-Up", "u")]
    reply = peer.response(prepare("response.status = 204", phase="response"), headers=headers)
    assert reply == RespReply(204, [("x-up", "u")], b"\n")


@pytest.mark.parametrize("status", [302, 401, 500])
def test_an_answer_of_a_plugins_without_a_body_replaces_the_upstreams(
    peer: Peer, prepare: Prepare, status: int
) -> None:
    code = f"return Response({status}, {{'location': '/x'}})"
    assert peer.response(prepare(code, phase="response")) == RespReply(status, [("location", "/x")], b"\n")


def test_an_answer_of_no_type_and_no_length_is_read_since_it_may_be_empty(peer: Peer, prepare: Prepare) -> None:
    token = prepare("response.headers['x-n'] = '1'", phase="response")
    headers = [("Transfer-Encoding", "chunked"), ("X-Up", "u")]
    kept = [("x-up", "u"), ("x-n", "1")]
    assert peer.response(token, 201, headers=headers, answers={"RESP_BODY": b""}) == RespReply(201, kept, b"\n")
    assert peer.response(token, 201, headers=headers, answers={"RESP_BODY": b"body"}) == RespReply(0, kept)


CHUNKED = [("Content-Type", "a/b"), ("Transfer-Encoding", "chunked")]
STREAM = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]


@pytest.mark.parametrize(
    ("how", "method", "headers", "reads"),
    [
        ("auto", b"POST", CHUNKED, True), ("auto", b"GET", CHUNKED, False), ("auto", b"POST", STREAM, False),
        ("read", b"GET", STREAM, True), ("pass", b"POST", CHUNKED, False),
    ],
)  # fmt: skip
def test_an_answer_of_no_length_is_read_where_asking_for_it_again_would_do_harm(
    start_runner: StartRunner, tmp_path: Path, how: str, method: bytes, headers: list[tuple[str, str]], reads: bool
) -> None:
    runner = configured(start_runner, tmp_path, "--unsized-answers", how)
    with runner.peer() as peer:
        answers = {"request_method": method, "RESP_BODY": b""}
        reply = peer.response(peer.prepare(("do", "{}")), headers=headers, answers=answers)
        assert reply.body == (b"\n" if reads else b"")
        assert (InfoRequest(InfoType.RESP_BODY) in peer.asked) is reads


def test_a_newline_for_an_empty_answer_is_told(peer: Peer, prepare: Prepare, runner: RunnerProcess) -> None:
    reply = peer.response(prepare("response.body()", phase="response"), answers={"RESP_BODY": b""})
    assert reply == RespReply(200, [("content-type", "text/plain")], b"\n")
    assert "the client gets a body of one newline" in runner.log


# --- bodies that can't be had


@pytest.mark.parametrize("plugin", ["do", "do-async", "do-blocking"])
@pytest.mark.parametrize("protocol", [b"HTTP/2.0", b"HTTP/3.0"])
def test_no_body_for_http_2_without_a_length_is_not_an_empty_body(
    peer: Peer, prepare: Prepare, runner: RunnerProcess, plugin: str, protocol: bytes
) -> None:
    wait = "await " if plugin == "do-async" else ""
    token = prepare((plugin, f"{wait}request.body()"))
    with pytest.raises(Refused):
        peer.request(token, method="POST", answers={"server_protocol": protocol})
    assert "NotAvailableError: whether this HTTP/" in runner.log


@pytest.mark.parametrize(
    ("method", "headers", "answers"),
    [
        ("POST", [], {}),
        ("POST", [("content-length", "0")], {"server_protocol": b"HTTP/2.0"}),
        ("POST", [("transfer-encoding", "chunked")], {"server_protocol": b""}),
        ("POST", [], {"server_protocol": b"HTTP/2.0", "rate_limiting_info": b""}),
    ],
    ids=["http-1", "length-0", "chunked", "from-3.17"],
)
def test_what_proves_that_there_is_no_body(
    peer: Peer, prepare: Prepare, method: str, headers: list[tuple[str, str | None]], answers: dict[str, bytes]
) -> None:
    assert peer.request(
        prepare("assert request.body() == b''"), method=method, headers=headers, answers=answers
    ) is None  # fmt: skip


def test_a_get_has_no_body_and_is_made_to_have_none(peer: Peer, prepare: Prepare) -> None:
    """Over HTTP/2 a GET may bring a body that APISIX doesn't read, but sends on."""
    token = prepare("assert request.body() == b''")
    assert peer.request(token) is None
    action = peer.request(token, answers={"server_protocol": b"HTTP/2.0"})
    assert action == Rewrite(headers=[("content-length", "0")])


def test_the_version_is_asked_for_once_a_connection(peer: Peer, prepare: Prepare) -> None:
    token = prepare("request.body()")
    for _ in range(2):
        peer.request(token, method="POST", answers={"server_protocol": b"HTTP/2.0", "rate_limiting_info": b""})
    assert peer.asked.count(InfoRequest(VAR, "rate_limiting_info")) == 1


def test_a_body_that_was_announced_but_not_handed_over_is_refused(peer: Peer, prepare: Prepare) -> None:
    with pytest.raises(Refused):
        peer.request(prepare("request.body()"), method="POST", headers=[("content-length", "5")])


@pytest.mark.parametrize("phase", ["request", "response"])
def test_a_body_beyond_the_longest_frame_is_not_asked_for(peer: Peer, prepare: Prepare, phase: str) -> None:
    who = phase
    token = prepare(
        f"try:\n    {who}.body()\nexcept Exception as error:\n    {who}.headers['x'] = type(error).__name__",
        phase=phase,
    )
    headers = [("content-length", str(2**24)), ("content-type", "a/b")]
    reply = (peer.request if phase == "request" else peer.response)(token, headers=headers)
    assert isinstance(reply, Rewrite | RespReply)
    assert ("x", "NotAvailableError") in reply.headers
    assert InfoRequest(InfoType.RESP_BODY) not in peer.asked


def test_an_upstreams_body_that_broke_off_is_refused_even_if_skipped(peer: Peer, prepare: Prepare) -> None:
    assert peer.response(prepare("response.body()", phase="response"), answers={"RESP_BODY": None}) == REFUSED
    token = prepare(("do-skip", "response.body()"), phase="response")
    assert peer.response(token, answers={"RESP_BODY": None}) == REFUSED


# --- headers that were cut off

MANY: list[tuple[str, str | None]] = [(f"x-{number}", "v") for number in range(100)]


@pytest.mark.parametrize("plugin", ["do", "do-async", "do-blocking"])
def test_a_name_that_may_have_been_cut_off_is_asked_for(peer: Peer, prepare: Prepare, plugin: str) -> None:
    code = """
        assert not request.headers.complete
        assert request.headers["X-Internal"] == "1" and "x-internal" in request.headers
        assert "x-none" not in request.headers and request.headers.get("x-none") is None
        assert request.headers.get_all("x-1") == ["v", "w, z"] and request.headers["x-2"] == "v"
    """
    answers = {"http_x_internal": b"1", "http_x_1": b"v, w, z", "http_x_2": b"v"}
    assert peer.request(prepare((plugin, code)), headers=MANY, answers=answers) is None
    assert peer.asked.count(InfoRequest(VAR, "http_x_internal")) == 1


@pytest.mark.parametrize("code", ["del request.headers['x-internal']", "request.headers.discard('x-internal')"])
@pytest.mark.parametrize("plugin", ["do", "do-async"])
def test_what_may_have_been_cut_off_is_deleted_unseen(peer: Peer, prepare: Prepare, plugin: str, code: str) -> None:
    assert peer.request(prepare((plugin, code)), headers=MANY) == Rewrite(headers=[("x-internal", None)])
    assert peer.asked == []


@pytest.mark.parametrize("code", ["list(request.headers)", "request.headers.multi_items()", "dict(request.headers)"])
def test_going_through_all_when_some_were_cut_off_is_refused(
    peer: Peer, prepare: Prepare, runner: RunnerProcess, code: str
) -> None:
    with pytest.raises(Refused):
        peer.request(prepare(code), headers=MANY)
    assert "handed over 100 of the request's headers, and perhaps not all" in runner.log


def test_a_task_of_ones_own_is_told_how_to_ask(peer: Peer, prepare: Prepare, runner: RunnerProcess) -> None:
    code = """
        async def look(): return request.headers.get("x-internal")
        await asyncio.create_task(look())
    """
    with pytest.raises(Refused):
        peer.request(prepare(("do-async", code)), headers=MANY)
    assert '`await request.var("http_x_internal")`' in runner.log
    token = prepare(("do-async", "assert await request.var('http_x_internal') == '1'"))
    assert peer.request(token, headers=MANY, answers={"http_x_internal": b"1"}) is None


@pytest.mark.parametrize(("count", "complete"), [(89, True), (90, False), (99, False), (110, False), (111, True)])
def test_about_a_hundred_may_have_been_more(peer: Peer, prepare: Prepare, count: int, complete: bool) -> None:
    headers = [(f"x-{number}", "v") for number in range(count)]
    assert peer.request(prepare(f"assert request.headers.complete is {complete}"), headers=headers) is None


@pytest.mark.parametrize(("version", "count", "complete"), [("3.9.1", 100, True), ("3.10", 150, False)])
def test_the_version_tells_whether_headers_are_cut(
    start_runner: StartRunner, tmp_path: Path, version: str, count: int, complete: bool
) -> None:
    runner = configured(start_runner, tmp_path, "--apisix-version", version)
    headers = [(f"x-{number}", "v") for number in range(count)]
    with runner.peer() as peer:
        token = peer.prepare(("do", json.dumps({"request": f"assert request.headers.complete is {complete}"})))
        assert peer.request(token, headers=headers) is None


def test_such_requests_can_be_refused_early(start_runner: StartRunner, tmp_path: Path) -> None:
    runner = configured(start_runner, tmp_path, "--cut-headers", "refuse")
    with runner.peer() as peer:
        token = peer.prepare(("do", "{}"))
        answer = peer.request(token, headers=MANY)
        assert isinstance(answer, Stop)
        assert (answer.status, answer.body) == (431, b"Too many headers.\n")
        assert peer.request(token) is None


# --- paths and queries


def test_from_3_17_a_new_path_alone_keeps_the_query(peer: Peer, prepare: Prepare) -> None:
    action = peer.request(prepare("request.path = '/n'"), "/o", args=[("a", "1")], answers={"rate_limiting_info": b""})
    assert action == Rewrite(path="/n")


def test_3_16_keeps_it_too_if_it_is_set(start_runner: StartRunner, tmp_path: Path) -> None:
    runner = configured(start_runner, tmp_path, "--apisix-version", "3.16")
    with runner.peer() as peer:
        token = peer.prepare(("do", json.dumps({"request": "request.path = '/n'"})))
        assert peer.request(token, "/o", args=[("a", "1")]) == Rewrite(path="/n")
        assert peer.asked == []


def test_arguments_changed_after_a_rewritten_path_bring_that_path(peer: Peer) -> None:
    """APISIX sends the path that was set with the query it had then, unless another one is set."""
    token = late(peer, "request.query['a'] = '2'")
    assert peer.request(token, "/set", args=[("a", "1")]) == Rewrite(path="/set", args=[("a", "2")])
    rewritten = peer.request(token, "/p%20q", answers={"upstream_uri": b"/p%20q?a=1"})
    assert rewritten == Rewrite(path="/p q", args=[("a", "2")])
    assert peer.request(token, "/p%20q") == Rewrite(path="/p%20q", args=[("a", "2")])


@pytest.mark.parametrize("plugin", ["do", "do-async"])
def test_a_path_after_a_rewrite_is_decoded_once(peer: Peer, plugin: str) -> None:
    token = late(peer, "request.headers['x'] = request.path", plugin)
    escaped = peer.request(token, "/p%20q", answers={"upstream_uri": b"/p%20q"})
    assert escaped == Rewrite(headers=[("x", "/p q")])
    assert peer.request(token, "/p%20q") == Rewrite(headers=[("x", "/p%20q")]), "what the client sent as %2520"
    assert peer.request(token, "/plain") == Rewrite(headers=[("x", "/plain")])
    assert len(peer.asked) == 2


def test_an_unsupported_version_is_a_setting_to_mend(start_runner: StartRunner, tmp_path: Path) -> None:
    runner = start_runner("--apisix-version", "new", wait=False)
    assert runner.process.wait(20) != 0
    assert "apisix_version is a version such as 3.9, or auto, not 'new'" in runner.log
