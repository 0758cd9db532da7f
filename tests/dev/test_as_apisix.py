"""What APISIX 3.9.1 and its nginx make of requests and answers, seen on a real one."""

from __future__ import annotations

from typing import Any

import pytest

from gatewright.dev.answers import response_head, with_page
from gatewright.dev.apisix.behaviour import BEHAVIOURS
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.rewriting import proxy_rewrite, response_rewrite
from gatewright.dev.apisix.variables import variable
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.dev.nginx import escape
from gatewright.gateways.apisix.replies import Rewrite


def exchange(target: str = "/r/x?a=1&b&a=2", *headers: tuple[str, str], **more: Any) -> Exchange:
    return Exchange(ClientRequest("GET", target, [("Host", "gw.test"), *headers], "127.0.0.1", **more))


# --- who asks


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("9.9.9.9", "9.9.9.9"), ("9.9.9.9:81", "9.9.9.9"), ("3.3.3.3, 9.9.9.9", "9.9.9.9"), ("9.9.9.9, ,", "9.9.9.9"),
        ("2001:db8::1", "2001:db8::1"), ("[2001:db8::1]:80", "2001:db8::1"), ("9.9.9.9:0", "127.0.0.1"),
        ("9.9.9.9, x", "127.0.0.1"), ("", "127.0.0.1"),
    ],
)  # fmt: skip
def test_a_proxy_may_name_the_client_in_a_list_or_with_a_port(value: str, address: str) -> None:
    assert exchange("/", ("X-Real-IP", value)).client_ip == address


# --- variables


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uri", b"/r/x y"), ("URI", b"/r/x y"), ("document_uri", b"/r/x y"), ("request_uri", b"/r/x y?a=1&b&a=2"),
        ("real_request_uri", b"/r/./x%20y?a=1&b&a=2"), ("request", b"GET /r/./x%20y?a=1&b&a=2 HTTP/1.1"),
        ("arg_a", b"1"), ("arg_A", None), ("arg_b", b"true"), ("cookie_c", b"3"), ("cookie_C", None),
        ("http_x_dup", b"1, 2"), ("http_X-DUP", b"1, 2"), ("http_none", None), ("nginx_version", b"1.25.3"),
        ("proxy_add_x_forwarded_for", b"127.0.0.1"), ("bytes_sent", b"0"), ("resp_body", b""), ("https", b""),
        ("connection_requests", b"3"), ("request_length", b"142"), ("route_id", b"r1"), ("balancer_ip", None),
        ("binary_remote_addr", b"\x7f\0\0\1"), ("no_such", None), ("", None), ("upstream_scheme", b"http"),
    ],
)  # fmt: skip
def test_variables_are_those_of_apisix(name: str, value: bytes | None) -> None:
    headers = [("X-Dup", "1"), ("X-Dup", "2"), ("Cookie", "c=1; c=2"), ("Cookie", "c=3")]
    seen = exchange("/r/./x%20y?a=1&b&a=2", *headers, number=3, head_size=142)
    seen.route_facts = {"route_id": "r1"}
    assert variable(seen, name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ARG_a", b"%31"), ("ARG_b", None), ("arg_a", b"2"), ("ARG_c", b""), ("Cookie_C", b"2, d=4"),
        ("HTTP_HOST", b"gw.test"),
        ("remote_user", b"ada"), ("sent_http_connection", b"keep-alive"), ("uri_param__path", b"/r/*"),
        ("uri_param__method", b"GET"), ("echo_request_method", b"GET"), ("echo_request_uri", b"/r/x"), ("msie", b"1"),
        ("modern_browser", b""), ("ancient_browser", b"1"), ("uid_reset", b""), ("http3", b""),
        ("invalid_referer", b""), ("document_root", b"/usr/local/apisix/html"),
        ("request_filename", b"/usr/local/apisix/html/r/x"),
    ],
)  # fmt: skip
def test_variables_that_are_nginxs_own(name: str, value: bytes | None) -> None:
    headers = [
        ("Authorization", "basic YWRhOng6eQ=="),
        ("Cookie", "a=b; C = 2, d=4; c=3"),
        ("User-Agent", "x MSIE 6.0 y"),
    ]
    seen = exchange("/r/x?A=%31&a=2&b&c=", *headers)
    seen.route_facts = {"uri_param__path": "/r/*"}
    assert variable(seen, name) == value


@pytest.mark.parametrize(
    ("given", "user"),
    [
        ("Basic YWRh", None),
        ("Basic OmFkYQ==", None),
        ("Bearer YWRhOng=", None),
        ("Basic !", None),
        ("BASIC  YTo=", b"a"),
    ],
)
def test_who_has_no_name_in_basic_credentials_is_no_user(given: str, user: bytes | None) -> None:
    assert variable(exchange("/", ("Authorization", given)), "remote_user") == user


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=1, b=2", {"a": b"1,", "b": b"2"}), (";;a=1", {"a": None}), ('a="1; 2"; b=3', {"a": b'"1', "b": None}),
        ("a=; b=2", {"a": b"", "b": b"2"}), ("a=b=c", {"a": b"b=c"}), ("a", {"a": None}), ("a=1\tb=2", {"b": b"2"}),
    ],
)  # fmt: skip
def test_cookies_are_read_as_lua_resty_cookie_reads_them(text: str, found: dict[str, bytes | None]) -> None:
    assert {name: variable(exchange("/", ("Cookie", text)), f"cookie_{name}") for name in found} == found


def test_cookies_are_read_once() -> None:
    seen = exchange("/", ("Cookie", "b=1"))
    assert variable(seen, "cookie_a") is None
    seen.apply_rewrite(Rewrite(headers=[("cookie", "a=new; b=2")]))
    assert (variable(seen, "cookie_a"), variable(seen, "cookie_b"), variable(seen, "Cookie_a")) == (None, b"1", b"new")


def test_a_body_in_chunks_has_a_length_once_it_is_read() -> None:
    seen = exchange("/", body=b"x=1", framing="chunked")
    assert (variable(seen, "content_length"), variable(seen, "request_body")) == (None, None)
    seen.body_read = True
    assert (variable(seen, "content_length"), variable(seen, "request_body")) == (b"3", b"x=1")
    empty = exchange("/", framing="chunked")
    empty.body_read = True
    assert (variable(empty, "content_length"), variable(empty, "request_body")) == (b"0", b"")


def test_a_form_field_is_read_from_the_body() -> None:
    form = ("Content-Type", "application/x-www-form-urlencoded; charset=x")
    seen = exchange("/", form, body=b"x=1&y=a%20b&x=2")
    assert [variable(seen, name) for name in ("post_arg_x", "post_arg_y", "post_arg_z")] == [b"1", b"a b", None]
    assert variable(exchange("/", body=b"x=1"), "post_arg_x") is None


def test_what_was_asked_for_once_stays_but_for_the_arguments() -> None:
    seen = exchange()
    assert variable(seen, "http_host") == b"gw.test"
    assert variable(seen, "arg_a") == b"1"
    seen.apply_rewrite(Rewrite(headers=[("host", "other")], args=[("a", "9")]))
    assert variable(seen, "http_host") == b"gw.test"
    assert variable(seen, "arg_a") == b"1"
    assert variable(seen, "args") == b"a=9&b"
    assert variable(seen, "upstream_host") == b"other"


# --- proxy-rewrite


@pytest.mark.parametrize(
    ("conf", "target", "sent"),
    [
        ({"uri": "/n"}, "/r/x", "/n"), ({"uri": "/n"}, "/r/x?a=1", "/n?a=1"),
        ({"uri": "/n?x=1"}, "/r/x?a=1", "/n?x=1&a=1"), ({"uri": "/a b%"}, "/r/x", "/a%20b%25"),
        ({"uri": "/n/$remote_addr/${arg_a}/$none"}, "/r/x?a=q", "/n/127.0.0.1/q/?a=q"),
        ({"regex_uri": ["^/r/(.*)", "/s/$1"]}, "/r/x", "/s/x"),
        ({"regex_uri": ["^/r/(.*)", "/s/$1?y=$1"]}, "/r/x%20y?a=1", "/s/x%20y?y=x y&a=1"),
        ({"regex_uri": ["^/r/(x)(z)?", "/$1-$2-$3", "^/r", "/never"]}, "/r/x", "/x--"),
        ({"regex_uri": ["^/q", "/z", "^/r", "/second"]}, "/r/x", "/second/x"),
        ({"regex_uri": ["^/none$", "/z"]}, "/r/a%3Fb", "/r/a%3Fb"),
        ({"headers": {"X-A": "1"}}, "/r//x?a=%20+", "/r/x?a=%20+"),
        ({"use_real_request_uri_unsafe": True}, "/r//x%20?a", "/r//x%20?a"),
    ],
)  # fmt: skip
def test_proxy_rewrite_sets_the_path(conf: dict[str, Any], target: str, sent: str) -> None:
    seen = exchange(target)
    proxy_rewrite(seen, conf)
    assert seen.proxy_target() == sent


def test_proxy_rewrite_adds_sets_and_removes_headers() -> None:
    seen = exchange("/r/x", ("X-A", "1"), ("X-B", "2"), ("X-B", "3"), ("X-C", "4"))
    changes = {"add": {"X-B": "5"}, "set": {"X-A": "$remote_addr $1", "X-N": "n"}, "remove": ["X-C"]}
    proxy_rewrite(seen, {"regex_uri": ["^/(r)/", "/$1/"], "headers": changes, "method": "POST", "host": "h"})
    assert seen.headers == [
        ("Host", "gw.test"), ("X-A", "127.0.0.1 r"), ("X-B", "2"), ("X-B", "3"), ("X-B", "5"), ("X-N", "n"),
    ]  # fmt: skip
    assert (seen.method, seen.upstream_host) == ("POST", "h")


def test_headers_set_before_anybody_has_read_them_are_read_in_lower_case() -> None:
    seen = exchange("/r/x", ("X-A", "1"))
    proxy_rewrite(seen, {"headers": {"X-A": "2"}})
    assert seen.call_headers() == [("host", "gw.test"), ("x-a", "2")]
    seen.set_header("X-A", "3")  # now there is a table, which is patched under the name as it is
    assert seen.call_headers() == [("host", "gw.test"), ("x-a", "2"), ("X-A", "3")]


def test_what_cannot_be_in_a_header_is_escaped() -> None:
    seen = exchange("/")
    seen.set_header("x é", "a\r\nb")
    assert seen.headers[-1] == ("x%20%C3%A9", "a%0D%0Ab")
    assert escape('/a b"<>\\^`{|}?#%é') == "/a%20b%22%3C%3E%5C%5E%60%7B%7C%7D%3F%23%25%C3%A9"


# --- answers


def answered(answer: Answer, method: str = "GET", *, version: str = "1.1") -> tuple[str, dict[str, str], bytes]:
    request = ClientRequest(method, "/", [], "127.0.0.1", version=version)
    line, headers, body = response_head(answer, request, "APISIX")
    return line, dict(headers), body


def test_pages_have_nginx_s_words() -> None:
    line, headers, body = answered(Answer(302, page=True, framing="stop"))
    assert line == "HTTP/1.1 302 Moved Temporarily"
    assert headers["Content-Type"] == "text/html"  # redirects get no charset
    assert b"<title>302 Found</title>" in body
    assert b"401 Authorization Required" in answered(Answer(401, page=True))[2]
    line, headers, body = answered(Answer(494, page=True))
    assert line == "HTTP/1.1 400 Bad Request"
    assert b"<center>Request Header Or Cookie Too Large</center>" in body


@pytest.mark.parametrize("status", [300, 305, 417, 418, 451, 506, 599, 600])
def test_a_status_without_a_page_has_an_empty_body(status: int) -> None:
    line, headers, body = answered(Answer(status, page=True, framing="stop"))
    assert line.startswith(f"HTTP/1.1 {status} ")
    assert (headers["Content-Length"], "Content-Type" in headers, body) == ("0", False, b"")


@pytest.mark.parametrize(("status", "stays"), [(400, False), (404, True), (413, False), (500, False), (503, True)])
def test_some_pages_end_the_connection(status: int, stays: bool) -> None:
    assert answered(Answer(status, page=True))[1]["Connection"] == ("keep-alive" if stays else "close")


def test_what_is_proxied_has_the_upstreams_date_or_none() -> None:
    assert "Date" not in answered(Answer(200, body=b"x", framing="proxied"))[1]
    assert answered(Answer(200, [("Date", "then")], b"x", framing="proxied"))[1]["Date"] == "then"
    headers = response_head(Answer(200, [("date", "then")], b"x"), ClientRequest("GET", "/", [], "::1"), "s")[1]
    assert [value for name, value in headers if name.lower() == "date"] == ["then"]


def test_http_1_0_gets_no_chunks() -> None:
    _, headers, body = answered(Answer(200, body=b"x"), version="1.0")
    assert ("Transfer-Encoding" in headers, headers["Connection"], body) == (False, "close", b"x")


def test_response_rewrite_changes_whatever_there_is() -> None:
    changes = {"set": {"X-U": "n"}, "add": ["X-D: 1", "X-D: $remote_addr"], "remove": ["X-V"]}
    conf = {"status_code": 404, "body": "bmV3", "body_base64": True, "headers": changes}
    answer = Answer(
        200, [("X-U", "1"), ("X-V", "2"), ("Content-Length", "3"), ("ETag", "e")], b"old", framing="proxied"
    )
    got = response_rewrite(exchange(), answer, conf)
    assert (got.status, got.body) == (404, b"new")
    assert got.headers == [("X-U", "n"), ("X-D", "1"), ("X-D", "127.0.0.1")]
    page = response_rewrite(exchange(), with_page(Answer(403, page=True)), {"status_code": 200})
    assert b"403 Forbidden" in (page.body or b"")
    filters = [{"regex": "u", "scope": "global", "replace": "v"}, {"regex": "(b)", "replace": "[$1]"}]
    assert response_rewrite(exchange(), Answer(200, body=b"ubub"), {"filters": filters}).body == b"v[b]vb"


# --- versions


def test_versions_differ_in_headers_query_and_variables() -> None:
    many = [(f"X-{number}", "v") for number in range(120)]
    for version, behaviour in BEHAVIOURS.items():
        seen = Exchange(ClientRequest("GET", "/r?a=%7e+b", [("Host", "h"), *many], "127.0.0.1"), behaviour)
        assert len(seen.call_headers()) == (121 if version == "3.9" else 100)
        assert (variable(seen, "rate_limiting_info") is None) == (version not in ("3.17", "3.18"))
        seen.apply_rewrite(Rewrite(path="/n"))
        assert seen.proxy_target() == ("/n?a=%7e+b" if version in ("3.16", "3.17", "3.18") else "/n")
        own = [name for name, _ in seen.headers if name.startswith("X-Forwarded-")]
        assert len(seen.headers) == 121 + len(own), "the upstream gets all"
        assert len(own) == (3 if version in ("3.14", "3.15", "3.16", "3.17", "3.18") else 0)
