"""Whole exchanges of the development gateway, as a real APISIX 3.9.1 was seen to do them: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.apisix.routes import Upstream, build_routes
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.calls import HttpReqCall
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

    def forwarded(self) -> dict[str, str]:
        """The headers that the upstream got, but for those of every request."""
        lines = self.upstream[0].decode("latin-1").split("\r\n")[1:-2]
        return {name: value for name, _, value in (line.partition(": ") for line in lines)}


@asynccontextmanager
async def gateway(
    tmp_path: Path,
    *answers: Sequence[bytes],
    plugins: dict[str, Any] = PRE,
    answer: bytes = OK,
    upstream: dict[str, Any] | None = None,
    **shared: Any,
) -> AsyncIterator[Seen]:
    """A gateway before an upstream; the runner answers its calls with `answers`, one sequence each."""
    seen, script = Seen(), [list(frames) for frames in answers]

    ended: list[asyncio.Event] = []

    async def runner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    running = await asyncio.start_unix_server(runner, tmp_path / "r.sock")
    behind = await asyncio.start_server(behind_it, "127.0.0.1", 0)
    target = Upstream("127.0.0.1", behind.sockets[0].getsockname()[1])
    route = {"id": "r", "uri": "/r/*", "plugins": plugins, **({"upstream": upstream} if upstream else {})}
    routes = build_routes({"routes": [route], **shared}, default_upstream=target)
    served = DevGateway(routes, f"unix:{tmp_path / 'r.sock'}")
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


async def test_a_page_has_no_validators_of_what_it_is_not(tmp_path: Path) -> None:
    headers = [("ETag", "a"), ("Last-Modified", "b"), ("Accept-Ranges", "c"), ("X-A", "d")]
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(404, headers))]) as seen:
        answer = await seen.send(request())
    assert b"x-a: d\r\n" in answer
    assert not re.search(rb"(?i)etag|last-modified|accept-ranges", answer)


CUT = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok"
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
