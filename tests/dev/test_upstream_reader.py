"""Upstreams' answers, as a real APISIX 3.9.1 was seen to take them: by nginx's reader, and by lua-resty-http's."""

from __future__ import annotations

import asyncio

import pytest

from gatewright.dev.upstream_reader import InvalidAnswerError, UpstreamAnswer, read_as_lua, read_as_nginx

END = b"Content-Length: 2\r\n\r\nok"


def fed(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


async def by_nginx(data: bytes, method: str = "GET") -> UpstreamAnswer:
    return await read_as_nginx(fed(data), method)


async def by_lua(data: bytes, method: str = "GET") -> tuple[UpstreamAnswer, list[bytes], bool]:
    answer = await read_as_lua(fed(data), method)
    assert answer.rest is not None
    await answer.rest.read()
    return answer, answer.rest.parts, answer.rest.failed


@pytest.mark.parametrize(
    ("line", "status", "kept"),
    [
        (b"HTTP/1.1 200 OK", 200, "200 OK"),
        (b"HTTP/1.1 299 My Own Words", 299, "299 My Own Words"),
        (b"HTTP/1.1 200", 200, "200"),
        (b"HTTP/1.1 200 ", 200, "200 "),
        (b"HTTP/1.1 403.1 Forbidden", 403, "403.1 Forbidden"),
        (b"HTTP/1.0  404 Nope", 404, "404 Nope"),
        (b"HTTP/1.1 100 Continue", 100, "100 Continue"),
    ],
)
async def test_nginx_takes_the_first_status_line_and_its_words(line: bytes, status: int, kept: str) -> None:
    answer = await by_nginx(line + b"\r\n" + END)
    assert (answer.status, answer.status_line, answer.body) == (status, kept, b"ok")


@pytest.mark.parametrize("data", [b"garbage\r\n\r\n", b"ICY 200 OK\r\n" + END, b"HTTP/1.1 2000 OK\r\n\r\nx", b"x"])
async def test_to_nginx_what_has_no_status_line_is_all_body(data: bytes) -> None:
    answer = await by_nginx(data)
    assert (answer.framing, answer.headers, answer.body) == ("raw", [], data)


@pytest.mark.parametrize(
    ("lines", "headers"),
    [
        (b"X:1\r\nY:  2  \r\nZ\r\n", [("X", "1"), ("Y", "2"), ("Z", "")]),
        (b"X.Y: 1\nX_Z: \xe9\xff\n", [("X.Y", "1"), ("X_Z", "\udce9\udcff")]),
        (b"HTTP/1.1 200 OK\r\nX: 1\r\n", [("X", "1")]),
        (b"Location: a\r\nlocation: b\r\nX: 1\r\nx: 2\r\n", [("Location", "a"), ("X", "1"), ("x", "2")]),
    ],
)
async def test_headers_to_nginx(lines: bytes, headers: list[tuple[str, str]]) -> None:
    answer = await by_nginx(b"HTTP/1.1 200 OK\r\n" + lines + END)
    assert answer.headers == [*headers, ("Content-Length", "2")]
    assert answer.body == b"ok"


@pytest.mark.parametrize(
    "lines",
    [
        b"X: 1\r\n folded\r\n", b"X Y: 1\r\n", b": 1\r\n", b"X: a\0b\r\n", b"X: a\rb\r\n", b"Content-Length: 2\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"X: " + b"a" * 4096 + b"\r\n",
    ],
)  # fmt: skip
async def test_what_nginx_calls_invalid(lines: bytes) -> None:
    with pytest.raises(InvalidAnswerError):
        await by_nginx(b"HTTP/1.1 200 OK\r\n" + lines + END)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: 1\r\nContent-Le"])
async def test_an_answer_that_ends_before_its_headers_do_is_none(data: bytes) -> None:
    with pytest.raises(EOFError):
        await by_nginx(data)
    with pytest.raises(EOFError):
        await by_lua(data)


@pytest.mark.parametrize(
    ("chunks", "body", "complete", "garbled"),
    [
        (b"2\r\nok\r\n0\r\n\r\n", b"ok", True, False),
        (b"2;a=b\nok\n000\nX: 1\n\n", b"ok", True, False),
        (b"9\r\nok", b"ok", False, False),
        (b"2\r\nok\r\n0\r\n", b"ok", False, False),
        (b"2\r\nok\r\nzz\r\n", b"ok", False, True),
        (b"ok", b"", False, True),
        (b"2\r\nokxx\r\n0\r\n\r\n", b"ok", False, True),
    ],
)
async def test_chunks_to_nginx(chunks: bytes, body: bytes, complete: bool, garbled: bool) -> None:
    answer = await by_nginx(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n" + chunks)
    assert (answer.body, answer.complete, answer.garbled) == (body, complete, garbled)


@pytest.mark.parametrize(("status", "method"), [(204, "GET"), (304, "GET"), (200, "HEAD")])
async def test_answers_without_a_body(status: int, method: str) -> None:
    data = b"HTTP/1.1 %d X\r\n%s" % (status, END)
    assert (await by_nginx(data, method)).framing == "none"
    answer, parts, failed = await by_lua(data, method)
    assert (answer.framing, parts, failed) == ("none", [], False)


@pytest.mark.parametrize(
    ("lines", "headers", "parts"),
    [
        (b"X Y: 1\r\n", [("Y", "1"), ("Content-Length", "2")], [b"ok"]),
        (b"X: 1\r\nx: 2\r\n", [("X", "1"), ("X", "2"), ("Content-Length", "2")], [b"ok"]),
        (b"X: 1\r\n folded\r\n", [("X", "1")], [END]),
        (b"NoColon\r\n", [], [END]),
        (b"Content-Length: 2\r\n", [("Content-Length", "2"), ("Content-Length", "2")], [b"ok"]),
        (b"X: a\rb\0c\r\n", [("X", "ab\0c"), ("Content-Length", "2")], [b"ok"]),
    ],
)
async def test_headers_to_lua_are_what_a_pattern_finds(
    lines: bytes, headers: list[tuple[str, str]], parts: list[bytes]
) -> None:
    answer, got, failed = await by_lua(b"HTTP/1.1 200 OK\r\n" + lines + END)
    assert (answer.headers, got, failed) == (headers, parts, False)


async def test_lua_wants_a_version_and_a_status_in_their_places() -> None:
    for line in (b"garbage\r\n", b"HTTP/2 200 OK\r\n", b"HTTP/1.1 OK 2\r\n"):
        with pytest.raises(InvalidAnswerError):
            await by_lua(line + END)
    answer, parts, _ = await by_lua(b"ICY! 1.0 404 Nope\r\nX: 1\r\n\r\nrest")
    assert (answer.status, answer.framing, parts) == (404, "close", [b"rest"])


@pytest.mark.parametrize(
    ("chunks", "parts", "failed"),
    [
        (b"1\r\no\r\n0x1\r\nk\r\n0\r\n\r\n", [b"o", b"k"], False),
        (b"0\r\n\r\n", [], False),
        (b"2\r\nok\r\n9\r\ncut", [b"ok"], True),
        (b"zz\r\n", [], True),
        (b"2\r\nok\r\n", [b"ok"], True),
        (b"", [], True),
    ],
)
async def test_chunks_to_lua(chunks: bytes, parts: list[bytes], failed: bool) -> None:
    _, got, ended_badly = await by_lua(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x, chunked\r\n\r\n" + chunks)
    assert (got, ended_badly) == (parts, failed)


async def test_a_body_cut_short_of_its_length_is_nothing_to_lua() -> None:
    _, parts, failed = await by_lua(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
    assert (parts, failed) == ([], True)


async def test_lua_reads_a_body_once() -> None:
    answer, parts, _ = await by_lua(b"HTTP/1.1 200 OK\r\n" + END)
    assert answer.rest is not None
    await answer.rest.read()
    assert (parts, answer.rest.parts) == ([b"ok"], [])


async def test_what_lua_says_of_a_length_below_0_is_the_body() -> None:
    answer, parts, failed = await by_lua(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok")
    assert (answer.framing, failed) == ("content-length", False)
    assert parts[0].endswith(b"bad argument #1 to 'receive' (bad number argument)")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HTTP/1.1 103 E\r\nLink: x\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\n" + END, 200),
        (b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\n" + END, 103),  # came at once
        (b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\n" + END, 100),
    ],
)
async def test_early_hints_come_before_an_answer(data: bytes, status: int) -> None:
    answer = await read_as_nginx(fed(data), "GET", early_hints=True)
    assert (answer.status, answer.hinted) == (status, status != 100)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 103 E\r\n\r\n",
        b"HTTP/1.1 103 E\r\nA B: x\r\n\r\n",
        b"HTTP/1.1 103 E\r\nA: " + b"x" * 4100 + b"\r\n\r\n",
    ],
)
async def test_early_hints_may_be_none(data: bytes) -> None:
    with pytest.raises(InvalidAnswerError):
        await read_as_nginx(fed(data + b"HTTP/1.1 200 OK\r\n" + END), "GET", early_hints=True)
