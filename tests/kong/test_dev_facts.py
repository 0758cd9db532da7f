"""What a real Kong (3.9) gave for PDK calls, or sent on, and so does the development gateway. In this process."""

from __future__ import annotations

from typing import Any

import pytest

from gatewright.dev.kong.declarative import parse_declarative
from gatewright.dev.kong.exchange import Exchange
from gatewright.dev.kong.gateway import KongGateway
from gatewright.dev.kong.pdk import Pdk
from gatewright.dev.kong.plugins import Plugins
from gatewright.dev.kong.router import Router
from gatewright.dev.kong.rpc import Exit
from gatewright.dev.kong.values import LuaError, to_msgpack, to_protobuf
from gatewright.dev.messages import ClientRequest
from gatewright.dev.upstream import UpstreamAnswer
from gatewright.gateways.kong.answers import OUTPUTS
from gatewright.gateways.kong.pdk import METHODS
from gatewright.gateways.kong.phases import refused_in

HEADERS = [
    ("Host", "Example.com:8080"), ("X-Multi", "a"), ("X-Multi", "b"), ("X-Empty", ""), ("X_Under", "u"),
    ("Cookie", "c=1; d=2"),
]  # fmt: skip
PLAIN = "/r/a%20b/../c?x=1&y&z=&x=2&B=3"
WEIRD = "/r/%7e%2F%41//b/./%C3%A9%ff%3b;p=1"
DECLARED: dict[str, Any] = {
    "_format_version": "3.0",
    "services": [{"name": "s", "url": "http://127.0.0.1:5000/base", "routes": [
        {"name": "r", "paths": ["/r"]},
        {"name": "kept", "paths": ["/r2"], "strip_path": False},
        {"name": "re", "paths": [r"~/re/(?<id>\d+)/(x)"]},
    ]}],
}  # fmt: skip


def asking(target: str = PLAIN, *, phase: str = "access", method: str = "GET", body: bytes = b"", **more: str) -> Pdk:
    """The PDK of a request in a phase."""
    headers = [*HEADERS, *((name.replace("_", "-"), value) for name, value in more.items())]
    exchange = Exchange(ClientRequest(method, target, headers, "127.0.0.1", body=body, head_size=165), phase=phase)
    exchange.later = phase == "log"
    declared = parse_declarative(DECLARED)
    exchange.match = Router(declared).find(method, exchange.host, exchange.path, {})
    return Pdk(exchange, declared)


@pytest.mark.parametrize(
    ("target", "phase", "method", "args", "value"),
    [
        (WEIRD, "rewrite", "request.get_path", [], "/r/~%2FA/b/é\udcff%3B;p=1"),
        (WEIRD, "rewrite", "nginx.get_var", ["uri"], "/r/~/A/b/é\udcff;;p=1"),
        (PLAIN, "access", "request.get_query", [2], {"x": "1", "y": True}),
        (PLAIN, "rewrite", "request.get_forwarded_prefix", [], "/r"),
        ("/r2/x", "rewrite", "request.get_forwarded_prefix", [], ""),
        ("/r2/x", "access", "request.get_forwarded_prefix", [], None),
        (PLAIN, "access", "ip.is_trusted", ["nonsense"], False),
        (PLAIN, "access", "request.get_header", ["x-under"], "u"),
        (PLAIN, "log", "request.get_header", ["x-under"], None),
        (PLAIN, "log", "request.get_header", ["x_under"], "u"),
        (PLAIN, "log", "nginx.get_tls1_version_str", [], None),
        ("/re/12/x/y", "access", "request.get_uri_captures", [],
         {"unnamed": {0: "/re/12/x", 1: "12", 2: "x"}, "named": {"id": "12"}}),
        *(
            (PLAIN, "rewrite", "nginx.get_var", [name], value)
            for name, value in {
                "server_name": "kong", "host": "example.com", "binary_remote_addr": "\x7f\0\0\x01",
                "kong_proxy_mode": "http", "pipe": ".", "status": "000", "https": "", "upstream_scheme": "",
                "upstream_host": "", "arg_y": None, "arg_b": "3", "request_length": "165", "connection_requests": "1",
                "nonsense": None, "cookie_c": "1", "http_x_multi": "a, b",
            }.items()
        ),
    ],
)  # fmt: skip
def test_what_a_call_gives(target: str, phase: str, method: str, args: list[Any], value: object) -> None:
    assert asking(target, phase=phase)(f"kong.{method}", args) == value


def test_uri_captures_on_the_wire() -> None:
    name = "kong.request.get_uri_captures"
    found = asking("/re/12/x/y")(name, [])
    assert to_msgpack(name, found) == {"unnamed": {0: "/re/12/x", 1: "12", 2: "x"}, "named": {"id": "12"}}
    over_protobuf = OUTPUTS["uri_captures"](to_protobuf(METHODS[name], found))
    assert over_protobuf == {"unnamed": ["12", "x"], "named": {"id": "12"}}


def test_a_bare_field_of_a_form() -> None:
    pdk = asking(method="POST", body=b"a=1&b=2&a=3&c&d=&e=%20+x", content_type="application/x-www-form-urlencoded")
    assert pdk("kong.request.get_body", []) == {"a": ["1", "3"], "b": "2", "c": True, "d": "", "e": "  x"}
    assert pdk("kong.request.get_body", [None, 2]) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("method", "args", "query"),
    [
        ("set_raw_query", ["a b#c"], "a%20b#c"),
        ("set_query", [{"d": 5, "b": True, "c": ["x", "y z", True], "a": "1"}], "a=1&b&c=x&c=y%20z&c&d=5"),
        ("set_query", [{"é": "ü&=", "f": False}], "&%C3%A9=%C3%BC%26%3D"),
        ("set_query", [{"a": {"b": 1}}], "a=1"),
        ("clear_query_arg", ["x"], "y=&z=&B=3"),
        ("clear_query_arg", ["none"], "x=1&y=&z=&x=2&B=3"),
    ],
)
def test_queries(method: str, args: list[Any], query: str) -> None:
    pdk = asking()
    pdk(f"kong.service.request.{method}", args)
    assert pdk.exchange.query == query


def test_a_paths_escapes() -> None:
    pdk = asking()
    pdk("kong.service.request.set_path", ["/a b/%7e/%2F?q=1#[x]\\"])
    assert pdk.exchange.upstream_path == "/a%20b/%7e/%2F?q=1#[x]%5C"


def test_a_header_that_is_spelt_otherwise_is_not_cleared() -> None:
    pdk = asking()
    pdk("kong.service.request.clear_header", ["x-under"])
    assert ("X_Under", "u") in pdk.exchange.headers.entries
    pdk("kong.service.request.add_header", ["x-empty", "v"])
    assert pdk.exchange.headers.get_all("x-empty") == ["v"]
    pdk("kong.service.request.set_header", ["X-Multi", {"a": 1}])
    assert pdk.exchange.headers.get_all("x-multi") == []
    pdk("kong.service.request.set_header", ["X-New", "a\nb"])
    assert pdk.exchange.headers.get("x-new") == "a%0Ab"
    pdk("kong.service.request.set_header", ["host", "h.x"])
    assert pdk("kong.request.get_host", []) == "h.x"


def test_a_response_header_is_let_out_as_lua_does() -> None:
    pdk = asking()
    for name, value in (("x_under", "u"), ("bad name", "v"), ("", "v"), ("X-A", "a\nb")):
        pdk("kong.response.set_header", [name, value])
    assert pdk.exchange.response_headers.entries == [("x-under", "u"), ("bad%20name", "v"), ("X-A", "a%0Ab")]


@pytest.mark.parametrize(
    ("phase", "method", "args"),
    [
        ("access", "kong.response.set_header", ["Content-Length", "v"]),
        ("access", "kong.service.request.set_header", ["content-length", "v"]),
        ("rewrite", "kong.service.set_target", ["127.0.0.1", 80]),
        ("response", "kong.log.serialize", []),
        *(("log", f"kong.request.{what}", []) for what in ("get_scheme", "get_host", "get_path", "get_raw_path")),
    ],
)
def test_what_fails_in_kong(phase: str, method: str, args: list[Any]) -> None:
    with pytest.raises(LuaError):
        asking(phase=phase)(method, args)


def test_what_fails_in_every_kong_is_not_asked() -> None:
    assert "kong.log.serialize" in refused_in("response")
    assert "kong.service.set_target" in refused_in("rewrite")


@pytest.mark.parametrize(
    ("args", "status", "body", "headers"),
    [
        ([403, {"a": [1, 2]}], 403, b'{"a":[1,2]}', {"Content-Type": ["application/json; charset=utf-8"]}),
        ([200, None, {"X-E": ""}], 200, None, {}),
        ([204], 204, None, {}),
    ],
)
def test_an_answer_of_a_plugins(args: list[Any], status: int, body: object, headers: object) -> None:
    with pytest.raises(Exit) as exited:
        asking()("kong.response.exit", args)
    assert (exited.value.status, exited.value.body, exited.value.headers) == (status, body, headers)


def test_an_error_without_a_body_gets_kongs() -> None:
    with pytest.raises(Exit) as exited:
        asking()("kong.response.exit", [404])
    assert b'"message":"Not found"' in (exited.value.body or b"")
    with pytest.raises(Exit) as exited:
        asking()("kong.response.error", [418])
    assert b"I'm a teapot" in (exited.value.body or b"")


def test_json_keeps_its_null() -> None:
    pdk = asking(method="POST", body=b'{"a":[1,{"b":null}]}', content_type="application/json")
    assert to_msgpack("kong.request.get_body", pdk("kong.request.get_body", [])) == {"a": [1, {"b": None}]}


def test_credentials_for_kongs_own_plugins_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    consumer = {"username": "ada", "keyauth_credentials": [{"key": "k"}], "acls": [{"group": "g"}]}
    of_all = {"jwt_secrets": [{"consumer": "ada"}]}
    declared = parse_declarative({**DECLARED, "consumers": [consumer], **of_all})
    (known,) = declared.consumers.values()
    assert known["username"] == "ada"
    assert not known.keys() & consumer.keys() - {"username"}
    for place in ("consumers[0].keyauth_credentials", "consumers[0].acls", "jwt_secrets"):
        assert f"{place}: left out" in caplog.text


class Service:
    """Stands in for the service."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    async def __call__(self, _host: str, _port: int, **asked: Any) -> UpstreamAnswer:
        self.asked = asked
        headers = [("Content-Type", "text/html"), ("X_Under", "u"), ("X-Empty", ""), ("Content-Length", "29")]
        return UpstreamAnswer(200, "OK", headers, b"" if asked["method"] == "HEAD" else b"x" * 29)


async def through(request: ClientRequest) -> tuple[Any, dict[str, str]]:
    """The answer's headers, and those that the service got."""
    declared, service = parse_declarative(DECLARED), Service()
    gateway = KongGateway(declared, Plugins([], declared), send=service)
    answer = await gateway.handle(request)
    await gateway.settle()
    return answer, {name.lower(): value for name, value in service.asked.get("headers", [])}


async def test_what_goes_to_the_service_and_comes_back() -> None:
    answer, sent = await through(ClientRequest("HEAD", PLAIN, HEADERS, "127.0.0.1"))
    assert ("Content-Length", "29") in answer.headers
    assert ("Content-Type", "text/html; charset=UTF-8") in answer.headers
    assert sent["x-forwarded-prefix"] == "/r"
    assert sent["x_under"] == "u"
    _, sent = await through(ClientRequest("GET", "/r2/x", HEADERS, "127.0.0.1"))
    assert "x-forwarded-prefix" not in sent
    answer, sent = await through(ClientRequest("GET", WEIRD, HEADERS, "127.0.0.1"))
    assert (answer.status, sent) == (404, {}), "the router has no place for bytes that are not UTF-8"
