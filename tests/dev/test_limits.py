"""APISIX's client-control, limit-req and csrf in the development gateway, as a real 3.9.1 was seen to do them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.apisix.builtins import limits
from gatewright.dev.apisix.routes import build_routes
from gatewright.errors import ConfigError
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.replies import RespReply
from tests.dev.test_apisix_plugins import ask
from tests.dev.test_exchanges import ASK_BODY, NO_ACTION, PRE, gateway

RESP = {"ext-plugin-post-resp": PRE["ext-plugin-pre-req"]}
SIZED = b"POST /r/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 5\r\n\r\nabcde"
CHUNKED = (
    b"POST /r/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
)


@pytest.mark.parametrize(
    ("most", "sent", "status", "calls"),
    [
        (5, SIZED, b"200", 1),
        (4, SIZED, b"413", 0),
        (0, SIZED, b"200", 1),
        (4, CHUNKED, b"413", 1),
        (5, CHUNKED, b"200", 1),
    ],
)
@pytest.mark.parametrize("reads", [False, True])
async def test_longer_bodies_are_refused_those_in_chunks_once_they_are_read(
    tmp_path: Path, most: int, sent: bytes, status: bytes, calls: int, reads: bool
) -> None:
    plugins = {**PRE, "client-control": {"max_body_size": most}}
    async with gateway(tmp_path, [ASK_BODY, NO_ACTION] if reads else [NO_ACTION], plugins=plugins) as seen:
        answer = await seen.send(sent)
    assert (answer[9:12], len(seen.calls)) == (status, calls)
    assert bool(seen.upstream) == (status == b"200")


async def test_post_resp_reads_bodies_too(tmp_path: Path) -> None:
    plugins = {**RESP, "client-control": {"max_body_size": 4}}
    async with gateway(tmp_path, [replies.encode_resp_reply(0, RespReply())], plugins=plugins) as seen:
        assert (await seen.send(CHUNKED))[9:12] == b"413"


BUCKET = {"rate": 0.001, "burst": 0, "key": "remote_addr", "nodelay": True}


@pytest.mark.parametrize(
    ("conf", "times", "status", "says"),
    [
        (BUCKET, 1, 200, b"ok"), (BUCKET, 2, 503, b"<html>"), ({**BUCKET, "burst": 2}, 3, 200, b"ok"),
        ({**BUCKET, "burst": 2}, 4, 503, b"<html>"), ({**BUCKET, "rate": 1e6}, 4, 200, b"ok"),
        ({**BUCKET, "key": "arg_x", "rejected_code": 429, "rejected_msg": "no"}, 2, 429, b'{"error_msg":"no"}\n'),
        ({**BUCKET, "key": "$uri", "key_type": "var_combination"}, 2, 503, b"<html>"),
        ({**BUCKET, "rate": 100, "burst": 9, "nodelay": False}, 2, 200, b"ok"),
    ],
)  # fmt: skip
async def test_a_bucket_leaks(conf: dict[str, Any], times: int, status: int, says: bytes) -> None:
    got, _, body = await ask({"limit-req": conf}, times=times)
    assert (got, body[: len(says)]) == (status, says)


CSRF = {"csrf": {"key": "k"}}
NAME = "apisix-csrf-token"


async def token_of(conf: dict[str, Any]) -> str:
    cookie = (await ask({"csrf": conf}))[1]["Set-Cookie"]
    name, _, rest = cookie.partition("=")
    token, path, same_site, expires = rest.split(";")
    assert (name, path, same_site) == (NAME, "path=/", "SameSite=Lax")
    assert expires.startswith("Expires=") and expires.endswith(" GMT")
    return token


async def test_a_token_that_was_given_out_is_good() -> None:
    token = await token_of({"key": "k"})
    both = ((NAME, token), ("Cookie", f"{NAME}={token}"))
    assert (await ask(CSRF, *both, method="POST"))[0] == 200
    assert (await ask({"csrf": {"key": "other"}}, *both, method="POST"))[0] == 401


async def test_a_token_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    token = await token_of({"key": "k", "expires": 10})
    made = json.loads(base64.b64decode(token))["expires"]
    both = ((NAME, token), ("Cookie", f"{NAME}={token}"))
    for later, status in ((10, 200), (11, 401)):
        monkeypatch.setattr(limits.time, "time", lambda later=later: made + later)
        assert (await ask({"csrf": {"key": "k", "expires": 10}}, *both, method="POST"))[0] == status


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([], "no csrf token in headers"), ([(NAME, "")], "no csrf token in headers"), ([(NAME, "t")], "no csrf cookie"),
        ([(NAME, "t"), ("Cookie", f"{NAME}=u")], "csrf token mismatch"),
        ([(NAME, "??"), ("Cookie", f"{NAME}=??")], "Failed to verify the csrf token signature"),
        ([(NAME, "W10="), ("Cookie", f"{NAME}=W10=")], "Failed to verify the csrf token signature"),
    ],
)  # fmt: skip
async def test_without_a_token_nothing_is_changed(headers: list[tuple[str, str]], why: str) -> None:
    status, _, body = await ask(CSRF, *headers, method="POST")
    assert (status, json.loads(body)) == (401, {"error_msg": why})
    assert (await ask(CSRF, *headers))[0] == 200


@pytest.mark.parametrize(
    ("plugin", "word"),
    [
        ({"client-control": {"max_body_size": -1}}, "max_body_size"), ({"csrf": {}}, "`key`"),
        ({"limit-req": {**BUCKET, "policy": "redis"}}, "policy: local"), ({"limit-req": {"rate": 1}}, "`burst`"),
    ],
)  # fmt: skip
def test_what_can_t_be_done_is_refused(plugin: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        build_routes({"routes": [{"uri": "/*", "plugins": plugin}]})


def test_lua_is_not_run_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    build_routes({"routes": [{"uri": "/*", "plugins": {"serverless-pre-function": {"functions": ["return 1"]}}}]})
    assert "plugin serverless-pre-function is ignored: the development gateway runs no Lua" in caplog.text
