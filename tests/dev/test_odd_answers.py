"""Answers that nginx doesn't send, or sends in part, and what becomes of their connections; as seen on APISIX 3.9.1."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.apisix.behaviour import BEHAVIOURS
from gatewright.dev.http1 import Http1Connection
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.replies import InfoRequest, InfoType, RespReply, Rewrite, Stop
from tests.dev.test_exchanges import NO_ACTION, PRE, Seen, gateway, request

RESP = {"ext-plugin-post-resp": {"conf": [{"name": "p", "value": "{}"}]}}
FIRST = b"GET /r/x HTTP/1.1\r\nHost: h\r\n\r\n"


def stop(status: int, body: bytes = b"") -> list[bytes]:
    return [replies.encode_stop(0, Stop(status, (("x-r", "1"),), body))]


def statuses(answers: bytes) -> list[bytes]:
    return [line[9:12] for line in answers.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


@pytest.mark.parametrize("body", [b"", b"x"])
@pytest.mark.parametrize("status", [99, 100, 101, 199])
async def test_after_an_answer_below_200_the_next_request_is_answered(tmp_path: Path, status: int, body: bytes) -> None:
    async with gateway(tmp_path, stop(status, body)) as seen:
        assert statuses(await seen.send(FIRST + request())) == [b"200"]
    assert len(seen.calls) == 2


async def test_what_lua_prints_for_head_are_headers_whatever_the_status(tmp_path: Path) -> None:
    head = FIRST.replace(b"GET", b"HEAD")
    async with gateway(tmp_path, stop(99, b"x"), stop(99), [NO_ACTION]) as seen:
        answers = await seen.send(head + head + request())
    assert statuses(answers) == [b"099", b"200"]
    assert answers.startswith(b"HTTP/1.1 099 \r\n")
    assert b"\r\nx-r: 1\r\n" in answers


async def test_an_old_client_is_left_without_an_answer_and_without_a_connection(tmp_path: Path) -> None:
    async with gateway(tmp_path, stop(99)) as seen:
        assert await seen.send(FIRST.replace(b"1.1", b"1.0")) == b""


async def test_a_body_that_nobody_read_before_such_an_answer_is_taken_for_a_request(tmp_path: Path) -> None:
    async with gateway(tmp_path, stop(99)) as seen:
        posted = b"POST /r/x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
        assert statuses(await seen.send(posted + FIRST)) == [b"400"]


@pytest.mark.parametrize("status", [408, 444, 499])
@pytest.mark.parametrize("phase", ["request", "response"])
async def test_of_what_closes_the_connection_head_gets_the_headers(tmp_path: Path, status: int, phase: str) -> None:
    reply = stop(status, b"x") if phase == "request" else [replies.encode_resp_reply(0, RespReply(status, (), b"x"))]
    async with gateway(tmp_path, reply, plugins=PRE if phase == "request" else RESP) as seen:
        answers = await seen.send(FIRST.replace(b"GET", b"HEAD") + FIRST)
    assert statuses(answers) == [b"%d" % status]
    assert b"\r\nConnection: keep-alive\r\n" in answers


@pytest.mark.parametrize(
    ("status", "method", "version"),
    [(99, "POST", "3.9"), (204, "POST", "3.9"), (304, "HEAD", "3.9"), (99, "POST", "3.18")],
)
async def test_such_a_body_is_no_other_request_s_when_it_comes_late(
    tmp_path: Path, status: int, method: str, version: str
) -> None:
    head = f"{method} /r/x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n".encode()
    async with gateway(tmp_path, stop(status, b"x"), behaviour=BEHAVIOURS[version]) as seen:
        reader, writer = await asyncio.open_connection("127.0.0.1", seen.port)
        writer.write(head)
        while not seen.calls:
            await asyncio.sleep(0.01)
        writer.write(b"abc" + request())
        answers = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
    assert statuses(answers)[-1] == b"400"
    assert len(seen.calls) == 1
    assert b"100 Continue" not in answers


class AnswersWithoutBody:
    """Answers the first request without its body, which comes meanwhile; then the next one."""

    port, server_header, charset, reads_late, agreeing_hosts = 0, "APISIX", True, True, False

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.is_asked, self.body_has_come = asyncio.Event(), asyncio.Event()

    async def answer_of(self, given: ClientRequest) -> Answer:
        self.targets.append(given.target)
        if len(self.targets) == 1:
            self.is_asked.set()
            await self.body_has_come.wait()
            given.give_back(given.wire or given.body)
        return Answer(204, framing="stop", body=b"x")

    def refusal(self, status: int) -> Answer:
        return Answer(status, page=True, close=True)

    def connection_opened(self, connection: asyncio.BaseTransport) -> None:
        pass

    def connection_closed(self, connection: asyncio.BaseTransport) -> None:
        pass


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False


async def test_a_body_that_comes_just_before_the_answer_is_given_back_whole() -> None:
    served, wire = AnswersWithoutBody(), Wire()
    connection = Http1Connection(served)
    connection.connection_made(wire)
    connection.data_received(b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 33\r\n\r\n")
    await served.is_asked.wait()
    connection.data_received(b"GET /2 HTTP/1.1\r\nHost: h\r\nA: \r\n\r\n")
    served.body_has_come.set()
    async with asyncio.timeout(5):
        while len(statuses(wire.written)) < 2:
            await asyncio.sleep(0)
    assert served.targets == ["/1", "/2"]


@pytest.mark.parametrize("status", [204, 304, 444])
async def test_before_what_has_no_body_nobody_is_told_to_go_on(tmp_path: Path, status: int) -> None:
    async with gateway(tmp_path, stop(status, b"x")) as seen:
        answer = await seen.send_for(request("Content-Length: 5", "Expect: 100-continue", method="POST"))
    assert statuses(answer) == ([] if status == 444 else [b"%d" % status])


@pytest.mark.parametrize(("status", "method"), [(204, "POST"), (304, "POST"), (403, "HEAD")])
async def test_a_later_nginx_tells_the_client_to_go_on_once_it_has_answered(
    tmp_path: Path, status: int, method: str
) -> None:
    async with gateway(tmp_path, stop(status, b"x"), behaviour=BEHAVIOURS["3.18"]) as seen:
        answer = await seen.send_for(request("Content-Length: 5", "Expect: 100-continue", method=method))
    assert statuses(answer) == [b"%d" % status, b"100"]


@pytest.mark.parametrize("status", [99, 1000])
async def test_a_later_lua_sets_no_status_that_is_none(tmp_path: Path, status: int) -> None:
    reply = [replies.encode_resp_reply(0, RespReply(status))]
    async with gateway(tmp_path, reply, plugins=RESP, behaviour=BEHAVIOURS["3.18"]) as seen:
        assert statuses(await seen.send(request())) == [b"200"]


async def test_a_later_nginx_does_away_with_the_body_of_a_head(tmp_path: Path) -> None:
    posted = b"HEAD /r/x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    async with gateway(tmp_path, stop(403, b"no"), behaviour=BEHAVIOURS["3.18"]) as seen:
        assert statuses(await seen.send(posted + request())) == [b"403", b"200"]


@pytest.mark.parametrize(("args", "target"), [((("b", "2"),), b"/?a=1&b=2"), ((("a", None),), b"/?")])
async def test_an_empty_path_with_arguments_is_the_root(
    tmp_path: Path, args: tuple[tuple[str, str | None], ...], target: bytes
) -> None:
    async with gateway(tmp_path, [replies.encode_rewrite(0, Rewrite(path="", args=args))]) as seen:
        assert statuses(await seen.send(request(path="/r/x?a=1"))) == [b"200"]
    assert seen.upstream[0].startswith(b"GET " + target + b" HTTP/1.1\r\n")


async def test_post_resp_takes_no_path_with_a_question_mark_in_it(tmp_path: Path) -> None:
    async with gateway(tmp_path, plugins=RESP) as seen:
        assert statuses(await seen.send(request(path="/r/a%3Fb?c=1"))) == [b"502"]
    assert not seen.upstream


@pytest.mark.parametrize("phase", ["request", "response"])
async def test_headers_are_set_before_lua_aborts_at_the_rest_of_a_reply(tmp_path: Path, phase: str) -> None:
    whole = replies.encode_resp_reply(0, RespReply(0, [("x-r", "1")], b"body"))
    if phase == "request":
        whole = stop(200, b"body")[0]
    cut = whole[: whole.index(b"body") - 2]
    cut = cut[:1] + (len(cut) - 4).to_bytes(3, "big") + cut[4:]
    async with gateway(tmp_path, [cut], plugins=PRE if phase == "request" else RESP) as seen:
        answer = await seen.send(request())
    assert statuses(answer) == [b"500"]
    assert b"\r\nx-r: 1\r\n" in answer


async def test_a_second_try_after_post_resp_is_lua_s_error(tmp_path: Path) -> None:
    """The first answer has no body, so that nginx asks itself; the second is none, so that it asks once more."""

    def once_without_a_body(seen: Seen) -> bytes:
        return b"HTTP/1.1 204 No Content\r\n\r\n" if len(seen.upstream) == 1 else b""

    async with gateway(tmp_path, plugins=RESP, answer=once_without_a_body) as seen:
        answer = await seen.send(request())
    assert statuses(answer) == [b"500"]
    assert b"\r\nX-APISIX-Upstream-Status: 502 : \r\n" in answer
    assert len(seen.upstream) == 2


# --- what is known of the request as it came


async def asked(seen: Seen, data: bytes) -> list[bytes | None]:
    seen.told.clear()
    await seen.send(data)
    return seen.told


async def test_a_runner_may_have_the_request_s_head_as_it_came(tmp_path: Path) -> None:
    head = request("X-A:  b", "x_u: 1")
    question = replies.encode_info_request(InfoRequest(InfoType.VAR, "echo_client_request_headers"))
    async with gateway(tmp_path, [question, NO_ACTION]) as seen:
        assert await asked(seen, head) == [head]


async def test_the_length_of_a_request_counts_its_chunks_as_they_came(tmp_path: Path) -> None:
    head = request("Transfer-Encoding: chunked", method="POST")
    body = b"3;x=1\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    read = replies.encode_info_request(InfoRequest(InfoType.REQ_BODY))
    question = replies.encode_info_request(InfoRequest(InfoType.VAR, "request_length"))
    async with gateway(tmp_path, [read, question, NO_ACTION]) as seen:
        assert await asked(seen, head + body) == [b"abc", b"%d" % len(head + body)]


async def test_in_the_response_phase_the_client_s_word_on_proxies_before_counts(tmp_path: Path) -> None:
    question = replies.encode_info_request(InfoRequest(InfoType.VAR, "var_x_forwarded_proto"))
    told = [question, replies.encode_resp_reply(0, RespReply(0))]
    async with gateway(tmp_path, told, told, plugins=RESP) as seen:
        assert await asked(seen, request("X-Forwarded-Proto: https")) == [b"https"]
        assert await asked(seen, request()) == [b"http"]


async def test_a_runner_may_ask_what_a_graphql_request_is_called(tmp_path: Path) -> None:
    question = replies.encode_info_request(InfoRequest(InfoType.VAR, "graphql_name"))
    document = b"query n { a }"
    async with gateway(tmp_path, [question, NO_ACTION]) as seen:
        head = request(f"Content-Length: {len(document)}", method="POST")
        assert await asked(seen, head + document) == [b"n"]


REWRITE = "response-rewrite"
BIG = b"x" * 2000


@pytest.mark.parametrize(
    ("status", "body", "rewrite", "begins", "ends"),
    [
        (99, BIG, None, b"HTTP/1.1 099 \r\n", b"\r\n\r\n" + BIG),  # as it is, and no end
        (204, BIG, {"status_code": 202}, b"HTTP/1.1 202 Accepted\r\n", b"\r\n\r\n7d0\r\n" + BIG + b"\r\n"),
        (101, b"few", {"body": "new"}, b"HTTP/1.1 101 Switching Protocols\r\n", b"\r\n\r\nnew"),
        (101, b"few", {"body": "n", "status_code": 200}, b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n1\r\nn\r\n0\r\n\r\n"),
        (101, b"few", {"status_code": 204}, b"HTTP/1.1 204 No Content\r\n", b"\r\n\r\n"),
        (101, b"few", {"status_code": 202}, b"", b""),
        (99, BIG, {"filters": [{"regex": "x", "replace": "y"}]}, b"", b""),  # kept back until the end
        (99, b"", {"body": BIG.decode()}, b"", b""),
        (444, b"few", None, b"", b""),
        (444, BIG, None, b"HTTP/1.1 444 \r\n", b"\r\n\r\n7d0\r\n" + BIG + b"\r\n"),
        (444, b"few", {"body": "n"}, b"HTTP/1.1 444 \r\n", b"\r\n\r\n1\r\nn\r\n0\r\n\r\n"),
    ],
)
async def test_what_never_ends_is_sent_once_it_fills_a_buffer(
    tmp_path: Path, status: int, body: bytes, rewrite: dict[str, Any] | None, begins: bytes, ends: bytes
) -> None:
    plugins = {**PRE, **({REWRITE: rewrite} if rewrite else {})}
    async with gateway(tmp_path, stop(status, body), [NO_ACTION], plugins=plugins) as seen:
        answers = await seen.send(FIRST + request())
    first = answers if status == 444 else answers.rpartition(b"HTTP/1.1 ")[0]
    assert first.startswith(begins)
    assert first.endswith(ends)
    assert bool(first) == bool(begins)


async def test_an_old_client_that_asked_for_headers_is_left_with_a_connection_if_it_wants_one(tmp_path: Path) -> None:
    head = FIRST.replace(b"GET", b"HEAD").replace(b"HTTP/1.1", b"HTTP/1.0")
    kept = head.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
    async with gateway(tmp_path, stop(101, b"x"), stop(403, b"x")) as seen:
        assert statuses(await seen.send(head)) == [b"101"]  # and the end
        assert b"\r\nConnection: keep-alive\r\n" in await seen.send_for(kept)


async def reply_about_the_length(tmp_path: Path, value: str | None, answer: bytes) -> tuple[list[bytes], bytes]:
    """Headers and body of an answer, after the response phase has set the Content-Length of one without a body."""
    reply = [replies.encode_resp_reply(0, RespReply(0, (("Content-Length", value),)))]
    answers = iter((b"HTTP/1.1 204 No Content\r\n\r\n", answer))
    async with gateway(tmp_path, reply, plugins=RESP, answer=lambda _: next(answers)) as seen:
        head, _, body = (await seen.send_for(FIRST)).partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    return [line for line in lines if line.startswith((b"content-length", b"transfer-encoding"))], body


async def test_a_length_that_lua_has_set_hides_the_upstream_s(tmp_path: Path) -> None:
    sized = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    assert await reply_about_the_length(tmp_path, "7", sized) == ([b"content-length: 7"], b"ok")
    assert await reply_about_the_length(tmp_path, None, sized) == ([], b"ok")
    both, body = await reply_about_the_length(tmp_path, "7", chunked)
    assert sorted(both) == [b"content-length: 7", b"transfer-encoding: chunked"]
    assert body == b"2\r\nok\r\n0\r\n\r\n"


@pytest.mark.parametrize("status", [b"503 No", b"500 No\r\nx-apisix-upstream-status: 7"])
async def test_the_upstream_s_status_is_told_once(tmp_path: Path, status: bytes) -> None:
    told = [replies.encode_rewrite(0, Rewrite(resp_headers=(("x-apisix-Upstream-Status", "1"),)))]
    refusal = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    async with gateway(tmp_path, told, answer=refusal) as seen:
        answer = await seen.send(request())
    lines = [line for line in answer.split(b"\r\n") if b"upstream-status" in line.lower()]
    assert lines == [b"x-apisix-upstream-status: " + status[:3]]


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


async def test_a_later_nginx_takes_early_hints_for_none_of_an_answer_and_clears_what_was_set(tmp_path: Path) -> None:
    told = [replies.encode_rewrite(0, Rewrite(resp_headers=(("x-r", "1"),)))]
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with gateway(tmp_path, told, answer=HINTS + ok, behaviour=BEHAVIOURS["3.18"]) as seen:
        answer = await seen.send(request())
    assert statuses(answer) == [b"200"]
    assert answer.endswith(b"\r\n\r\nok")
    assert b"x-r" not in answer
    assert b"Link" not in answer


@pytest.mark.parametrize(
    ("plugin", "body"),
    [
        ({"response-rewrite": {"body": "rr"}}, b"2\r\nrr\r\n0\r\n\r\n"),
        ({"response-rewrite": {"filters": [{"regex": "o", "replace": "0"}]}}, b""),
        ({"echo": {"body": "rr"}}, b"2\r\nrr\r\n0\r\n\r\n"),
        ({"echo": {"before_body": "b", "after_body": "a"}}, b"6\r\nbshort\r\n"),
    ],
)
async def test_what_an_upstream_breaks_off_ends_only_where_all_of_it_is_replaced(
    tmp_path: Path, plugin: dict[str, Any], body: bytes
) -> None:
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"
    async with gateway(tmp_path, plugins={**PRE, **plugin}, answer=broken) as seen:
        answer = await seen.send(FIRST)
    assert answer.partition(b"\r\n\r\n")[2] == body
