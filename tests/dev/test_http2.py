"""HTTP/2 at the development gateway, as nginx and APISIX 3.9.1 were seen to take it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from gatewright.dev.apisix.behaviour import BEHAVIOURS
from gatewright.dev.http2 import refusal_of
from gatewright.dev.http2_frames import Frames
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.replies import InfoRequest, InfoType, RespReply, Rewrite, Stop
from tests.dev.recorded import send_http2
from tests.dev.test_exchanges import ASK_BODY, NO_ACTION, PRE, gateway

RESP = {"ext-plugin-post-resp": PRE["ext-plugin-pre-req"]}


def headers(*more: tuple[str, str], **pseudo: str | None) -> list[tuple[str, str]]:
    given: dict[str, str | None] = {"method": "GET", "scheme": "http", "path": "/", "authority": "h", **pseudo}
    return [*((f":{name}", value) for name, value in given.items() if value is not None), *more]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (headers(), 0), (headers(("x-a", "1"), ("connection", "close"), ("te", "gzip"), ("upgrade", "x")), 0),
        (headers(("host", "h")), 400), (headers(("host", "h"), authority=None), 0), (headers(path="/%zz"), 400),
        (headers(("host", "other")), 400), (headers(authority=None), 400), (headers(authority="a/b"), 400),
        (headers(path=None), 400), (headers(path="http://h/"), 400), (headers(path="*", method="OPTIONS"), 400),
        (headers(method="get"), 400), (headers(method="PURGE"), 0), (headers(method="TRACE"), 405),
        (headers(("X-A", "1")), 400), (headers(("x a", "1")), 400), (headers((":path", "/")), 400),
        (headers((":x", "1")), 400), (headers(("x", "1\n2")), 400), (headers(("x", "\0")), 400),
        (headers(path="/a b"), 400), (headers(path="/\x7f"), 400),
        (headers(("authorization", "a"), ("authorization", "b")), 400),
        (headers(("content-length", "x")), 400), (headers(("content-length", "3")), 400),
        (headers(("content-length", "0")), 0), (headers(("x", "1"), ("x", "2")), 0),
    ],
)  # fmt: skip
def test_what_nginx_refuses(sent: list[tuple[str, str]], status: int) -> None:
    assert refusal_of(sent, ends=True) == status


def test_a_later_nginx_takes_the_same_host_twice() -> None:
    assert refusal_of(headers(("host", "h")), agreeing_hosts=True) == 0
    assert refusal_of(headers(("host", "H")), agreeing_hosts=True) == 400


def test_a_length_may_come_before_its_body() -> None:
    assert refusal_of(headers(("content-length", "3"))) == 0


@dataclass
class Got:
    """What came on a stream."""

    head: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None


async def over_http2(port: int, body: bytes | None = None, *more: tuple[str, str], method: str = "GET") -> Got:
    """Send a request, frame by frame, and take what comes until the stream ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    h2_ = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False, header_encoding=None))
    h2_.initiate_connection()
    h2_.send_headers(1, headers(*more, method=method, path="/r/x"), end_stream=body is None)
    if body is not None:
        h2_.send_data(1, body, end_stream=True)
    got, ended = Got(), False
    async with asyncio.timeout(10):
        while not ended:
            writer.write(h2_.data_to_send())
            for event in h2_.receive_data(await reader.read(1 << 16)):
                if isinstance(event, h2.events.ResponseReceived):
                    got.head = {bytes(name): bytes(value) for name, value in event.headers or ()}
                elif isinstance(event, h2.events.DataReceived):
                    got.body += event.data or b""
                elif isinstance(event, h2.events.StreamReset):
                    got.reset = int(event.error_code or 0)
                ended = ended or isinstance(event, h2.events.StreamEnded | h2.events.StreamReset)
    writer.close()
    await writer.wait_closed()
    return got


BIG = b"x" * 2000


@pytest.mark.parametrize(
    ("status", "body", "seen_status", "seen_body", "reset"),
    [
        (99, b"", None, b"", 2), (99, b"few", b"099", b"", 2), (99, BIG, b"099", BIG, 2), (444, b"", None, b"", 1),
        (444, b"few", b"444", b"", 1), (499, b"", None, b"", 2), (204, b"few", b"204", b"", None),
        (403, b"few", b"403", b"few", None), (494, b"", b"400", None, None),
    ],
)  # fmt: skip
async def test_a_stream_whose_answer_never_ends_is_broken_off(
    tmp_path: Path, status: int, body: bytes, seen_status: bytes | None, seen_body: bytes | None, reset: int | None
) -> None:
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(status, (), body))]) as seen:
        got = await over_http2(seen.port)
    assert (got.head.get(b":status"), got.reset) == (seen_status, reset)
    assert seen_body is None or got.body == seen_body


@pytest.mark.parametrize(
    ("answer", "status", "body", "reset"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"200", b"short", 2),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", b"200", b"ok", 2),
        (b"no HTTP", b"000", b"no HTTP", None),
    ],
)
async def test_what_an_upstream_breaks_off_is_broken_off(
    tmp_path: Path, answer: bytes, status: bytes, body: bytes, reset: int | None
) -> None:
    async with gateway(tmp_path, answer=answer) as seen:
        got = await over_http2(seen.port)
    assert (got.head.get(b":status"), got.body, got.reset) == (status, body, reset)


async def test_what_replaces_a_body_is_whole_and_none_where_there_is_none(tmp_path: Path) -> None:
    plugins = {**PRE, "response-rewrite": {"body": "own"}}
    for answer, body in ((b"200 OK\r\nContent-Length: 9\r\n\r\nshort", b"own"), (b"204 No\r\n\r\n", b"")):
        async with gateway(tmp_path, plugins=plugins, answer=b"HTTP/1.1 " + answer) as seen:
            got = await over_http2(seen.port)
        assert (got.body, got.reset) == (body, None)


@pytest.mark.parametrize("length", ["2", "4"])
async def test_a_body_of_another_length_is_none_once_it_is_read(tmp_path: Path, length: str) -> None:
    stop = [replies.encode_stop(0, Stop(403, (), b"no"))]
    async with gateway(tmp_path, stop, [NO_ACTION]) as seen:
        said = ("content-length", length)
        assert (await over_http2(seen.port, b"abc", said, method="POST")).head[b":status"] == b"403"
        refused = await over_http2(seen.port, b"abc", said, method="POST")
    assert (refused.head[b":status"], refused.head[b"server"]) == (b"400", b"gatewright-dev")
    assert not seen.upstream


async def test_a_length_that_is_set_where_there_was_none_is_a_wrong_one(tmp_path: Path) -> None:
    set_both = replies.encode_rewrite(0, Rewrite(headers=(("content-length", "2"),), body=b"nb"))
    async with gateway(tmp_path, [ASK_BODY, set_both]) as seen:
        assert (await over_http2(seen.port, b"abc", method="POST")).head[b":status"] == b"400"


async def test_variables_of_a_request_over_http2(tmp_path: Path) -> None:
    names = ("request_length", "sent_http_connection", "request_body", "remote_port")
    ask = [replies.encode_info_request(InfoRequest(InfoType.VAR, name)) for name in names]
    async with gateway(tmp_path, [ASK_BODY, *ask, NO_ACTION]) as seen:
        await over_http2(seen.port, b"abc", ("x-real-ip", "8.8.8.8"), method="POST")
    _, size, *others = seen.told
    assert others == [b"close", None, b""]
    assert 20 < int(size or 0) < 60  # what HPACK makes of the headers


def test_the_size_of_headers_is_counted_without_padding_and_priority() -> None:
    def frame(kind: int, flags: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes((kind, flags, 0, 0, 0, 1)) + payload

    sent = [frame(1, 0x28, b"\2" + b"\0" * 5 + b"abc" + b"\0\0"), frame(9, 4, b"de"), frame(0, 1, b"body")]
    data, frames = b"PRI" + b"".join(sent), Frames(3)
    got = [each for at in range(len(data)) for each in frames.receive(data[at : at + 1])]
    assert got == [b"PRI", *sent]
    assert frames.head_sizes == {1: 5}


def sent_by_curl(
    method: str = "GET", body: str | None = None, *, path: str = "/r/x", length: bool = False
) -> dict[str, Any]:
    sent = {
        "method": method,
        "target": path,
        "headers": [["Host", "h"], *([["Content-Length", "3"]] if length else [])],
    }
    return {**sent, "sent_by": "curl-h2" if length else "curl-h2-stream", **({"body_b64": body} if body else {})}


@pytest.mark.parametrize(("version", "status"), [("3.9", "502"), ("3.17", "200")])
async def test_without_a_length_there_is_no_response_phase_not_even_for_get(
    tmp_path: Path, version: str, status: str
) -> None:
    nothing = [replies.encode_resp_reply(0, RespReply())]
    async with gateway(tmp_path, nothing, plugins=RESP, behaviour=BEHAVIOURS[version]) as seen:
        assert (await send_http2(seen.port, sent_by_curl(), 5))["line"] == f"HTTP/2 {status}"
    assert len(seen.upstream) == (status == "200")


async def test_what_is_said_to_be_encoded_for_the_way_has_a_body_be_it_empty(tmp_path: Path) -> None:
    sent = sent_by_curl()
    sent["headers"].append(["transfer-encoding", "chunked"])
    async with gateway(tmp_path) as seen:
        await send_http2(seen.port, sent, 5)
    assert seen.forwarded()["Content-Length"] == "0"


async def test_without_a_length_a_body_can_t_be_replaced(tmp_path: Path) -> None:
    new = [replies.encode_rewrite(0, Rewrite(body=b"new"))]
    async with gateway(tmp_path, new, new) as seen:
        assert (await send_http2(seen.port, sent_by_curl("POST", "YWJj"), 5))["line"] == "HTTP/2 500"
        assert seen.upstream == []
        assert (await send_http2(seen.port, sent_by_curl("POST", "YWJj", length=True), 5))["line"] == "HTTP/2 200"
    assert b"Content-Length: 3\r\n" in seen.upstream[0]


async def test_what_a_runner_sets_goes_out_as_it_is(tmp_path: Path) -> None:
    answers = [replies.encode_stop(0, Stop(403, (("Connection", "close"), ("X-S", "1")), b"no"))]
    async with gateway(tmp_path, answers) as seen:
        answer = await send_http2(seen.port, sent_by_curl(), 5)
    assert {("connection", "close"), ("x-s", "1")} <= set(answer["headers"])
    assert answer["body"] == b"no"


async def test_what_is_no_request_gets_nginx_s_page(tmp_path: Path) -> None:
    async with gateway(tmp_path) as seen:
        answer = await send_http2(seen.port, sent_by_curl("TRACE"), 5)
        assert answer["line"] == "HTTP/2 405"
        assert ("server", "openresty") in answer["headers"]
        assert b"405 Not Allowed" in answer["body"]
