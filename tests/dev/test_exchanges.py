"""Whole exchanges of the development gateway, as a real APISIX 3.9.1 was seen to do them: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.apisix.behaviour import BEHAVIOURS, Behaviour
from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.apisix.routes import build_routes
from gatewright.dev.target import Upstream
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.calls import HttpReqCall, decode_extra_info_result
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.apisix.replies import InfoRequest, InfoType, RespReply, Rewrite, Stop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_ACTION = replies.encode_no_action(0)
ASK_BODY = replies.encode_info_request(InfoRequest(InfoType.REQ_BODY))
PRE = {"ext-plugin-pre-req": {"conf": [{"name": "p", "value": "{}"}]}}
POST = {"ext-plugin-post-req": {"conf": [{"name": "p", "value": "{}"}]}}


@dataclass
class Seen:
    """What runner and upstream saw."""

    calls: list[HttpReqCall] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    results: int = 0
    connections: int = 0
    told: list[bytes | None] = field(default_factory=list)
    upstream: list[bytes] = field(default_factory=list)
    port: int = 0

    async def send(self, data: bytes, *, half_closed: bool = False) -> bytes:
        """What comes back until the gateway closes, or nothing more is to come."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        if half_closed:
            writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
            await writer.wait_closed()

    async def send_for(self, data: bytes, seconds: float = 0.3) -> bytes:
        """What comes back within some time, from a gateway that may leave the connection open."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        got = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while part := await reader.read(1 << 16):
                    got += part
        writer.close()
        await writer.wait_closed()
        return got

    def forwarded(self) -> dict[str, str]:
        """The headers that the upstream got, but for those of every request."""
        lines = self.upstream[0].decode("latin-1").split("\r\n")[1:-2]
        return {name: value for name, _, value in (line.partition(": ") for line in lines)}


@asynccontextmanager
async def gateway(
    tmp_path: Path,
    *answers: Sequence[bytes],
    plugins: dict[str, Any] = PRE,
    answer: bytes | Callable[[Seen], bytes] = OK,
    upstream: dict[str, Any] | None = None,
    workers: int = 1,
    behaviour: Behaviour = BEHAVIOURS["3.9"],
    **shared: Any,
) -> AsyncIterator[Seen]:
    """A gateway before an upstream; the runner answers its calls with `answers`, one sequence each."""
    seen, script = Seen(), [list(frames) for frames in answers]

    ended: list[asyncio.Event] = []

    async def runner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        ended.append(mine := asyncio.Event())
        pending: list[bytes] = []
        try:
            while True:
                head = await reader.readexactly(4)
                frame = head + await reader.readexactly(int.from_bytes(head[1:], "big"))
                if frame[0] == FrameType.PREPARE_CONF:
                    seen.prepared.append(re.findall(rb"[a-z_&]+#[^#]*#ext-plugin-[a-z]+-[a-z]+", frame)[0].decode())
                    writer.write(replies.encode_conf_token(1))
                    continue
                if frame[0] == FrameType.EXTRA_INFO:
                    seen.results += 1
                    seen.told.append(decode_extra_info_result(frame))
                else:
                    if frame[0] == FrameType.HTTP_REQ_CALL:
                        seen.calls.append(HttpReqCall(frame))
                    pending = script.pop(0) if script else [NO_ACTION]
                writer.write(pending.pop(0))
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()
            mine.set()

    async def behind_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.upstream.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer if isinstance(answer, bytes) else answer(seen))
        writer.close()
        await writer.wait_closed()

    running = await asyncio.start_unix_server(runner, tmp_path / "r.sock")
    behind = await asyncio.start_server(behind_it, "127.0.0.1", 0)
    target = Upstream("127.0.0.1", behind.sockets[0].getsockname()[1])
    route = {"id": "r", "uri": "/r/*", "plugins": plugins, **({"upstream": upstream} if upstream else {})}
    routes = build_routes({"routes": [route], **shared}, default_upstream=target)
    served = DevGateway(routes, f"unix:{tmp_path / 'r.sock'}", workers=workers, behaviour=behaviour)
    await served.start()
    seen.port = served.port
    try:
        yield seen
    finally:
        await served.stop()
        running.close()
        behind.close()
        for event in ended:
            await event.wait()


def request(*headers: str, path: str = "/r/x", body: bytes = b"", method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: h", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def test_forwarding_headers_that_came_more_than_once_are_joined(tmp_path: Path) -> None:
    twice = [f"X-Forwarded-{name}: {value}" for name in ("For", "Proto", "Host", "Port") for value in ("1", "2")]
    async with gateway(tmp_path) as seen:
        await seen.send(request(*twice))
        sent = seen.forwarded()
    assert sent["X-Forwarded-For"] == "1, 2, 127.0.0.1"
    assert [sent[f"X-Forwarded-{name}"] for name in ("Proto", "Host", "Port")] == ["1, 2"] * 3


async def test_empty_forwarding_headers_are_not_sent(tmp_path: Path) -> None:
    async with gateway(tmp_path) as seen:
        await seen.send(request(*(f"X-Forwarded-{name}:" for name in ("For", "Proto", "Host", "Port"))))
        sent = seen.forwarded()
    assert sent["X-Forwarded-For"] == ", 127.0.0.1"
    assert {"X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"}.isdisjoint(sent)


async def test_a_runner_may_set_forwarding_headers(tmp_path: Path) -> None:
    headers = [(f"x-forwarded-{name}", "9") for name in ("for", "proto", "host", "port")]
    async with gateway(tmp_path, [replies.encode_rewrite(0, Rewrite(headers=headers))]) as seen:
        await seen.send(request())
        sent = seen.forwarded()
    assert sent["X-Forwarded-For"] == "9, 127.0.0.1"
    assert [sent[f"X-Forwarded-{name}"] for name in ("Proto", "Host", "Port")] == ["9"] * 3


async def test_what_no_route_takes_is_told_as_lua_prints_it(tmp_path: Path) -> None:
    async with gateway(tmp_path) as seen:
        answer = await seen.send(request(path="/none"))
    assert b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n" in answer
    assert b'{"error_msg":"404 Route Not Found"}\n' in answer


@pytest.mark.parametrize("path", ["/r/x", "/none"])
async def test_global_rules_run_whole_before_the_route_and_without_one(tmp_path: Path, path: str) -> None:
    rule = {"id": "g", "plugins": {**PRE, **POST}}
    async with gateway(tmp_path, global_rules=[rule]) as seen:
        await seen.send(request(path=path))
    wanted = ["global_rule#g#ext-plugin-pre-req", "global_rule#g#ext-plugin-post-req"]
    assert seen.prepared == [*wanted, *(["route#r#ext-plugin-pre-req"] if path == "/r/x" else [])]


async def test_a_consumers_pre_req_runs_after_the_routes_proxy_rewrite(tmp_path: Path) -> None:
    consumer = {"username": "ann", "plugins": {"key-auth": {"key": "k"}, **PRE}}
    plugins = {"key-auth": {}, "proxy-rewrite": {"uri": "/new"}}
    async with gateway(tmp_path, plugins=plugins, consumers=[consumer]) as seen:
        await seen.send(request("apikey: k"))
    assert [call.path for call in seen.calls] == ["/new"]


BROKEN = b"zz\r\n"


async def test_a_runner_that_asks_for_a_body_that_is_none_hears_nothing_more(tmp_path: Path) -> None:
    async with gateway(tmp_path, [ASK_BODY, NO_ACTION]) as seen:
        answer = await seen.send(request("Transfer-Encoding: chunked", body=BROKEN, method="POST"))
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert (seen.results, seen.upstream) == (0, [])


async def test_a_body_that_is_none_cannot_be_replaced(tmp_path: Path) -> None:
    async with gateway(tmp_path, [replies.encode_rewrite(0, Rewrite(body=b"new"))]) as seen:
        answer = await seen.send(request("Transfer-Encoding: chunked", body=BROKEN, method="POST"))
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert seen.upstream == []


async def test_an_answer_to_a_body_that_is_none_is_a_closed_connection(tmp_path: Path) -> None:
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(403, (), b"no"))]) as seen:
        assert await seen.send(request("Transfer-Encoding: chunked", body=BROKEN, method="POST")) == b""


async def test_a_client_that_has_gone_costs_the_upstream_nothing(tmp_path: Path) -> None:
    async with gateway(tmp_path) as seen:
        assert await seen.send(request(), half_closed=True) == b""
    assert len(seen.calls) == 1
    assert seen.upstream == []


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ([("X-E", "")], []), ([("x_under", "1"), ("X-Under", "2")], ["x-under: 2"]),
        ([("X-A", "1"), ("X-A", None), ("X-A", "2")], ["x-a: 2"]),
        ([("X-A", "1"), ("x-a", "2")], ["x-a: 1", "x-a: 2"]),
        ([("WWW-Authenticate", "a"), ("WWW-Authenticate", "b")], ["www-authenticate: b"]),
        ([("X Y", "1")], ["x%20y: 1"]),
    ],
)  # fmt: skip
async def test_headers_of_an_answer_are_set_as_lua_sets_them(
    tmp_path: Path, headers: list[tuple[str, str | None]], told: list[str]
) -> None:
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(200, headers, b"b"))]) as seen:
        lines = (await seen.send(request())).decode().split("\r\n\r\n")[0].split("\r\n")[1:]
    usual = ("Content-Type", "Date", "Connection", "Server", "Transfer-Encoding")
    assert [line for line in lines if not line.startswith(usual)] == told


async def test_a_content_length_that_is_none_is_lua_s_error(tmp_path: Path) -> None:
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(200, [("Content-Length", "x")], b"b"))]) as seen:
        assert (await seen.send(request())).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")


@pytest.mark.parametrize("status", [304, 404, 418])  # the last has no page, and is one to nginx nevertheless
async def test_a_page_has_no_validators_of_what_it_is_not(tmp_path: Path, status: int) -> None:
    headers = [("ETag", "a"), ("Last-Modified", "b"), ("Accept-Ranges", "c"), ("X-A", "d")]
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(status, headers))]) as seen:
        answer = await seen.send(request())
    assert b"x-a: d\r\n" in answer
    assert not re.search(rb"(?i)etag|last-modified|accept-ranges", answer)


CUT = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok"
AS_IT_IS = replies.encode_resp_reply(0, RespReply())
RESP = {"ext-plugin-post-resp": {"conf": [{"name": "p", "value": "{}"}]}}


async def test_what_came_of_a_cut_answer_is_passed_on_without_an_end(tmp_path: Path) -> None:
    async with gateway(tmp_path, answer=CUT) as seen:
        answer = await seen.send(request())
    assert answer.endswith(b"\r\n\r\n2\r\nok\r\n")


async def test_a_cut_answer_is_502_after_the_response_phase(tmp_path: Path) -> None:
    async with gateway(tmp_path, [replies.encode_resp_reply(0, RespReply())], plugins=RESP, answer=CUT) as seen:
        assert (await seen.send(request())).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


async def test_post_resp_sends_no_header_that_lua_would_not(tmp_path: Path) -> None:
    rewrite = replies.encode_rewrite(0, Rewrite(headers=[("x-l", "a\nb")]))
    async with gateway(tmp_path, [rewrite], plugins={**PRE, **RESP}) as seen:
        assert (await seen.send(request())).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert seen.upstream == []


@pytest.mark.parametrize(("retries", "told"), [(0, b"502"), (2, b"502, 502, 502")])
async def test_a_node_that_refuses_is_tried_as_often_as_the_route_says(
    tmp_path: Path, retries: int, told: bytes
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and doesn't listen
        node = {"nodes": {f"127.0.0.1:{nobody.getsockname()[1]}": 1}, "retries": retries}
        async with gateway(tmp_path, upstream=node) as seen:
            answer = await seen.send(request(method="POST"))
    assert b"X-APISIX-Upstream-Status: " + told + b"\r\n" in answer


@pytest.mark.parametrize(("path", "status"), [("a/b", 502), ("http://h/x", 500), ("a:b", 500)])
async def test_a_path_without_a_leading_slash_is_taken_for_the_upstreams_name(
    tmp_path: Path, path: str, status: int
) -> None:
    async with gateway(tmp_path, [replies.encode_rewrite(0, Rewrite(path=path))]) as seen:
        assert (await seen.send(request())).startswith(b"HTTP/1.1 %d " % status)
    assert seen.upstream == []


async def test_a_length_that_a_runner_sets_keeps_its_name(tmp_path: Path) -> None:
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(200, [("content-length", "1")], b"b"))]) as seen:
        assert b"\r\ncontent-length: 1\r\n" in await seen.send(request())


async def test_a_type_that_response_rewrite_removes_is_gone(tmp_path: Path) -> None:
    plugins = {**PRE, "response-rewrite": {"headers": {"remove": ["Content-Type"]}}}
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(403, (), b"no"))], plugins=plugins) as seen:
        answer = await seen.send(request())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"Content-Type" not in answer


AS_IT_IS = replies.encode_resp_reply(0, RespReply())
RESP = {"ext-plugin-post-resp": {"conf": [{"name": "p", "value": "{}"}]}}


def stop(status: int, *headers: tuple[str, str | None], body: bytes = b"") -> list[bytes]:
    return [replies.encode_stop(0, Stop(status, headers, body))]


@pytest.mark.parametrize("body", [b"", b"body"])
@pytest.mark.parametrize("status", [408, 444, 499])
async def test_some_statuses_close_the_connection_without_a_word(tmp_path: Path, status: int, body: bytes) -> None:
    async with gateway(tmp_path, stop(status, body=body)) as seen:
        assert await seen.send(request()) == b""


async def test_nginx_has_a_page_of_another_status_for_498(tmp_path: Path) -> None:
    async with gateway(tmp_path, stop(498)) as seen:
        head, _, page = (await seen.send(request())).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 498 \r\n")
    assert b"<title>404 Not Found</title>" in page


async def test_a_length_that_a_stop_sets_cuts_nothing(tmp_path: Path) -> None:
    async with gateway(tmp_path, stop(200, ("content-length", "2"), body=b"body12")) as seen:
        head, _, body = (await seen.send(request())).partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: 2\r\n" in head
    assert body == b"body12"


@pytest.mark.parametrize(
    ("status", "line", "connection"),
    [(100, b"100 ", b"close"), (150, b"150 ", b"close"), (101, b"101 Switching Protocols", b"upgrade")],
)
async def test_a_status_below_200_from_post_resp_is_sent_with_its_body_as_it_is(
    tmp_path: Path, status: int, line: bytes, connection: bytes
) -> None:
    async with gateway(tmp_path, [replies.encode_resp_reply(0, RespReply(status))], plugins=RESP) as seen:
        seen_by_client = await seen.send_for(request())
    head, _, body = seen_by_client.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + line + b"\r\n")
    assert b"\r\nConnection: " + connection in head
    assert b"chunked" not in head
    assert body == b"ok"


@pytest.mark.parametrize("status", [100, 150, 199])
async def test_with_a_body_of_the_runners_such_a_status_is_no_answer(tmp_path: Path, status: int) -> None:
    async with gateway(tmp_path, [replies.encode_resp_reply(0, RespReply(status, (), b"x"))], plugins=RESP) as seen:
        assert await seen.send_for(request()) == b""


async def test_a_runner_may_make_the_request_one_that_waits_for_a_go_on(tmp_path: Path) -> None:
    rewrite = Rewrite(headers=[("expect", "100-continue")])
    async with gateway(tmp_path, [replies.encode_rewrite(0, rewrite)]) as seen:
        answer = await seen.send(request())
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert "Expect" not in seen.forwarded()


async def test_a_stop_does_not_wait_for_the_body(tmp_path: Path) -> None:
    async with gateway(tmp_path, stop(403, body=b"no")) as seen:
        answer = await seen.send_for(request("Content-Length: 5", "Expect: 100-continue", method="POST"))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\n")


@pytest.mark.parametrize("status", [200, 403])
async def test_before_lua_prints_a_client_is_told_to_go_on_but_for_head(tmp_path: Path, status: int) -> None:
    answers = [stop(status, body=b"" if status == 200 else b"no")] * 2
    async with gateway(tmp_path, *answers) as seen:
        told = await seen.send(request("Expect: 100-continue"))
        silent = await seen.send(request("Expect: 100-continue", method="HEAD"))
    assert told.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 %d " % status)
    assert silent.startswith(b"HTTP/1.1 %d " % status)


async def test_the_body_of_a_head_is_taken_for_a_request_where_lua_prints(tmp_path: Path) -> None:
    head = b"HEAD /r/x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    async with gateway(tmp_path, stop(403, body=b"no")) as seen:
        answer = await seen.send_for(head)
    assert [line[9:12] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")] == [b"403", b"400"]


async def test_a_page_is_sent_without_a_go_on(tmp_path: Path) -> None:
    async with gateway(tmp_path, stop(403)) as seen:
        answer = await seen.send_for(request("Content-Length: 5", "Expect: 100-continue", method="POST"))
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")


async def test_the_runner_is_asked_before_the_body_has_come_and_the_upstream_after_it(tmp_path: Path) -> None:
    async with gateway(tmp_path) as seen:
        answer = await seen.send(request("Content-Length: 6", method="POST", body=b"abc"), half_closed=True)
        assert (answer, len(seen.calls), seen.upstream) == (b"", 1, [])


async def test_post_resp_waits_for_the_upstreams_go_on_if_the_client_does(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" + OK
    async with gateway(tmp_path, [AS_IT_IS], plugins=RESP, answer=answer) as seen:
        sent = request("Content-Length: 3", "Expect: 100-continue", method="POST", body=b"abc")
        got = await seen.send(sent)
        assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert b"expect: 100-continue" in seen.upstream[0]


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nX Y: 1\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 5000 + b"\r\n\r\n"]
)
async def test_an_invalid_answer_is_502_and_the_upstream_is_asked_once(tmp_path: Path, answer: bytes) -> None:
    async with gateway(tmp_path, answer=answer) as seen:
        got = await seen.send(request())
        assert got.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert len(seen.upstream) == 1


async def test_what_is_no_http_is_passed_on_as_it_is(tmp_path: Path) -> None:
    async with gateway(tmp_path, answer=b"no such thing\r\n\r\n") as seen:
        assert await seen.send(request()) == b"no such thing\r\n\r\n"
        assert await seen.send_for(request(method="HEAD")) == b""


async def test_chunks_that_are_none_close_the_connection(tmp_path: Path) -> None:
    async with gateway(tmp_path, answer=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n") as seen:
        assert await seen.send(request()) == b""


async def test_an_answer_below_200_is_the_answer(tmp_path: Path) -> None:
    async with gateway(tmp_path, answer=b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK) as seen:
        head, _, body = (await seen.send(request())).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert body == OK


async def test_a_204_keeps_its_length_and_a_status_line_its_words(tmp_path: Path) -> None:
    async with gateway(tmp_path, answer=b"HTTP/1.1 204 My Words\r\nContent-Length: 0\r\n\r\n") as seen:
        got = await seen.send(request())
    assert got.startswith(b"HTTP/1.1 204 My Words\r\n")
    assert b"\r\nContent-Length: 0\r\n" in got


def accel(*headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", *headers, "Content-Length: 2"]
    return "\r\n".join([*lines, "", "ok"]).encode()


async def test_what_the_upstream_tells_nginx_is_not_passed_on(tmp_path: Path) -> None:
    told = ("Expires: 9", "Buffering: no", "Limit-Rate: 9999", "Charset: x")
    answer = accel("Content-Type: text/plain", "X-Pad: 1", *(f"X-Accel-{line}" for line in told))
    async with gateway(tmp_path, answer=answer) as seen:
        got = (await seen.send(request())).lower()
    assert b"x-accel" not in got
    assert b"x-pad" not in got
    assert b"content-type: text/plain\r\n" in got, "a charset of the upstream's takes the place of nginx's own"


@pytest.mark.parametrize(
    ("where", "line"),
    [("/none", b"404 Not Found"), ("none", b"404 Not Found"), ("/a/../b", b"404 Not Found"), ("@x", b"500 Internal")],
)
async def test_an_internal_redirect_to_nowhere(tmp_path: Path, where: str, line: bytes) -> None:
    answer = accel(f"X-Accel-Redirect: {where}", "Set-Cookie: c=1", "X-Other: 1")
    async with gateway(tmp_path, answer=answer) as seen:
        got = await seen.send(request())
    assert got.startswith(b"HTTP/1.1 " + line)
    assert b"\r\nSet-Cookie: c=1\r\n" in got
    assert b"X-Other" not in got


async def test_an_internal_redirect_begins_anew_and_ends_somewhere(tmp_path: Path) -> None:
    async with gateway(tmp_path, answer=accel("X-Accel-Redirect: /r/other?b=2")) as seen:
        got = await seen.send(request(method="POST"))
        assert got.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert [(call.method, call.path) for call in seen.calls[:2]] == [("POST", "/r/x"), ("GET", "/r/other")]
        assert len(seen.calls) == 10


async def test_of_single_headers_the_response_phase_keeps_the_last(tmp_path: Path) -> None:
    answer = accel("ETag: a", "ETag: b", "X_Y: 1", "X@: 2", "Vary: a", "Vary: b")
    async with gateway(tmp_path, [AS_IT_IS], plugins=RESP, answer=answer) as seen:
        head = (await seen.send(request())).partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert [line for line in head if line[:1] in b"EXV"] == [b"ETag: b", b"X-Y: 1", b"X%40: 2", b"Vary: a", b"Vary: b"]


async def test_a_request_length_that_is_none_is_lua_s_error_which_response_rewrite_may_rewrite(tmp_path: Path) -> None:
    rewrite = replies.encode_rewrite(0, Rewrite(headers=[("content-length", "h.test")], resp_headers=[("x-r", "1")]))
    async with gateway(tmp_path, [rewrite]) as seen:
        got = await seen.send(request())
        assert got.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"x-r" not in got
    async with gateway(tmp_path, [rewrite], plugins={**PRE, "response-rewrite": {"body": "mine"}}) as seen:
        got = await seen.send(request())
        assert got.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert got.endswith(b"4\r\nmine\r\n0\r\n\r\n")


async def test_the_response_phase_leaves_empty_headers_out(tmp_path: Path) -> None:
    async with gateway(tmp_path, [AS_IT_IS], plugins=RESP, answer=accel("X-Empty:", "X-Full: 1")) as seen:
        got = await seen.send(request())
    assert b"X-Full: 1" in got
    assert b"X-Empty" not in got


async def test_the_response_phase_knows_the_requests_body(tmp_path: Path) -> None:
    ask = replies.encode_info_request(InfoRequest(InfoType.VAR, "request_body"))
    async with gateway(tmp_path, [ask, AS_IT_IS], plugins=RESP) as seen:
        await seen.send(request("Content-Length: 3", method="POST", body=b"abc"))
        assert seen.told == [b"abc"]


async def test_a_date_that_a_runner_removes_is_gone(tmp_path: Path) -> None:
    async with gateway(tmp_path, stop(599, ("date", ""), body=b"x")) as seen:
        assert b"\r\nDate:" not in await seen.send(request())


async def test_what_was_set_before_lua_aborts_is_sent(tmp_path: Path) -> None:
    async with gateway(tmp_path, stop(429, ("x-r", "1"), ("content-length", "a b"), ("x-s", "2"), body=b"x")) as seen:
        got = await seen.send(request())
    assert got.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"\r\nx-r: 1\r\n" in got
    assert b"x-s" not in got


async def test_response_rewrite_knows_the_status(tmp_path: Path) -> None:
    async with gateway(tmp_path, plugins={**PRE, "response-rewrite": {"headers": {"X-S": "$status"}}}) as seen:
        assert b"\r\nX-S: 200\r\n" in await seen.send(request())


@pytest.mark.parametrize("length", ["0", None])
async def test_of_a_length_that_a_runner_makes_shorter_the_rest_is_the_next_request(
    tmp_path: Path, length: str | None
) -> None:
    rewrite = replies.encode_rewrite(0, Rewrite(headers=[("content-length", length)]))
    async with gateway(tmp_path, [rewrite]) as seen:
        data = request("Content-Length: 3", method="POST", body=b"abc").replace(b"Connection: close\r\n", b"")
        first, second = (await seen.send(data)).split(b"HTTP/1.1 ")[1:]
        assert first.startswith(b"200 OK\r\n")
        assert second.startswith(b"400 Bad Request\r\n")
        assert ("Content-Length" in seen.forwarded()) is (length is not None)


async def test_a_new_body_has_its_length_at_once(tmp_path: Path) -> None:
    ask = replies.encode_info_request(InfoRequest(InfoType.VAR, "content_length"))
    rewrite = replies.encode_rewrite(0, Rewrite(body=b"four"))
    async with gateway(tmp_path, [rewrite], [ask, NO_ACTION], plugins={**PRE, **POST}) as seen:
        await seen.send(request("Content-Length: 3", method="POST", body=b"abc"))
        assert seen.told == [b"4"]


async def test_a_refused_head_gets_no_page(tmp_path: Path) -> None:
    async with gateway(tmp_path) as seen:
        got = await seen.send(b"HEAD /r/% HTTP/1.1\r\nHost: h\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert got.endswith(b"\r\n\r\n")


async def test_a_host_that_nginx_does_not_take_is_lua_s_error(tmp_path: Path) -> None:
    for host, line in (("a/b", b"500"), ("a..b", b"500"), ("a b:9", b"200")):
        async with gateway(tmp_path, [replies.encode_rewrite(0, Rewrite(headers=[("host", host)]))]) as seen:
            assert (await seen.send(request())).startswith(b"HTTP/1.1 " + line)


@pytest.mark.parametrize(
    ("values", "sent"),
    [
        (["1", ""], ["1"]),
        (["1", "", "2"], ["1", "2"]),
        (["1", None], []),
        (["1", None, "2"], ["2"]),
        (["", "1"], ["1"]),
    ],
)
async def test_to_add_nothing_to_a_header_changes_nothing(
    tmp_path: Path, values: list[str | None], sent: list[str]
) -> None:
    async with gateway(tmp_path, stop(200, *(("x-a", value) for value in values), body=b"b")) as seen:
        lines = (await seen.send(request())).split(b"\r\n")
    assert [line.partition(b": ")[2].decode() for line in lines if line.startswith(b"x-a")] == sent


@pytest.mark.parametrize("length", ["9", "0", None])
async def test_a_length_that_is_set_after_the_body_was_read_is_what_the_upstream_is_told(
    tmp_path: Path, length: str | None
) -> None:
    rewrite = replies.encode_rewrite(0, Rewrite(headers=[("content-length", length)]))
    async with gateway(tmp_path, [ASK_BODY, rewrite]) as seen:
        await seen.send(request("Content-Length: 3", method="POST", body=b"abc"))
        assert seen.forwarded().get("Content-Length") == length


@pytest.mark.parametrize("status", [204, 304])
async def test_a_printed_answer_without_a_body_keeps_a_length_that_was_set(tmp_path: Path, status: int) -> None:
    reply = replies.encode_resp_reply(0, RespReply(status, (("content-length", "1"),)))
    async with gateway(tmp_path, [reply], plugins=RESP) as seen:
        assert b"\r\ncontent-length: 1\r\n" in await seen.send(request())


async def test_a_method_that_proxy_rewrite_changes(tmp_path: Path) -> None:
    plugins = {**PRE, **POST, "proxy-rewrite": {"method": "PUT"}}
    async with gateway(tmp_path, plugins=plugins) as seen:
        got = await seen.send(request(method="HEAD"))
        assert got.endswith(b"\r\n\r\nok"), "it's no HEAD any more"
        assert [call.method for call in seen.calls] == ["HEAD", "HEAD"], "APISIX asks for it once"
        assert seen.upstream[0].startswith(b"PUT ")


async def test_an_unsafe_path_for_proxy_rewrite_is_lua_s_error(tmp_path: Path) -> None:
    plugins = {**PRE, "proxy-rewrite": {"regex_uri": ["^/r/(.*)", "/?x=$1"]}}
    async with gateway(tmp_path, plugins=plugins) as seen:
        assert (await seen.send(request(path="/r/a%0Ab"))).startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize(("workers", "connections"), [(1, 2), (3, 6)])
async def test_workers_have_connections_of_their_own_and_share_tokens(
    tmp_path: Path, workers: int, connections: int
) -> None:
    async with gateway(tmp_path, workers=workers) as seen:
        for _ in range(40):
            await seen.send(request())
        assert len(seen.prepared) == 1
        assert seen.connections == connections, "one for calls and one for tokens each"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_body_that_response_rewrite_gives_to_what_has_none_is_sent_as_it_is(
    tmp_path: Path, status: bytes
) -> None:
    plugins = {**PRE, "response-rewrite": {"body": "rr"}}
    async with gateway(tmp_path, plugins=plugins, answer=b"HTTP/1.1 " + status + b"\r\n\r\n") as seen:
        assert (await seen.send(request())).endswith(b"\r\n\r\nrr")


async def test_a_page_that_response_rewrite_sees_is_no_other_page(tmp_path: Path) -> None:
    headers = (("content-encoding", "x"), ("etag", "1"), ("content-length", "7"))
    for plugins in (PRE, {**PRE, "response-rewrite": {"headers": {"X-S": "1"}}}):
        async with gateway(tmp_path, stop(503, *headers), plugins=plugins) as seen:
            head, _, page = (await seen.send(request())).partition(b"\r\n\r\n")
        assert b"\r\ncontent-encoding: x" in head
        assert b"etag" not in head
        assert b"\r\nContent-Length: %d" % len(page) in head


@pytest.mark.parametrize(("size", "line"), [(6398, b"200 OK"), (6399, b"404 Not Found")])
async def test_a_very_long_path_has_no_route(tmp_path: Path, size: int, line: bytes) -> None:
    async with gateway(tmp_path) as seen:
        got = await seen.send(request(path="/r/" + "a" * size))
    assert got.startswith(b"HTTP/1.1 " + line)


async def test_a_stop_without_content_has_no_validators(tmp_path: Path) -> None:
    headers = (("ETag", "v"), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"), ("X-Own", "1"))
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(204, headers))]) as seen:
        answer = (await seen.send_for(b"GET /r/x HTTP/1.1\r\nHost: h\r\n\r\n")).lower()
    assert b"x-own: 1\r\n" in answer
    assert b"etag" not in answer
    assert b"last-modified" not in answer


async def test_a_stop_with_304_keeps_the_length_that_it_was_given(tmp_path: Path) -> None:
    stop = replies.encode_stop(0, Stop(304, (("Content-Length", "4"),), b"body"))
    async with gateway(tmp_path, [stop]) as seen:
        answer = await seen.send_for(b"GET /r/x HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"\r\ncontent-length: 4\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")
