"""APISIX's own plugins in the development gateway, and which route a request has: what a real 3.9.1 was seen to do."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.answers import response_head
from gatewright.dev.apisix.behaviour import BEHAVIOURS
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.expressions import condition_of
from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.apisix.routes import build_routes
from gatewright.dev.apisix.variables import lua_value
from gatewright.dev.messages import ClientRequest, Headers
from gatewright.dev.target import Upstream
from gatewright.dev.upstream_reader import UpstreamAnswer
from gatewright.errors import ConfigError
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.replies import Rewrite, Stop
from tests.dev.test_exchanges import POST, PRE, gateway, request

NODE = Upstream("127.0.0.1", 1)
MOCK = {"response_example": "mock"}


class Behind:
    """An upstream that isn't there: what it was sent, and what it says."""

    def __init__(self, status: int = 200, headers: Headers | None = None) -> None:
        self.status, self.headers = status, headers or [("X-Up", "1"), ("Content-Length", "2")]
        self.sent: list[tuple[str, str, Headers]] = []

    async def __call__(self, host: str, port: int, **call: Any) -> UpstreamAnswer:
        self.sent.append((call["method"], call["target"], call["headers"]))
        return UpstreamAnswer(self.status, "OK", list(self.headers), b"ok", "content-length", status_line="200 OK")


async def ask(
    plugins: dict[str, Any],
    *headers: tuple[str, str],
    path: str = "/r/x",
    method: str = "GET",
    version: str = "3.9",
    behind: Behind | None = None,
    times: int = 1,
    **shared: Any,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the (last) answer on a route with some plugins."""
    routes = build_routes({"routes": [{"id": "r", "uri": "/r/*", "plugins": plugins}], **shared}, default_upstream=NODE)
    dev = DevGateway(routes, "unix:/nowhere", behaviour=BEHAVIOURS[version], send=behind or Behind())
    asked = ClientRequest(method, path, [("Host", "gw.test"), *headers], "127.0.0.1")
    for _ in range(times):
        answer = await dev.handle(asked)
    line, out, body = response_head(answer, asked, "APISIX")
    if ("Transfer-Encoding", "chunked") in out:
        size, _, rest = body.partition(b"\r\n")
        body = rest[: int(size or b"0", 16)]
    return int(line.split()[1]), dict(out), body


# --- redirect, mocking, fault-injection


@pytest.mark.parametrize(
    ("conf", "status", "where"),
    [
        ({"uri": "/n/$uri?x=$arg_a&${host}"}, 302, "/n//r/x?x=1&gw.test"),
        ({"uri": r"/n/\$uri", "ret_code": 301}, 301, r"/n/\$uri"),
        ({"uri": "/n?b=2", "append_query_string": True}, 302, "/n?b=2&a=1"),
        ({"uri": "/s p?q r", "encode_uri": True}, 302, "/s%20p?q r"),
        ({"regex_uri": ["^/(r)/(.*)$", "/$2/$1"]}, 302, "/x/r"),
        ({"http_to_https": True}, 301, "https://gw.test/r/x?a=1"),
    ],
)
async def test_redirects(conf: dict[str, Any], status: int, where: str) -> None:
    got, headers, _ = await ask({"redirect": conf}, path="/r/x?a=1")
    assert (got, headers["Location"]) == (status, where)


async def test_what_needs_no_redirect_passes() -> None:
    for conf, header in (({"regex_uri": ["^/z", "/y"]}, "x"), ({"http_to_https": True}, "https")):
        assert (await ask({"redirect": conf}, ("X-Forwarded-Proto", header)))[0] == 200
    assert (await ask({"redirect": {"http_to_https": True}}, method="POST"))[0] == 308


async def test_mocking_answers_as_configured() -> None:
    conf = {"response_example": "$remote_addr", "response_status": 201, "response_headers": {"X-M": "$arg_a", "X-N": 5}}
    status, headers, body = await ask({"mocking": conf}, version="3.12")
    assert (status, body) == (201, b"127.0.0.1")
    assert headers["Content-Type"] == "application/json;charset=utf8"
    assert (headers["x-mock-by"], headers["X-N"], "X-M" in headers) == ("APISIX/3.12.0", "5", False)


@pytest.mark.parametrize(
    ("abort", "status", "body"),
    [
        ({"http_status": 418, "body": "tea for $remote_addr"}, 418, b"tea for 127.0.0.1"),
        ({"http_status": 404, "body": ""}, 404, b""),
        ({"http_status": 403, "vars": [[["arg_a", "==", "2"]], [["arg_a", "==", "1"]]]}, 403, b"<html>"),
        ({"http_status": 403, "vars": [[["arg_a", "==", "2"]]]}, 200, b"ok"),
        ({"http_status": 403, "percentage": 0}, 200, b"ok"),
    ],
)
async def test_faults_are_injected(abort: dict[str, Any], status: int, body: bytes) -> None:
    got, _, text = await ask({"fault-injection": {"abort": abort}}, path="/r/x?a=1")
    assert (got, text[: len(body) or None]) == (status, body)


# --- who may


@pytest.mark.parametrize(
    ("plugins", "headers", "status", "says"),
    [
        ({"ip-restriction": {"whitelist": ["10.0.0.0/8"]}}, [], 403, b'{"message":"Your IP address is not allowed"}\n'),
        ({"ip-restriction": {"blacklist": ["127.0.0.0/8"], "message": "a/b"}}, [], 403, b'{"message":"a/b"}\n'),
        ({"ip-restriction": {"whitelist": ["127.0.0.1"]}}, [], 200, b"ok"),
        ({"uri-blocker": {"block_rules": ["root", "A=1"], "rejected_msg": "no"}}, [], 200, b"ok"),
        ({"uri-blocker": {"block_rules": ["a=1"], "rejected_msg": "no"}}, [], 403, b'{"error_msg":"no"}\n'),
        ({"uri-blocker": {"block_rules": ["A=1"], "case_insensitive": True}}, [], 403, b"<html>"),
        ({"ua-restriction": {"denylist": ["curl"]}}, [], 403, b'{"message":"Not allowed"}\n'),
        ({"ua-restriction": {"denylist": ["curl"]}}, [("User-Agent", "curl/8")], 403, b'{"message":"Not allowed"}\n'),
        ({"ua-restriction": {"allowlist": ["^curl"]}}, [("User-Agent", " curl/8")], 200, b"ok"),
        ({"referer-restriction": {"whitelist": ["*.b.test"]}}, [("Referer", "http://a.b.test:8/")], 200, b"ok"),
        ({"referer-restriction": {"whitelist": ["b.test"]}}, [("Referer", "b.test")], 403, b'{"message":'),
        ({"referer-restriction": {"blacklist": ["b.test"], "bypass_missing": True}}, [], 200, b"ok"),
        (
            {"uri-blocker": {"block_rules": ["a=1"], "_meta": {"error_response": {"own": "a/b"}}}}, [], 403,
            b'{"own":"a/b"}\n',
        ),
        ({"uri-blocker": {"block_rules": ["a=1"], "_meta": {"filter": [["arg_a", "==", "2"]]}}}, [], 200, b"ok"),
        ({"uri-blocker": {"block_rules": ["a=1"], "_meta": {"disable": True}}}, [], 200, b"ok"),
    ],
)  # fmt: skip
async def test_guards(plugins: dict[str, Any], headers: Headers, status: int, says: bytes) -> None:
    got, _, body = await ask(plugins, *headers, path="/r/x?a=1")
    assert (got, body[: len(says)]) == (status, says)


CONSUMERS = [
    {"username": "ann", "plugins": {"key-auth": {"key": "k"}, "basic-auth": {"username": "bob", "password": "pw"}}},
]


def basic(text: str) -> Headers:
    return [("Authorization", "Basic " + base64.b64encode(text.encode()).decode())]


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ([], b"Missing authorization in request"),
        ([("Authorization", "Bearer x")], b"Invalid authorization in request"),
        ([("Authorization", "Basic ?")], b"Invalid authorization in request"),
        (basic("bob:"), b"Invalid authorization in request"), (basic("bob:no"), b"Invalid user authorization"),
        (basic("eve:pw"), b"Invalid user authorization"),
    ],
)  # fmt: skip
async def test_credentials_that_are_none(headers: Headers, says: bytes) -> None:
    status, out, body = await ask({"basic-auth": {}}, *headers, consumers=CONSUMERS)
    assert (status, body) == (401, b'{"message":"%s"}\n' % says)
    assert ("WWW-Authenticate" in out) == (not headers)


async def test_credentials_name_the_consumer_and_may_be_hidden() -> None:
    behind = Behind()
    plugins = {
        "basic-auth": {"hide_credentials": True},
        "proxy-rewrite": {"headers": {"set": {"X-Who": "$consumer_name"}}},
    }
    for given in ("bob:pw", " b ob:p w:x"):  # spaces don't count, nor does what comes after a second colon
        assert (await ask(plugins, *basic(given), consumers=CONSUMERS, behind=behind))[0] == 200
    for _, _, headers in behind.sent:
        assert ("X-Who", "ann") in headers
        assert "Authorization" not in dict(headers)


@pytest.mark.parametrize(
    ("conf", "method", "status"),
    [
        ({"whitelist": ["ann"]}, "GET", 200), ({"whitelist": ["eve"]}, "GET", 403),
        ({"blacklist": ["ann"]}, "GET", 403),
        ({"allowed_by_methods": [{"user": "ann", "methods": ["POST"]}]}, "GET", 403),
        ({"allowed_by_methods": [{"user": "ann", "methods": ["POST"]}]}, "POST", 200),
        ({"type": "route_id", "whitelist": ["r"]}, "GET", 200),
        ({"type": "service_id", "whitelist": ["s"]}, "GET", 401),
    ],
)  # fmt: skip
async def test_consumers_are_restricted(conf: dict[str, Any], method: str, status: int) -> None:
    plugins = {"key-auth": {}, "consumer-restriction": conf}
    assert (await ask(plugins, ("apikey", "k"), method=method, consumers=CONSUMERS))[0] == status


async def test_calls_are_counted() -> None:
    plugins = {"limit-count": {"count": 2, "time_window": 60, "rejected_code": 429, "rejected_msg": "slow"}}
    for times, status, left in ((1, 200, "1"), (2, 200, "0"), (3, 429, "0")):
        got, headers, body = await ask(plugins, times=times)
        assert (got, headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == (status, "2", left)
    assert body == b'{"error_msg":"slow"}\n'
    assert headers["X-RateLimit-Reset"] in ("59", "60")


# --- what is put on requests and answers


async def test_a_request_has_an_id_which_the_answer_names() -> None:
    behind = Behind()
    _, headers, _ = await ask({"request-id": {}}, behind=behind)
    assert dict(behind.sent[0][2])["X-Request-Id"] == headers["X-Request-Id"]
    assert (await ask({"request-id": {"header_name": "X-A"}}, ("x-a", "mine")))[1]["X-A"] == "mine"
    assert (await ask({"request-id": {"header_name": "X-Up"}}, ("X-Up", "mine")))[1]["X-Up"] == "1"


@pytest.mark.parametrize(
    ("conf", "origin", "allowed", "varies"),
    [
        ({}, "http://a", "*", False), ({"allow_origins": "http://a"}, "http://a", "http://a", True),
        ({"allow_origins": "http://a"}, "http://b", None, True),
        ({"allow_origins": "http://a,http://b"}, "http://b", "http://b", True),
        ({"allow_origins": "**"}, "http://z", "http://z", True),
        ({"allow_origins_by_regex": [r"\.test$"]}, "http://a.test", "http://a.test", False),
        ({"allow_origins_by_regex": [r"\.test$"]}, "http://a.com", None, False),
    ],
)  # fmt: skip
async def test_browsers_are_told_who_may_read(
    conf: dict[str, Any], origin: str, allowed: str | None, *, varies: bool
) -> None:
    _, headers, _ = await ask({"cors": conf}, ("Origin", origin))
    assert headers.get("Access-Control-Allow-Origin") == allowed
    assert ("Vary" in headers) == varies
    assert ("Access-Control-Max-Age" in headers) == (allowed is not None)


async def test_browsers_that_ask_first_are_answered_here() -> None:
    behind = Behind()
    status, headers, body = await ask({"cors": {}}, ("Origin", "http://a"), method="OPTIONS", behind=behind)
    assert (status, body, headers["Access-Control-Allow-Methods"], behind.sent) == (200, b"", "*", [])


async def test_echo_puts_something_around_the_body_of_any_answer() -> None:
    conf = {"before_body": "<", "after_body": ">", "headers": {"X-Echo": 1}}
    _, headers, body = await ask({"echo": conf})
    assert (body, headers["X-Echo"], "Content-Length" in headers) == (b"<ok>", "1", False)
    both = {"echo": {"body": "E"}, "fault-injection": {"abort": {"http_status": 404}}}
    assert (await ask(both))[::2] == (404, b"E")


@pytest.mark.parametrize(
    ("conf", "header", "address"),
    [
        ({"source": "http_x_a"}, "10.9.8.7:55", "10.9.8.7"), ({"source": "http_x_a"}, "[2001:db8::2]:7", "2001:db8::2"),
        ({"source": "http_x_a"}, "10.9.8.7:0", "127.0.0.1"), ({"source": "http_x_a"}, "some", "127.0.0.1"),
        ({"source": "http_x_a", "trusted_addresses": ["10.0.0.1"]}, "10.9.8.7", "127.0.0.1"),
        ({"source": "http_x_forwarded_for"}, "1.2.3.4, 5.6.7.8", "5.6.7.8"),
        (
            {"source": "http_x_forwarded_for", "recursive": True, "trusted_addresses": ["127.0.0.1", "5.6.7.8"]},
            "1.2.3.4, 5.6.7.8", "1.2.3.4",
        ),
    ],
)  # fmt: skip
async def test_the_client_s_address_may_be_elsewhere(conf: dict[str, Any], header: str, address: str) -> None:
    behind = Behind()
    await ask({"real-ip": conf}, ("X-A", header), ("X-Forwarded-For", header), behind=behind)
    assert dict(behind.sent[0][2])["X-Real-IP"] == address


async def test_response_rewrite_looks_at_the_answer_first() -> None:
    for rule, holds in (
        (["status", "==", 404], True), (["status", ">=", 500], False), (["upstream_status", "==", "404"], True),
        (["sent_http_x_up", "~~", "^1"], True), (["arg_a", "==", "2"], False),
    ):  # fmt: skip
        conf = {"vars": [rule], "headers": {"set": {"X-V": "y", "X-Up": "$none"}}}
        _, headers, _ = await ask({"response-rewrite": conf}, path="/r/x?a=1", behind=Behind(404))
        assert ("X-V" in headers, "X-Up" in headers) == (holds, not holds), rule


# --- beside a runner


async def test_the_order_is_that_of_priorities(tmp_path: Path) -> None:
    change = [replies.encode_rewrite(0, Rewrite(args=[("a", "2")]))]
    async with gateway(tmp_path, change, plugins={**PRE, **POST, "redirect": {"uri": "/n?a=$arg_a"}}) as seen:
        assert b"\r\nLocation: /n?a=2\r\n" in await seen.send(request())
    assert [name.split("#")[2] for name in seen.prepared] == ["ext-plugin-pre-req"]


async def test_a_priority_may_be_another(tmp_path: Path) -> None:
    blocker = {"block_rules": ["^/r"], "_meta": {"priority": 12001}}
    async with gateway(tmp_path, plugins={**PRE, "uri-blocker": blocker}) as seen:
        assert (await seen.send(request())).startswith(b"HTTP/1.1 403 ")
    assert seen.prepared == []


async def test_a_runner_is_asked_only_if_the_condition_holds(tmp_path: Path) -> None:
    pre = {"ext-plugin-pre-req": {**PRE["ext-plugin-pre-req"], "_meta": {"filter": [["http_x_a", "==", "1"]]}}}
    async with gateway(tmp_path, plugins=pre) as seen:
        await seen.send(request("X-A: 2"))
        assert seen.calls == []
        await seen.send(request("X-A: 1"))
        assert len(seen.calls) == 1


async def test_what_can_t_be_done_is_refused_by_name() -> None:
    for plugins, word in (
        ({"limit-count": {"count": 1, "time_window": 1, "policy": "redis"}}, "limit-count: .*policy: local"),
        ({"mocking": {"response_schema": {}}}, "mocking: .*response_example"),
        ({"redirect": {}}, "redirect: one of `uri`"), ({"uri-blocker": {"block_rules": ["("]}}, "uri-blocker: "),
        ({"key-auth": {"anonymous_consumer": "a"}}, "anonymous_consumer"),
        ({"cors": {"allow_credential": True}}, "allow_credential"), ({"request-id": {"algorithm": "nanoid"}}, "uuid"),
        ({"response-rewrite": {"status_code": 101}}, "response-rewrite: `status_code`"),
        ({"echo": {"body": "", "_meta": {"filter": ["x"]}}}, "_meta.filter: conditions are a list of lists"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            build_routes({"routes": [{"id": "r", "uri": "/", "plugins": plugins}]})


async def test_what_a_global_rule_answers_only_global_rules_change() -> None:
    stop = {"fault-injection": {"abort": {"http_status": 403, "body": "no"}}}
    own = {"response-rewrite": {"status_code": 202}}
    rules = [{"id": "g", "plugins": stop}, {"id": "h", "plugins": {"echo": {"after_body": "!"}}}]
    status, _, body = await ask(own, global_rules=rules)
    assert (status, body) == (403, b"no!")
    assert (await ask({**own, **stop}, global_rules=rules[1:]))[::2] == (202, b"no!")


# --- conditions


def exchange() -> Exchange:
    headers = [("Host", "gw.test"), ("X-A", "1"), ("Cookie", "c=d")]
    return Exchange(ClientRequest("GET", "/r/x?a=1&n=7&z", headers, "127.0.0.1"))


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ([], True), ([["arg_a", "==", "1"]], True), ([["arg_a", "==", 1]], True), ([["arg_a", "~=", "1"]], False),
        ([["arg_none", "~=", 1]], True), ([["arg_none", "==", 1]], False), ([["arg_a", "1"]], True),
        ([["arg_n", ">", 5], ["arg_n", "<=", "7"]], True), ([["arg_n", "<", "x"]], False),
        ([["uri", "~~", "/x$"]], True), ([["uri", "~*", "/X$"]], True), ([["arg_none", "~~", "."]], False),
        ([["arg_a", "in", ["0", "1"]]], True), ([["arg_a", "in", [1]]], False), ([["arg_a", "!", "in", ["1"]]], False),
        ([["arg_a", "has", "1"]], False), ([["arg_z", "==", "true"]], False),
        ([["remote_addr", "ipmatch", ["127.0.0.0/8"]]], True), ([["remote_addr", "!", "ipmatch", ["::1"]]], True),
        (["OR", ["arg_a", "==", "2"], ["cookie_c", "==", "d"]], True),
        (["!OR", ["arg_a", "==", "1"], ["host", "x"]], False),
        (["!AND", ["arg_a", "==", "1"], ["arg_n", "==", 8]], True),
        (["AND", ["OR", ["arg_a", "==", "2"], ["http_x_a", "==", "1"]], ["request_method", "==", "GET"]], True),
    ],
)  # fmt: skip
def test_conditions(rule: list[Any], *, holds: bool) -> None:
    seen = exchange()
    assert condition_of(rule)(lambda name: lua_value(seen, name)) is holds


@pytest.mark.parametrize(
    "rule", ["x", ["arg_a", "==", "1"], [["arg_a", "?", "==", "1"]], [["arg_a", "=~", "1"]], ["OR", ["a", "b"]], [[]]]
)
def test_conditions_that_are_none(rule: object) -> None:
    with pytest.raises(ValueError):
        condition_of(rule)


# --- which route


def found(method: str, path: str, *routes: dict[str, Any], host: str = "h", **more: Any) -> str | None:
    content = {"routes": [{"id": str(number), **route} for number, route in enumerate(routes)]}
    route = build_routes(content, default_upstream=NODE).find(method, host, path, **more)
    return None if route is None else route.id


@pytest.mark.parametrize(
    ("uri", "path", "matches"),
    [
        ("/a", "/a", True), ("/a", "/a/", False), ("/a/*", "/a/", True), ("/a/*", "/a", False), ("/a*", "/ab/c", True),
        ("/a/*/b", "/a/x/y/b", True), ("/a/*/b", "/a/x/c", False), ("/a/*x", "/a/q", True), ("/a*x", "/abc", True),
        ("/a/:id", "/a/7", False), ("/a/:id", "/a/:id", True), ("/a.c/*", "/abc/x", False), ("/a+/*", "/a+/x", False),
        ("/a/*/", "/a/b/", True), ("/*/:id", "/a/7", True), ("/*/:id", "/a/", False), ("/(/*", "/(/x", False),
    ],
)  # fmt: skip
def test_paths_match_as_apisix_s_router_has_them(uri: str, path: str, *, matches: bool) -> None:
    assert (found("GET", path, {"uri": uri}) is not None) is matches


def test_routes_have_conditions_and_addresses_and_the_next_best_is_taken() -> None:
    routes = (
        {"uri": "/a/b", "vars": [["arg_a", "==", "1"]]}, {"uri": "/a/*", "remote_addrs": ["10.0.0.0/8"]},
        {"uri": "/*", "priority": 5}, {"uri": "/*", "methods": ["PUT"], "priority": 9},
    )  # fmt: skip
    assert found("GET", "/a/b", *routes, ask={"arg_a": "1"}.get) == "0"
    assert found("GET", "/a/b", *routes, address="10.1.1.1") == "1"
    assert found("GET", "/a/b", *routes) == "2"
    assert found("PUT", "/z", *routes) == "3"
    for field, word in (
        ({"remote_addrs": ["x"]}, "no address"),
        ({"vars": ["x"]}, "conditions"),
        ({"filter_func": ""}, "filter_func"),
    ):
        with pytest.raises(ConfigError, match=word):
            found("GET", "/", {"uri": "/", **field})


# --- an answer that becomes another one


@pytest.mark.parametrize(
    ("stop", "conf", "status", "kind", "length", "body"),
    [
        ((204, b""), {"status_code": 202}, 202, None, "0", b""),
        ((204, b""), {"status_code": 202, "body": "RB"}, 202, None, None, b"RB"),
        ((204, b"own"), {"status_code": 202, "body": "RB"}, 202, "text/plain; charset=utf-8", None, b"RB"),
        ((304, b"own"), {"status_code": 202}, 202, None, None, b"own"),
        ((200, b"own"), {"status_code": 304}, 304, "text/plain; charset=utf-8", None, b""),
        ((404, b""), {"status_code": 304}, 304, "text/html; charset=utf-8", "225", b""),
        ((418, b""), {"status_code": 404}, 404, None, "0", b""),
        ((200, b"own"), {"status_code": 204, "body": "RB"}, 204, None, None, b""),
    ],
)
async def test_what_nginx_began_with_shows_in_what_it_ends_with(
    tmp_path: Path, stop: tuple[int, bytes], conf: dict[str, Any], status: int, kind: str | None,
    length: str | None, body: bytes,
) -> None:  # fmt: skip
    answers = [replies.encode_stop(0, Stop(stop[0], (), stop[1]))]
    async with gateway(tmp_path, answers, plugins={**PRE, "response-rewrite": conf}) as seen:
        head, _, rest = (await seen.send(request())).partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = dict(each.split(": ", 1) for each in lines)
    assert int(line.split()[1]) == status
    assert (headers.get("Content-Type"), headers.get("Content-Length")) == (kind, length)
    if "Transfer-Encoding" in headers:
        assert rest.split(b"\r\n")[1] == body
    else:
        assert rest == body


async def test_a_204_that_was_printed_and_becomes_another_is_kept_back(tmp_path: Path) -> None:
    plugins = {**PRE, "response-rewrite": {"status_code": 202}}
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(204, (), b"own"))], plugins=plugins) as seen:
        assert await seen.send_for(request()) == b""


async def test_an_upstreams_answer_loses_what_a_204_can_t_have() -> None:
    status, headers, body = await ask({"response-rewrite": {"status_code": 204, "body": "RB"}})
    assert (status, "Content-Length" in headers, body) == (204, False, b"")


async def test_the_gateway_s_name_and_the_date_may_be_changed() -> None:
    _, headers, _ = await ask({"response-rewrite": {"headers": {"remove": ["Server", "Date"]}}, "mocking": MOCK})
    assert {"Server", "Date"}.isdisjoint(headers)
    _, headers, _ = await ask({"response-rewrite": {"headers": {"set": {"Server": "me"}}}, "mocking": MOCK})
    assert headers["Server"] == "me"
