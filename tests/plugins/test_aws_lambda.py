"""aws-lambda: what functions get, what clients get of what they return, and what happens when something fails."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest

from gatewright import ConfigError, Plugin, Request, Secret, testing
from gatewright.plugins._shared.targets import target_to_pass_on
from gatewright.plugins.aws_lambda import AwsLambda
from gatewright.plugins.aws_lambda.answers import BadAnswerError, answer_of
from gatewright.plugins.aws_lambda.options import AwsLambdaConfig
from gatewright.plugins.aws_lambda.signing import CredentialsError, Signer
from tests.plugins.harness import Gateway
from tests.plugins.lambda_server import LambdaServer, slow

PLUGINS = ["aws-lambda"]
KEYS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}


@pytest.fixture(scope="module")
def server() -> Iterator[LambdaServer]:
    server = LambdaServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def fresh(server: LambdaServer) -> None:
    server.seen.clear()
    server.replies.clear()
    server.functions = {"echo": lambda event: {"statusCode": 200, "body": json.dumps(event)}}


def conf(server: LambdaServer, function: str = "echo", **more: Any) -> tuple[str, dict[str, Any]]:
    return "aws-lambda", {"function": function, "region": "eu-west-1", "endpoint": server.url, **KEYS, **more}


# --- what functions get

# Amazon's example of payload format 2.0, as far as a gateway of one's own has what is in it.
V2 = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/my/path",
    "rawQueryString": "parameter1=value1&parameter1=value2&parameter2=value",
    "cookies": ["cookie1", "cookie2"],
    "headers": {"header1": "value1", "header2": "value1,value2", "user-agent": "agent"},
    "queryStringParameters": {"parameter1": "value1,value2", "parameter2": "value"},
    "requestContext": {
        "domainName": "id.execute-api.us-east-1.amazonaws.com",
        "domainPrefix": "id",
        "http": {
            "method": "POST",
            "path": "/my/path",
            "protocol": "HTTP/1.1",
            "sourceIp": "192.0.2.1",
            "userAgent": "agent",
        },
        "requestId": "id",
        "routeKey": "$default",
        "stage": "$default",
    },
    "body": "Hello from Lambda",
    "isBase64Encoded": False,
}
# The same of format 1.0.
V1 = {
    "version": "1.0",
    "path": "/my/path",
    "httpMethod": "POST",
    "headers": {"header1": "value1", "header2": "value2", "cookie": "cookie1; cookie2"},
    "multiValueHeaders": {"header1": ["value1"], "header2": ["value1", "value2"], "cookie": ["cookie1; cookie2"]},
    "queryStringParameters": {"parameter1": "value2", "parameter2": "value"},
    "multiValueQueryStringParameters": {"parameter1": ["value1", "value2"], "parameter2": ["value"]},
    "requestContext": {
        "domainName": "id.execute-api.us-east-1.amazonaws.com",
        "domainPrefix": "id",
        "extendedRequestId": "id",
        "httpMethod": "POST",
        "identity": {"accessKey": None, "sourceIp": "192.0.2.1", "userAgent": "agent", "userArn": None},
        "path": "/my/path",
        "protocol": "HTTP/1.1",
        "requestId": "id",
        "stage": "$default",
    },
    "pathParameters": None,
    "stageVariables": None,
    "body": "Hello from Lambda",
    "isBase64Encoded": False,
}
V1_KEYS = {
    "": "version resource path httpMethod headers multiValueHeaders queryStringParameters "
    "multiValueQueryStringParameters requestContext pathParameters stageVariables body isBase64Encoded",
    "requestContext": "accountId apiId authorizer domainName domainPrefix extendedRequestId httpMethod identity path "
    "protocol requestId requestTime requestTimeEpoch resourceId resourcePath stage",
    "identity": "accessKey accountId caller cognitoAmr cognitoAuthenticationProvider cognitoAuthenticationType "
    "cognitoIdentityId cognitoIdentityPoolId principalOrgId sourceIp user userAgent userArn",
}


def holds(event: Any, wanted: Any) -> bool:
    """Whether all that is wanted is in an event."""
    if isinstance(wanted, dict):
        return isinstance(event, dict) and all(
            name in event and holds(event[name], each) for name, each in wanted.items()
        )
    return bool(event == wanted)


@pytest.mark.parametrize("payload", ["v2", "v1"])
@pytest.mark.parametrize(
    ("headers", "scheme", "forwarded"),
    [
        ({}, "http", ("192.0.2.1", "http", "80")),
        ({}, "https", ("192.0.2.1", "https", "443")),
        ({"host": "shop.example:8443"}, "https", ("192.0.2.1", "https", "8443")),
        (
            {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "x-forwarded-port": "443"},
            "http",
            ("203.0.113.9, 192.0.2.1", "https", "443"),
        ),
        ({"x-forwarded-proto": "gopher"}, "http", ("192.0.2.1", "http", "80")),
    ],
)
def test_functions_learn_who_asks_and_how(
    gateway: Gateway, server: LambdaServer, payload: str, headers: Any, scheme: str, forwarded: tuple[str, ...]
) -> None:
    route = gateway.route(conf(server, payload=payload))
    event = route.request(headers=headers, client="192.0.2.1", variables={"scheme": scheme}).json
    assert tuple(event["headers"][f"x-forwarded-{name}"] for name in ("for", "proto", "port")) == forwarded


@pytest.mark.parametrize(("payload", "wanted"), [("v2", V2), ("v1", V1)])
def test_events_are_those_that_amazon_documents(
    gateway: Gateway, server: LambdaServer, payload: str, wanted: Any
) -> None:
    outcome = gateway.route(conf(server, payload=payload)).request(
        "/my/path",
        method="POST",
        headers={
            "host": "id.execute-api.us-east-1.amazonaws.com",
            "Header1": "value1",
            "header2": ["value1", "value2"],
            "cookie": "cookie1; cookie2",
            "user-agent": "agent",
            "x-request-id": "id",
        },
        query=[("parameter1", "value1"), ("parameter1", "value2"), ("parameter2", "value")],
        body=b"Hello from Lambda",
        client="192.0.2.1",
    )
    event = outcome.json
    assert outcome.headers["content-type"] == "application/json"
    assert holds(event, wanted), json.dumps(event, indent=1)
    context = event["requestContext"]
    epoch = context["timeEpoch" if payload == "v2" else "requestTimeEpoch"]
    assert abs(epoch / 1000 - time.time()) < 20
    text = context["time" if payload == "v2" else "requestTime"]
    assert abs(datetime.strptime(text, "%d/%b/%Y:%H:%M:%S %z").timestamp() - epoch / 1000) < 2
    if payload == "v1":
        assert set(event) == set(V1_KEYS[""].split())
        assert set(context) == set(V1_KEYS["requestContext"].split())
        assert set(context["identity"]) == set(V1_KEYS["identity"].split())
    else:
        assert "cookie" not in event["headers"]
        assert set(event) == {*V2}
    _, path, headers, _ = server.seen[-1]
    assert path == "/2015-03-31/functions/echo/invocations"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-west-1/lambda/aws4_request" in headers["authorization"]


@pytest.mark.parametrize(
    ("body", "headers", "is_base64"),
    [
        (b"", {}, False),
        ("grüße".encode(), {"content-type": "text/plain"}, False),
        (b'{"a": 1}', {"content-type": "application/json; charset=utf-8"}, False),
        (b"a=1", {"content-type": "application/x-www-form-urlencoded"}, False),
        (b"\xff\x00", {"content-type": "text/plain"}, True),
        (b"PK", {"content-type": "application/zip"}, True),
        (b"text", {"content-type": "text/plain", "content-encoding": "gzip"}, True),
    ],
)
def test_bodies_arrive_whole(
    gateway: Gateway, server: LambdaServer, body: bytes, headers: dict[str, str], is_base64: bool
) -> None:
    event = gateway.route(conf(server)).request(method="POST", headers=headers, body=body).json
    assert event["isBase64Encoded"] is is_base64
    content = event.get("body")
    assert (base64.b64decode(content) if is_base64 else (content or "").encode()) == body


SENT = [
    # what the client sent; what goes on: path and query byte for byte
    ("/a%20b/%c3%bc", "/a b/ü", "n=a%26b%20%3d&%C3%BC="),
    ("/a%2Fb", "/a/b", "x=1&x=%32&flag"),
    ("//a/./b/../c/", "/a/c/", "colors[]=blue&colors[]=red"),
    ("/a", "/a", "b=2&a=1&b=1"),
]
"""What clients sent: the path, as plugins see it, and the query."""


@pytest.mark.parametrize(("raw", "path", "query"), SENT)
def test_paths_and_queries_are_those_that_were_sent(
    gateway: Gateway, server: LambdaServer, raw: str, path: str, query: str
) -> None:
    items = parse_qsl(query, keep_blank_values=True)
    variables = {"request_uri": f"{path}?{query}" if gateway.kind == "apisix" else f"{raw}?{query}"}
    if gateway.kind == "apisix":
        variables["real_request_uri"] = f"{raw}?{query}"
    event = gateway.route(conf(server)).request(path, query=items, variables=variables).json
    assert (event["rawPath"], event["rawQueryString"]) == (raw, query)
    assert event["requestContext"]["http"]["path"] == raw
    grouped: dict[str, list[str]] = {}
    for name, value in items:
        grouped.setdefault(name, []).append(value)
    assert event["queryStringParameters"] == {name: ",".join(values) for name, values in grouped.items()}
    assert "cookies" not in event and "body" not in event


class MovesIt(Plugin):
    """A plugin before, which sends the request elsewhere."""

    name = "moves-it"
    priority = 10_000

    async def on_request(self, request: Request) -> None:
        request.path = "/a b/ü"
        request.query.set_all("n", ["a&b ="])


def test_what_a_plugin_before_changed_is_escaped(server: LambdaServer) -> None:
    with Gateway("apisix", own=[MovesIt]) as gateway:
        route = gateway.route(("moves-it", {}), conf(server))
        event = route.request("/x", query=[("n", "1")], variables={"real_request_uri": "/x?n=1"}).json
    assert (event["rawPath"], event["rawQueryString"]) == ("/a%20b/%C3%BC", "n=a%26b+%3D")


@pytest.mark.parametrize(
    ("target", "path", "items", "wanted"),
    [
        ("http://shop.example/a%2Fb?x=%32", "/a/b", [("x", "2")], ("/a%2Fb", "x=%32")),
        ("*", "/", [], ("/", "")),
        ("", "/a b", [("x", "ü")], ("/a%20b", "x=%C3%BC")),
        ("/a|\udcff?x=<\udcff>", "/a|\udcff", [("x", "<\udcff>")], ("/a|%FF", "x=<%FF>")),
        ("/a/b", "/a/b/", [], ("/a/b/", "")),
        ("/%zz", "/%zz", [], ("/%zz", "")),
        ("/?=1&a=2&&", "/", [("a", "2")], ("/", "=1&a=2&&")),
        ("/?a=2", "/", [("a", "3")], ("/", "a=3")),
        ("/?" + "&".join(f"a{n}={n}" for n in range(150)), "/", [(f"a{n}", str(n)) for n in range(100)],
         ("/", "&".join(f"a{n}={n}" for n in range(150)))),
    ],
)  # fmt: skip
async def test_a_target_is_passed_on_as_it_came(
    target: str, path: str, items: list[tuple[str, str]], wanted: tuple[str, str]
) -> None:
    request = testing.Request(path=path, query=items, variables={"real_request_uri": target})
    assert await target_to_pass_on(request) == wanted


def test_the_body_alone(gateway: Gateway, server: LambdaServer) -> None:
    server.functions["sum"] = lambda event: {"sum": event["a"] + event["b"]}
    outcome = gateway.route(conf(server, "sum:live", payload="body")).request(method="POST", body=b'{"a": 1, "b": 2}')
    assert (outcome.status, outcome.json) == (200, {"sum": 3})
    assert server.seen[-1][1] == "/2015-03-31/functions/sum%3Alive/invocations"


def test_an_event_is_answered_once_lambda_has_taken_it(gateway: Gateway, server: LambdaServer) -> None:
    outcome = gateway.route(conf(server, invocation="event", qualifier="7")).request(method="POST", body=b"x")
    assert (outcome.status, outcome.body) == (202, b"")
    assert server.seen[-1][1].endswith("/invocations?Qualifier=7")
    assert server.seen[-1][2]["x-amz-invocation-type"] == "Event"


# --- what clients get


@pytest.mark.parametrize(
    ("returned", "form", "status", "headers", "body"),
    [
        # format 2.0 infers an answer from what has no status
        ("Hello from Lambda!", "v2", 200, [("content-type", "application/json")], b"Hello from Lambda!"),
        ({"message": "Hi"}, "v2", 200, [("content-type", "application/json")], b'{"message": "Hi"}'),
        (None, "v2", 200, [("content-type", "application/json")], b"null"),
        (
            {
                "cookies": ["cookie1=a", "cookie2=b"],
                "isBase64Encoded": True,
                "statusCode": 201,
                "headers": {"Headername": "headervalue", "X-N": 7, "X-T": True},
                "body": "/wA=",
            },
            "v2",
            201,
            [("headername", "headervalue"), ("x-n", "7"), ("x-t", "true"), ("set-cookie", "cookie1=a"),
             ("set-cookie", "cookie2=b"), ("content-type", "application/json")],
            b"\xff\0",
        ),
        ({"statusCode": "204"}, "v2", 204, [], b""),
        (
            {
                "statusCode": 200,
                "headers": {"x-a": "lost", "x-b": "1", "Content-Type": "text/html"},
                "multiValueHeaders": {"X-A": ["1", "2"], "Set-Cookie": ["a=1", "b=2"]},
                "body": "<p>",
            },
            "v1",
            200,
            [("x-b", "1"), ("content-type", "text/html"), ("x-a", "1"), ("x-a", "2"), ("set-cookie", "a=1"),
             ("set-cookie", "b=2")],
            b"<p>",
        ),
        (
            {"statusCode": 200, "headers": {"Content-Length": "9", "connection": "close"}, "body": {"a": 1}},
            "v1", 200, [("content-type", "application/json")], b'{"a":1}',
        ),
        ([1], "body", 200, [("content-type", "application/json")], b"[1]"),
    ],
)  # fmt: skip
def test_what_a_function_returns_is_an_answer(
    returned: Any, form: Any, status: int, headers: list[tuple[str, str]], body: bytes
) -> None:
    answer = answer_of(json.dumps(returned).encode(), form)
    assert (answer.status, answer.content) == (status, body)
    assert sorted(answer.headers.multi_items()) == sorted(headers)


@pytest.mark.parametrize(
    ("returned", "form"),
    [
        ({"message": "no status"}, "v1"),
        ("text", "v1"),
        ({"statusCode": "OK"}, "v2"),
        ({"statusCode": 99}, "v2"),
        ({"statusCode": 200.5}, "v2"),
        ({"statusCode": True}, "v2"),
        ({"statusCode": 200, "headers": ["a"]}, "v2"),
        ({"statusCode": 200, "headers": {"a": ["b"]}}, "v2"),
        ({"statusCode": 200, "headers": {"a b": "c"}}, "v2"),
        ({"statusCode": 200, "headers": {"a": "b\r\nset-cookie: c"}}, "v2"),
        ({"statusCode": 200, "cookies": "a"}, "v2"),
        ({"statusCode": 200, "body": "no base64!", "isBase64Encoded": True}, "v2"),
    ],
)
def test_what_is_no_answer_is_refused(returned: Any, form: Any) -> None:
    with pytest.raises(BadAnswerError):
        answer_of(json.dumps(returned).encode(), form)


def test_repeated_headers_reach_the_client(gateway: Gateway, server: LambdaServer) -> None:
    server.functions["f"] = lambda event: {"statusCode": 404, "cookies": ["a=1", "b=2"], "body": "gone"}
    outcome = gateway.route(conf(server, "f")).request()
    assert (outcome.status, outcome.body, outcome.headers["set-cookie"]) == (404, b"gone", "a=1, b=2")


# --- what fails


def crash(event: Any) -> Any:
    raise RuntimeError("the database's password is swordfish")


@pytest.mark.parametrize(("function", "status"), [("crash", 502), ("missing", 502), ("malformed", 502), ("slow", 504)])
def test_clients_learn_nothing_of_the_inside(
    gateway: Gateway, server: LambdaServer, function: str, status: int
) -> None:
    server.functions |= {"crash": crash, "malformed": lambda event: {"statusCode": "?"}, "slow": slow(1)}
    outcome = gateway.route(conf(server, function, timeout=0.3)).request()
    assert outcome.status == status
    assert set(outcome.json) == {"message"}
    for inner in (b"swordfish", b"secret.py", b"arn:", b"RuntimeError", b"statusCode"):
        assert inner not in outcome.body


THROTTLED = (
    429,
    {"x-amzn-errortype": "TooManyRequestsException", "retry-after": "0"},
    b'{"Message": "Slow."}',
)
BROKEN = (500, {"x-amzn-errortype": "ServiceException"}, b'{"Message": "oops"}')


@pytest.mark.parametrize(
    ("replies", "more", "status", "asked"),
    [
        ([THROTTLED] * 2, {}, 200, 3),
        ([THROTTLED] * 4, {}, 503, 4),
        ([THROTTLED], {"retries": 0}, 503, 1),
        ([BROKEN], {}, 502, 1),
        ([BROKEN], {"retry_errors": True}, 200, 2),
        ([(413, {"x-amzn-errortype": "RequestTooLargeException"}, b"{}")], {}, 413, 1),
        ([(403, {"x-amzn-errortype": "AccessDeniedException"}, b'{"Message": "arn:..."}')], {}, 502, 1),
    ],
)
def test_what_lambda_refuses_is_tried_again_where_that_is_safe(
    gateway: Gateway, server: LambdaServer, replies: list[Any], more: dict[str, Any], status: int, asked: int
) -> None:
    server.replies[:] = replies
    outcome = gateway.route(conf(server, **more)).request()
    assert (outcome.status, len(server.seen)) == (status, asked)
    assert ("retry-after" in outcome.headers) is (status == 503)


def test_tries_end_with_the_timeout(gateway: Gateway, server: LambdaServer) -> None:
    server.replies[:] = [(429, {"retry-after": "5"}, b"{}")] * 9
    began = time.monotonic()
    assert gateway.route(conf(server, timeout=0.3)).request().status == 504
    assert time.monotonic() - began < 3
    assert len(server.seen) == 1


def test_who_is_down_is_left_alone_for_a_while() -> None:
    plugin = AwsLambda({"function": "f", "region": "eu-west-1", "endpoint": "http://127.0.0.1:1", "retries": 0, **KEYS})

    async def run() -> list[int]:
        from gatewright.testing import Request

        await plugin.setup()
        statuses = [(await plugin.on_request(Request())).status for _ in range(7)]
        await plugin.teardown()
        return statuses

    import asyncio

    assert asyncio.run(run()) == [502] * 5 + [503] * 2


def test_bodies_beyond_the_limit(gateway: Gateway, server: LambdaServer) -> None:
    assert gateway.route(conf(server, max_body=3)).request(method="POST", body=b"1234").status == 413
    assert not server.seen


# --- a function's own URL


def test_a_functions_url(gateway: Gateway, server: LambdaServer) -> None:
    server.functions["url"] = lambda event: {"status": 418, "body": json.dumps(event)}
    config = {"function_url": server.url + "/", "region": "eu-west-1", **KEYS}
    outcome = gateway.route(("aws-lambda", config)).request(
        "/a b",
        method="PUT",
        headers={
            "authorization": "Basic x",
            "x-a": ["1", "2"],
            "connection": "x-hop",
            "x-hop": "1",
            "x-forwarded-for": "9",
        },
        query=[("n", "1")],
        body=b"\xff",
        client="192.0.2.1",
    )
    assert outcome.status == 418
    assert outcome.json == {"path": "/a%20b?n=1", "method": "PUT", "body": "\xff"}
    assert outcome.headers["set-cookie"] == "a=1, b=2"
    assert "connection" not in outcome.headers
    headers = server.seen[-1][2]
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 ")
    assert headers["host"] == server.url.removeprefix("http://")
    assert (headers["x-a"], headers["x-forwarded-for"]) == ("1, 2", "9, 192.0.2.1")
    assert "x-b" not in headers


def test_a_url_gets_the_path_and_the_query_that_were_sent(gateway: Gateway, server: LambdaServer) -> None:
    server.functions["url"] = lambda event: {"status": 200, "body": json.dumps(event)}
    config = {"function_url": server.url, "region": "eu-west-1", **KEYS}
    sent = {"real_request_uri": "/a%2fb?n=%31+2&m", "request_uri": "/a%2fb?n=%31+2&m"}
    query = [("n", "1 2"), ("m", "")]
    signed = gateway.route(("aws-lambda", config)).request("/a/b", query=query, variables=sent)
    assert signed.json["path"] == "/a%2fb?n=1%202&m", "what is signed has one spelling"
    config |= {"function_url_auth": "none"}
    assert gateway.route(("aws-lambda", config)).request("/a/b", query=query, variables=sent).json["path"] == (
        "/a%2fb?n=%31+2&m"
    )


def test_an_open_url_gets_the_clients_own_authorization(gateway: Gateway, server: LambdaServer) -> None:
    server.functions["url"] = lambda event: {"status": 200, "body": ""}
    config = {"function_url": server.url, "function_url_auth": "none", "region": "eu-west-1"}
    assert gateway.route(("aws-lambda", config)).request(headers={"authorization": "Bearer x"}).status == 200
    assert server.seen[-1][2]["authorization"] == "Bearer x"
    server.replies[:] = [(502, {"x-amzn-errortype": "InternalServerErrorException"}, b'{"Message": "inner"}')]
    outcome = gateway.route(("aws-lambda", config)).request()
    assert (outcome.status, outcome.json) == (502, {"message": "Internal Server Error"})


def test_connections_are_used_again(server: LambdaServer) -> None:
    import asyncio

    from gatewright.testing import Request

    plugin = AwsLambda(conf(server)[1])
    before = server.connections

    async def run() -> None:
        await plugin.setup()
        for _ in range(5):
            assert (await plugin.on_request(Request())).status == 200
        await plugin.teardown()

    asyncio.run(run())
    assert server.connections == before + 1


# --- keys


def key_of(signer: Signer) -> str:
    import asyncio

    async def sign() -> str:
        await asyncio.to_thread(signer.find)
        headers = await signer.signed("POST", "https://lambda.eu-west-1.amazonaws.com/x", {}, b"")
        return headers["Authorization"].partition("Credential=")[2].partition("/")[0]

    return asyncio.run(sign())


def document(key: str) -> dict[str, str]:
    expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": expires, "Code": "Success"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><SessionToken>t</SessionToken><SecretAccessKey>s</SecretAccessKey>
<Expiration>{}</Expiration><AccessKeyId>AKidentity</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


@pytest.mark.parametrize("source", ["environment", "profile", "container", "instance", "identity", "configuration"])
def test_keys_come_from_the_usual_chain(
    source: str, environment: pytest.MonkeyPatch, server: LambdaServer, tmp_path: Any
) -> None:
    more: dict[str, Any] = {}
    if source == "environment":
        environment.setenv("AWS_ACCESS_KEY_ID", "AKenvironment")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "s")
        environment.setenv("AWS_REGION", "eu-north-1")
        environment.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    elif source == "profile":
        (tmp_path / "credentials").write_text("[p]\naws_access_key_id = AKprofile\naws_secret_access_key = s\n")
        more["profile"] = "p"
    elif source == "container":
        server.functions["/creds"] = lambda _: document("AKcontainer")
        environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/creds")
    elif source == "instance":
        place = "/latest/meta-data/iam/security-credentials/"
        server.functions |= {
            "/latest/api/token": lambda _: "token",
            place: lambda _: "role",
            f"{place}role": lambda _: document("AKinstance"),
        }
        environment.setenv("AWS_EC2_METADATA_DISABLED", "false")
        environment.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{server.url}/")
    elif source == "identity":
        server.functions["/"] = lambda body: STS.format(document("")["Expiration"])
        (tmp_path / "token").write_text("a token of the cluster's")
        environment.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gateway")
        environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        environment.setenv("AWS_ENDPOINT_URL_STS", server.url)
    else:
        (tmp_path / "secret").write_text("s\n")
        more |= {"access_key_id": Secret("AKconfiguration"), "secret_access_key": Secret(f"file:{tmp_path}/secret")}
    region = {} if source == "environment" else {"region": "eu-west-1"}
    signer = Signer(AwsLambdaConfig(function="f", **region, **more))
    assert key_of(signer) == f"AK{source}"
    expected = "eu-north-1" if source == "environment" else "eu-west-1"
    assert (signer.region, signer.endpoint) == (expected, f"https://lambda.{expected}.amazonaws.com")


def test_keys_are_renewed_before_they_expire(environment: pytest.MonkeyPatch, server: LambdaServer) -> None:
    import asyncio

    given: list[str] = []

    def credentials(_: Any) -> dict[str, str]:
        given.append(f"AK{len(given)}")
        expires = datetime.now(UTC) + (timedelta(minutes=3) if len(given) == 1 else timedelta(hours=1))
        return {**document(given[-1]), "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}

    async def sign() -> list[str]:
        await asyncio.to_thread(signer.find)
        signed = [await signer.signed("POST", "https://lambda/x", {}, b"") for _ in range(3)]
        return [headers["Authorization"].partition("Credential=")[2].partition("/")[0] for headers in signed]

    server.functions["/creds"] = credentials
    environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/creds")
    signer = Signer(AwsLambdaConfig(function="f", region="eu-west-1"))
    assert asyncio.run(sign()) == ["AK1", "AK1", "AK1"]
    assert given == ["AK0", "AK1"]


@pytest.mark.parametrize(
    ("config", "region", "endpoint"),
    [
        ({"function": "arn:aws:lambda:us-east-2:123456789012:function:f:live"}, "us-east-2", "https://lambda.us-east-2.amazonaws.com"),
        ({"function": "f", "region": "cn-north-1"}, "cn-north-1", "https://lambda.cn-north-1.amazonaws.com.cn"),
        ({"function_url": "https://x.lambda-url.eu-west-3.on.aws/"}, "eu-west-3", "https://x.lambda-url.eu-west-3.on.aws"),
    ],
)  # fmt: skip
def test_regions_and_addresses(
    config: dict[str, Any], region: str, endpoint: str, environment: pytest.MonkeyPatch
) -> None:
    signer = Signer(AwsLambdaConfig(**config))
    signer.find()
    assert (signer.region, signer.endpoint) == (region, endpoint)


def test_a_proxy_that_the_environment_names_is_used(
    gateway: Gateway, server: LambdaServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("HTTP_PROXY", server.url)
    name, config = conf(server, endpoint="http://lambda.example")
    assert gateway.route((name, config)).request("/a").status == 200
    (_, path, headers, _), *_ = server.seen
    assert path.startswith("http://lambda.example/2015-03-31/functions/echo/")
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 ")
    environment.setenv("NO_PROXY", "example")
    assert gateway.route((name, {**config, "retries": 0})).request("/a").status == 502, "there is no such host"


def test_without_region_or_keys_it_says_so(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="which region"):
        Signer(AwsLambdaConfig(function="f")).find()
    with pytest.raises(ConfigError, match="no-such-profile"):
        Signer(AwsLambdaConfig(function="f", region="eu-west-1", profile="no-such-profile")).find()
    with pytest.raises(CredentialsError, match="there are no AWS credentials"):
        key_of(Signer(AwsLambdaConfig(function="f", region="eu-west-1")))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "either"),
        ({"function": "f", "function_url": "https://x"}, "either"),
        ({"function": "a/b"}, "neither a function's name"),
        ({"function": "f:live", "qualifier": "7"}, "leave out `qualifier`"),
        ({"function": "f", "endpoint": "lambda"}, "is a URL"),
        ({"function": "f", "access_key_id": "x"}, "go together"),
        ({"function": "f", "profile": "p", **KEYS}, "either a `profile`"),
        ({"function_url": "https://x", "invocation": "event"}, "Lambda itself"),
        ({"function": "f", "secret_access_key": "", "access_key_id": "x"}, "must not be empty"),
    ],
)
def test_configurations_that_mean_nothing(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        AwsLambda(config)


# --- moto


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, dict[str, str]]]:
    """A server that checks signatures and rights, with a function and somebody who may call it."""
    import boto3
    from botocore.config import Config

    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "Running on http://127.0.0.1:" in line:
                    break
            url = lines[-1].partition("Running on ")[2].strip()
            post(f"{url}/moto-api/config", b'{"lambda": {"use_docker": false}}')
            given = {"endpoint_url": url, "region_name": "eu-west-1", "aws_access_key_id": "x",
                     "aws_secret_access_key": "x", "config": Config(retries={"total_max_attempts": 1})}  # fmt: skip
            iam, functions = boto3.client("iam", **given), boto3.client("lambda", **given)
            role = iam.create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
            functions.create_function(
                FunctionName="shop", Runtime="python3.12", Role=role, Handler="a.b", Code={"ZipFile": empty_zip()}
            )
            keys = {}
            for user, rights in (("caller", "lambda:*"), ("stranger", "s3:GetObject")):
                iam.create_user(UserName=user)
                statement = [{"Effect": "Allow", "Action": rights, "Resource": "*"}]
                policy = json.dumps({"Version": "2012-10-17", "Statement": statement})
                iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=policy)
                key = iam.create_access_key(UserName=user)["AccessKey"]
                keys[user] = key["AccessKeyId"], key["SecretAccessKey"]
            post(f"{url}/moto-api/reset-auth", b"0")  # from now on all are checked
            yield url, {f"{user}_{n}": each[n] for user, each in keys.items() for n in (0, 1)}  # type: ignore[misc]
        finally:
            process.kill()


def post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status in (200, 201)


def empty_zip() -> bytes:
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.py", "")
    return out.getvalue()


def test_moto_takes_the_signature_and_hands_the_payload_back(gateway: Gateway, moto: Any) -> None:
    url, keys = moto
    config = {"function": "shop", "region": "eu-west-1", "endpoint": url, "payload": "body"}

    def asked(key: str, secret: str, **more: Any) -> Any:
        given = {**config, "access_key_id": keys[key], "secret_access_key": keys.get(secret, secret), **more}
        return gateway.route(("aws-lambda", given)).request(method="POST", body='{"ü": [1]}'.encode())

    outcome = asked("caller_0", "caller_1")
    assert (outcome.status, outcome.json) == (200, {"ü": [1]})
    assert asked("caller_0", "caller_1", invocation="event").status == 202
    assert asked("caller_0", "wrong").status == 502
    assert asked("stranger_0", "stranger_1").status == 502
    post(f"{url}/moto-api/static/lambda-simple/response", json.dumps(
        {"results": [json.dumps({"statusCode": 201, "headers": {"x-a": "b"}, "body": "made"})], "region": "eu-west-1"}
    ).encode())  # fmt: skip
    outcome = asked("caller_0", "caller_1", payload="v2")
    assert (outcome.status, outcome.headers["x-a"], outcome.body) == (201, "b", b"made")
