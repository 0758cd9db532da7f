"""Requests are read as nginx reads them: what it takes is taken, what it refuses is refused with its status."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.apisix.routes import build_routes
from gatewright.dev.nginx import TargetError, split_target
from gatewright.dev.reader import LINE_SIZE, Incoming, RefusedError, RequestReader

HOST = b"Host: a\r\n"


def read(data: bytes) -> Incoming:
    reader = RequestReader()
    reader.receive_data(data)
    request = reader.next_request()
    assert request is not None, "it waits for more"
    return request


def refusal(data: bytes) -> int:
    reader = RequestReader()
    reader.receive_data(data)
    with pytest.raises(RefusedError) as caught:
        reader.next_request()
    return caught.value.status


def test_whatever_bytes_nginx_takes_are_taken() -> None:
    request = read(b"\r\n\nFOO_-BAR /\xc3\xa9\xff?\xe9=%  HTTP/1.7  \n" + HOST + b"X-Y:\ta b \t \r\nBare\n_x:\n\n")
    assert request.method == "FOO_-BAR"
    assert request.target.encode("utf-8", "surrogateescape") == b"/\xc3\xa9\xff?\xe9=%"
    assert request.version == "1.1"
    assert request.headers == [("Host", "a"), ("X-Y", "\ta b \t"), ("Bare", ""), ("_x", "")]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"get / HTTP/1.1", 400), (b"G@T / HTTP/1.1", 400), (b" GET / HTTP/1.1", 400), (b"OPTIONS * HTTP/1.1", 400),
        (b"GET x HTTP/1.1", 400), (b"GET / HTTP/2.0", 505), (b"GET / HTTP/10.1", 505), (b"GET / HTTP/0.9", 400),
        (b"GET / HTTP/1.", 400), (b"GET / http/1.1", 400), (b"GET / HTTP/1.1 x", 400), (b"GET /a b HTTP/1.1", 400),
        (b"GET /\x00 HTTP/1.1", 400), (b"GET /\x7f HTTP/1.1", 400), (b"GET /%zz HTTP/1.1", 400),
        (b"GET /%00 HTTP/1.1", 400), (b"GET /%4 HTTP/1.1", 400), (b"GET /../x HTTP/1.1", 400),
        (b"GET /a/%2e%2E/..%2f HTTP/1.1", 400), (b"POST /", 400), (b"CONNECT a:443 HTTP/1.1", 400),
        (b"CONNECT / HTTP/1.1", 405), (b"TRACE / HTTP/1.1", 405), (b"GET http://a..b/ HTTP/1.1", 400),
        (b"GET http:/a HTTP/1.1", 400), (b"GET /" + b"a" * LINE_SIZE + b" HTTP/1.1", 414),
    ],
)  # fmt: skip
def test_a_request_line_is_refused_as_nginx_does(line: bytes, status: int) -> None:
    assert refusal(line + b"\r\n" + HOST + b"\r\n") == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"", 400), (HOST + HOST, 400), (b"Host: \r\n", 400), (b"Host: a/b\r\n", 400), (b"Host: a b\r\n", 400),
        (b"Host: :80\r\n", 400), (HOST + b" folded: 1\r\n", 400), (HOST + b"X : 1\r\n", 400), (HOST + b": 1\r\n", 400),
        (HOST + b"X: a\x00b\r\n", 400), (HOST + b"X: a\rb\r\n", 400), (HOST + b"Content-Length: -1\r\n", 400),
        (HOST + b"Content-Length:\r\n", 400), (HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n", 400),
        (HOST + b"Content-Length: 99999999999999999999\r\n", 400), (HOST + b"Transfer-Encoding: gzip\r\n", 501),
        (HOST + b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", 400),
        (HOST + b"Authorization: a\r\nauthorization: b\r\n", 400), (HOST + b"X: " + b"a" * LINE_SIZE + b"\r\n", 494),
        (HOST + b"".join(b"X%d: %s\r\n" % (n, b"a" * 8000) for n in range(5)), 494),
    ],
)  # fmt: skip
def test_headers_are_refused_as_nginx_does(headers: bytes, status: int) -> None:
    assert refusal(b"GET / HTTP/1.1\r\n" + headers + b"\r\n") == status


def test_four_large_headers_fit() -> None:
    many = b"".join(b"X%d: %s\r\n" % (n, b"a" * 8000) for n in range(4))
    assert len(read(b"GET / HTTP/1.1\r\n" + HOST + many + b"\r\n").headers) == 5


def test_http_1_0_needs_no_host_and_closes_unless_it_asks_for_more() -> None:
    assert not read(b"GET / HTTP/1.0\r\n\r\n").keeps_alive
    assert read(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keeps_alive
    assert read(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n").keeps_alive
    assert not read(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Close\r\n\r\n").keeps_alive
    assert refusal(b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n") == 400


def test_http_0_9_is_a_line() -> None:
    assert read(b"GET /x?y\r\n").version == "0.9"


def test_requests_follow_each_other_on_a_connection() -> None:
    reader = RequestReader()
    reader.receive_data(
        b"POST /1 HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\n" + HOST + b"\r\nGE"
    )
    first, second = reader.next_request(), reader.next_request()
    assert first is not None
    assert second is not None
    assert (first.target, first.body, second.target) == ("/1", b"hi", "/2")
    assert reader.next_request() is None
    assert reader.has_begun


CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: Chunked\r\n\r\n"


def test_a_body_in_chunks_with_extensions_and_trailers() -> None:
    assert read(CHUNKED + b"5;x=y\r\nhello\r\n00006\n world\n0\r\nX: y\r\n\r\n").body == b"hello world"


@pytest.mark.parametrize(
    "body", [b"z\r\n", b"-1\r\n", b"\r\n", b"2\r\nabc\r\n", b"ffffffffffffffff\r\n", b"5 5\r\nhello\r\n"]
)
def test_chunks_that_are_none_are_found_out_by_whoever_reads_them(body: bytes) -> None:
    request = read(CHUNKED + body)
    assert request.body_is_broken
    assert not request.keeps_alive


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 30))
def test_a_request_is_the_same_however_its_bytes_arrive(chunks: list[bytes], step: int) -> None:
    data = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    reader = RequestReader()
    seen = None
    for at in range(0, len(data), step):
        assert seen is None
        reader.receive_data(data[at : at + step])
        seen = reader.next_request()
    assert seen is not None
    assert seen.body == b"".join(chunks)


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    reader = RequestReader()
    reader.receive_data(data)
    try:
        reader.next_request()
    except RefusedError as error:
        assert error.status in (400, 405, 414, 494, 501, 505)


@pytest.mark.parametrize(
    ("target", "uri", "unparsed", "args"),
    [
        ("/a//b/./c/../d", "/a/b/d", "/a//b/./c/../d", None),
        ("/%41%2f%2Fb%3f%23%25", "/A/b?#%", "/%41%2f%2Fb%3f%23%25", None),
        ("/x#y?z", "/x", "/x#y?z", None), ("/x?a#b", "/x", "/x?a#b", "a"), ("/x?", "/x", "/x?", ""),
        ("/..a", "/..a", "/..a", None),
        ("/a/..", "/", "/a/..", None), ("/a/.", "/a/", "/a/.", None), ("HTTP://H.x:1/y", "/y", "/y", None),
        ("http://h", "/", "/", None), ("http://h?a=1", "/", "?a=1", "a=1"), ("/+", "/+", "/+", None),
    ],
)  # fmt: skip
def test_targets_are_taken_apart_as_nginx_does(target: str, uri: str, unparsed: str, args: str | None) -> None:
    parts = split_target(target)
    assert (parts.uri, parts.unparsed, parts.args) == (uri, unparsed, args)


def test_an_absolute_target_names_the_host() -> None:
    assert split_target("HTTP://H.x.:1/y").host == "h.x"
    with pytest.raises(TargetError, match="host"):
        split_target("http:///x")


async def test_a_refusal_of_http_09_is_the_page_alone() -> None:
    gateway = DevGateway(build_routes({"routes": []}), "unix:/nonexistent")
    await gateway.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /x\r\n")
    answer = await reader.read()
    writer.close()
    await gateway.stop()
    assert answer.startswith(b"<html>\r\n<head><title>400 Bad Request</title>")
