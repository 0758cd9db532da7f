"""HTTP/2 at the development gateway, as nginx and APISIX 3.9.1 were seen to take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.apisix.behaviour import BEHAVIOURS
from gatewright.dev.http2 import refusal_of
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.replies import RespReply, Rewrite, Stop
from tests.dev.recorded import send_http2
from tests.dev.test_exchanges import PRE, gateway

RESP = {"ext-plugin-post-resp": PRE["ext-plugin-pre-req"]}


def headers(*more: tuple[str, str], **pseudo: str | None) -> list[tuple[str, str]]:
    given: dict[str, str | None] = {"method": "GET", "scheme": "http", "path": "/", "authority": "h", **pseudo}
    return [*((f":{name}", value) for name, value in given.items() if value is not None), *more]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (headers(), 0), (headers(("x-a", "1"), ("connection", "close"), ("te", "gzip"), ("upgrade", "x")), 0),
        (headers(("host", "h")), 0), (headers(("host", "h"), authority=None), 0), (headers(path="/%zz"), 400),
        (headers(("host", "other")), 400), (headers(authority=None), 400), (headers(authority="a/b"), 400),
        (headers(path=None), 400), (headers(path="http://h/"), 400), (headers(path="*", method="OPTIONS"), 400),
        (headers(method="get"), 400), (headers(method="PURGE"), 0), (headers(method="TRACE"), 405),
        (headers(("X-A", "1")), 400), (headers(("x a", "1")), 400), (headers((":path", "/")), 400),
    ],
)  # fmt: skip
def test_what_nginx_refuses(sent: list[tuple[str, str]], status: int) -> None:
    assert refusal_of(sent) == status


def h2(method: str = "GET", body: str | None = None, *, path: str = "/r/x", length: bool = False) -> dict[str, Any]:
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
        assert (await send_http2(seen.port, h2(), 5))["line"] == f"HTTP/2 {status}"
    assert len(seen.upstream) == (status == "200")


async def test_what_is_said_to_be_encoded_for_the_way_has_a_body_be_it_empty(tmp_path: Path) -> None:
    sent = h2()
    sent["headers"].append(["transfer-encoding", "chunked"])
    async with gateway(tmp_path) as seen:
        await send_http2(seen.port, sent, 5)
    assert seen.forwarded()["Content-Length"] == "0"


async def test_without_a_length_a_body_can_t_be_replaced(tmp_path: Path) -> None:
    new = [replies.encode_rewrite(0, Rewrite(body=b"new"))]
    async with gateway(tmp_path, new, new) as seen:
        assert (await send_http2(seen.port, h2("POST", "YWJj"), 5))["line"] == "HTTP/2 500"
        assert seen.upstream == []
        assert (await send_http2(seen.port, h2("POST", "YWJj", length=True), 5))["line"] == "HTTP/2 200"
    assert b"Content-Length: 3\r\n" in seen.upstream[0]


async def test_what_a_runner_sets_goes_out_as_it_is(tmp_path: Path) -> None:
    answers = [replies.encode_stop(0, Stop(403, (("Connection", "close"), ("X-S", "1")), b"no"))]
    async with gateway(tmp_path, answers) as seen:
        answer = await send_http2(seen.port, h2(), 5)
    assert {("connection", "close"), ("x-s", "1")} <= set(answer["headers"])
    assert answer["body"] == b"no"


async def test_what_is_no_request_gets_nginx_s_page(tmp_path: Path) -> None:
    async with gateway(tmp_path) as seen:
        answer = await send_http2(seen.port, h2("TRACE"), 5)
        assert answer["line"] == "HTTP/2 405"
        assert ("server", "openresty") in answer["headers"]
        assert b"405 Not Allowed" in answer["body"]
