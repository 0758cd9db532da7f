"""Bodies, arguments, headers and paths of requests, over both gateways' protocols."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic
import pytest

from gatewright import ConfigError
from gatewright.plugins.request_validator import RequestValidator
from tests.plugins.harness import Gateway, Outcome

PLUGINS = ["request-validator"]
GUIDE = {
    "schema": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 3},
            "email": {"type": "string", "format": "email"},
            "age": {"type": "number", "minimum": 18},
        },
        "required": ["name", "email"],
    }
}
ADA = {"name": "Ada", "email": "ada@example.com", "age": 36}


def as_text(config: dict[str, Any]) -> dict[str, Any]:
    """Schemas as JSON text, as Kong wants them."""
    names = ("schema", "query_schema", "headers_schema", "path_schema", "openapi", "documents")
    return {key: json.dumps(each) if key in names else each for key, each in config.items()}


def post(gateway: Gateway, config: dict[str, Any], body: Any = None, **request: Any) -> Outcome:
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    kind = request.pop("kind", "application/json")
    headers = {**({"content-type": kind} if kind and raw else {}), **request.pop("headers", {})}
    if raw:
        headers["content-length"] = str(len(raw))
    config = as_text(config) if gateway.kind != "apisix" else config
    return gateway.route(("request-validator", config)).request(
        request.pop("path", "/"), method=request.pop("method", "POST"), headers=headers, body=raw, **request
    )


def faults(outcome: Outcome) -> list[tuple[str, str, str]]:
    assert outcome.headers["content-type"] == "application/problem+json"
    assert (outcome.json["type"], outcome.json["status"]) == ("about:blank", outcome.status)
    return sorted((each["in"], each["pointer"], each.get("keyword", "")) for each in outcome.json["errors"])


# --- the body


def test_the_guides_configuration(gateway: Gateway) -> None:
    assert post(gateway, GUIDE, ADA).status == 0
    outcome = post(gateway, GUIDE, {"name": "A", "email": "nowhere", "age": 3})
    assert outcome.status == 400
    assert faults(outcome) == [
        ("body", "/age", "minimum"),
        ("body", "/email", "format"),
        ("body", "/name", "minLength"),
    ]
    assert faults(post(gateway, GUIDE, {})) == [("body", "", "required")] * 2
    assert post(gateway, GUIDE, method="GET").status == 0


def test_the_guides_plain_text(gateway: Gateway) -> None:
    outcome = post(gateway, {**GUIDE, "errors": "text"}, {**ADA, "age": 3})
    assert outcome.headers["content-type"] == "text/plain; charset=utf-8"
    assert outcome.body == b"The request is not valid: 3 is less than the minimum of 18"
    assert post(gateway, {**GUIDE, "errors": "text"}, b"{").body.startswith(b"The body is not valid JSON: ")


BAD_JSON = [
    b"{", b"", b"null", b"[]", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": Infinity}', b'{"a": 1, "a": 2}',
    b'{"a": {"b": 1, "b": 1}}', b'{"a": "\xff"}', b"\xef\xbb\xbf{}", json.dumps({}).encode("utf-16"), b"{} {}",
    b"{'a': 1}", b'{"a": "\\ud800"}', b'{"\\ud800": 1}',
    b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_JSON, ids=lambda body: repr(body[:20]))
def test_what_two_readers_might_read_in_two_ways(gateway: Gateway, body: bytes) -> None:
    outcome = post(gateway, {"schema": {"type": "object"}}, body)
    assert outcome.status == 400
    assert faults(outcome)


def test_limits(gateway: Gateway) -> None:
    config = {"schema": {}, "max_bytes": 100, "max_depth": 3, "max_faults": 2}
    assert post(gateway, config, "x" * 98).status == 0
    assert post(gateway, config, "x" * 99).status == 413
    assert post(gateway, config, [[[1]]]).status == 0
    assert post(gateway, config, [[[[]]]]).status == 400
    assert post(gateway, config, '[[[["').status == 0, "brackets in text are no levels"
    many = post(gateway, {**config, "schema": {"items": {"type": "string"}}}, [1, 2, 3, 4])
    assert len(many.json["errors"]) == 2


def test_which_bodies_are_looked_at(gateway: Gateway) -> None:
    config = {"schema": {"type": "object"}}
    assert post(gateway, config, method="GET").status == 0
    assert post(gateway, config, method="DELETE").status == 0
    assert post(gateway, config, [], method="DELETE").status == 400, "there is one, so it has to be right"
    assert post(gateway, config, method="POST").status == 400
    assert post(gateway, {**config, "methods": ["PUT"]}, method="POST").status == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=UTF-8"}, 0),
        ({"content-type": "application/vnd.x+json"}, 0),
        ({"content-type": "APPLICATION/JSON"}, 0),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-type": "application/json; charset = utf-16"}, 415),
        ({"content-type": "application/json; charset=utf-8; charset=utf-7"}, 415),
        ({"content-type": 'application/json; x="charset=utf-8"; charset=utf-7'}, 415),
        ({"content-type": "application/json; charset*=us-ascii'en'utf-7"}, 415),
        ({"content-type": 'application/json;charset="utf-8"'}, 0),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": ["application/json", "text/plain"]}, 400),
        ({}, 0),
    ],
)
def test_media_types(gateway: Gateway, headers: dict[str, Any], status: int) -> None:
    assert post(gateway, {"schema": {}}, {}, kind="", headers=headers).status == status


def test_numbers_are_sent_on_as_they_are_written(gateway: Gateway) -> None:
    config = {"schema": {"properties": {"currency": {"default": "EUR"}}}}
    body = b'{"a": 1.10, "b": 12345678901234567890.12345678901234567890, "c": 123456789012345678901234567890, "d": -0}'
    sent = post(gateway, config, body).upstream_body
    assert sent == (
        b'{"a":1.10,"b":12345678901234567890.12345678901234567890,"c":123456789012345678901234567890,"d":0,'
        b'"currency":"EUR"}'
    )


def test_defaults_are_filled_in_and_sent_on(gateway: Gateway) -> None:
    schema = {
        "$defs": {"line": {"properties": {"n": {"type": "integer", "default": 1}}}},
        "properties": {
            "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
            "currency": {"default": "EUR"},
            "deep": {"allOf": [{"properties": {"a": {"default": [1]}}}]},
        },
        "required": ["currency"],
    }
    outcome = post(gateway, {"schema": schema}, {"lines": [{}, {"n": 2}], "deep": {}})
    assert json.loads(outcome.upstream_body or b"") == {
        "lines": [{"n": 1}, {"n": 2}], "currency": "EUR", "deep": {"a": [1]},
    }  # fmt: skip
    assert post(gateway, {"schema": schema}, {"currency": "USD"}).upstream_body is None, "nothing was missing"
    assert post(gateway, {"schema": schema, "fill_defaults": False}, {}).status == 400


# --- forms

FORM = {
    "schema": {
        "type": "object",
        "properties": {
            "n": {"type": "integer"}, "x": {"type": "number"}, "on": {"type": "boolean"}, "s": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "integer"}}, "f": {"type": "object"}, "d": {"default": "1"},
        },
        "required": ["n"],
    },
    "content_types": ["application/x-www-form-urlencoded", "multipart/form-data"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "wrong"),
    [
        (b"n=1&x=1.5&on=true&s=5&tags=1&tags=2&d=2", []),
        (b"n=1.5", [("body", "/n", "type")]),
        (b"n=01", [("body", "/n", "type")]),
        (b"n=1&n=2", [("body", "/n", "type")]),
        (b"n=1&on=yes", [("body", "/on", "type")]),
        (b"n=1&tags=a", [("body", "/tags/0", "type")]),
        (b"x=1", [("body", "", "required")]),
        (b"n", [("body", "", "")]),
        (b"n=1&s=%ff", [("body", "", "")]),
        (b"n=1&s=\xff", [("body", "", "")]),
        (b"&".join(b"n=1" for _ in range(1001)), [("body", "", "")]),
    ],
)
def test_forms(gateway: Gateway, form: bytes, wrong: list[tuple[str, str, str]]) -> None:
    outcome = post(gateway, FORM, form, kind="application/x-www-form-urlencoded")
    assert (faults(outcome) if outcome.status else []) == wrong


def test_a_forms_defaults(gateway: Gateway) -> None:
    outcome = post(gateway, FORM, b"n=1&s=a+b", kind="application/x-www-form-urlencoded")
    assert outcome.upstream_body == b"n=1&s=a+b&d=1"


def multipart(*parts: tuple[str, str]) -> bytes:
    return b"".join(
        f"--b\r\ncontent-disposition: form-data; {about}\r\n\r\n{text}\r\n".encode() for about, text in parts
    ) + b"--b--\r\n"  # fmt: skip


def test_multipart_forms(gateway: Gateway) -> None:
    def ask(body: bytes, kind: str = "multipart/form-data; boundary=b") -> Outcome:
        return post(gateway, FORM, body, kind=kind)

    assert ask(multipart(('name="n"', "1"), ('name="f"; filename="a.txt"', "text"))).status == 0
    assert faults(ask(multipart(('name="n"', "one"), ('name="f"', "text")))) == [
        ("body", "/f", "type"),
        ("body", "/n", "type"),
    ]
    for body in (
        multipart(('name="n"', "1"))[:-4],
        b"nothing",
        multipart(('name="n"', "1"), ('name="n"; filename="x"', "")),
    ):
        assert ask(body).status == 400
    assert ask(multipart(('name="n"', "1")), "multipart/form-data").status == 400


# --- the other parts

PARTS = {
    "path": "/orders/{id}",
    "path_schema": {"properties": {"id": {"type": "integer", "minimum": 1}}},
    "query_schema": {
        "properties": {"page": {"type": "integer", "default": 1}, "tag": {"type": "array"}, "q": {"maxLength": 3}},
        "additionalProperties": False,
    },
    "headers_schema": {
        "properties": {"X-Tenant": {"pattern": "^[a-z]+$"}, "x-n": {"type": "integer"}}, "required": ["X-Tenant"],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "query", "headers", "wrong"),
    [
        ("/orders/7", [("page", "2"), ("tag", "a"), ("tag", "b")], {"x-tenant": "a", "x-n": "5"}, []),
        ("/orders/0", [("page", "2")], {"x-tenant": "a"}, [("path", "/id", "minimum")]),
        ("/orders/x", [("page", "x")], {"x-tenant": "a"}, [("path", "/id", "type"), ("query", "/page", "type")]),
        ("/orders/7", [("page", "1"), ("page", "2")], {"x-tenant": "a"}, [("query", "/page", "type")]),
        ("/orders/7", [("other", "1")], {"x-tenant": "a"}, [("query", "", "additionalProperties")]),
        ("/orders/7", [], {"x-tenant": "a", "x-n": "a"}, [("headers", "/x-n", "type")]),
        ("/orders/7", [], {"x-tenant": ["a", "b"]}, [("headers", "/x-tenant", "pattern")]),
        ("/orders/7", [], {}, [("headers", "", "required")]),
    ],
)  # fmt: skip
def test_path_query_and_headers(
    gateway: Gateway,
    path: str,
    query: list[tuple[str, str]],
    headers: dict[str, Any],
    wrong: list[tuple[str, str, str]],
) -> None:
    outcome = post(gateway, PARTS, method="GET", path=path, query=query, headers=headers)
    assert (faults(outcome) if outcome.status else []) == wrong


def test_an_arguments_default_is_sent_on(gateway: Gateway) -> None:
    outcome = post(gateway, PARTS, method="GET", path="/orders/7", query=[("q", "a")], headers={"x-tenant": "a"})
    assert outcome.query is not None
    assert ("page", "1") in outcome.query


def test_paths_that_are_not_there(gateway: Gateway) -> None:
    assert post(gateway, PARTS, method="GET", path="/orders/7/x").status == 404
    assert post(gateway, {**PARTS, "unmatched": "pass"}, method="GET", path="/orders").status == 0
    assert post(gateway, {**PARTS, "base_path": "/v1/"}, method="GET", path="/orders/7").status == 404


# --- models


class Order(msgspec.Struct):
    sku: str
    n: int = 1


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=3)
    age: int = pydantic.Field(18, ge=18)


@dataclass
class Point:
    x: int
    y: int = 0


HERE = __name__


@pytest.mark.parametrize(
    ("model", "body", "sent", "wrong"),
    [
        ("Order", {"sku": "a"}, {"sku": "a", "n": 1}, []),
        ("Order", {"sku": "a", "n": 2}, None, []),
        ("Order", {"sku": "a", "n": "2"}, None, [("body", "/n", "")]),
        ("Order", {}, None, [("body", "", "")]),
        ("Person", {"name": "Ada"}, {"name": "Ada", "age": 18}, []),
        ("Person", {"name": "Ada", "age": 3}, None, [("body", "/age", "greater_than_equal")]),
        ("Point", {"x": 1}, {"x": 1, "y": 0}, []),
        ("Point", {"x": [1]}, None, [("body", "/x", "")]),
    ],
)  # fmt: skip
def test_models(gateway: Gateway, model: str, body: Any, sent: Any, wrong: list[tuple[str, str, str]]) -> None:
    outcome = post(gateway, {"model": f"{HERE}:{model}"}, body)
    assert (faults(outcome) if outcome.status else []) == wrong
    assert (json.loads(outcome.upstream_body) if outcome.upstream_body else None) == sent


# --- OpenAPI

INTEGERS = {"type": "array", "items": {"type": "integer"}}
API = {
    "openapi": "3.1.0",
    "info": {"title": "Orders", "version": "1"},
    "components": {
        "schemas": {
            "Order": {
                "type": "object",
                "required": ["sku"],
                "properties": {"sku": {"type": "string"}, "n": {"$ref": "#/components/schemas/N"}},
            },
            "N": {"type": "integer", "minimum": 1, "default": 1},
        },
        "parameters": {"page": {"in": "query", "name": "page", "schema": {"type": "integer", "default": 1}}},
        "requestBodies": {
            "order": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Order"}},
                    "text/*": {},
                },
            }
        },
    },
    "paths": {
        "/orders": {
            "get": {
                "parameters": [
                    {"$ref": "#/components/parameters/page"},
                    {"in": "query", "name": "ids", "explode": False, "schema": INTEGERS},
                    {"in": "cookie", "name": "sid", "required": True, "schema": {"minLength": 3}},
                    {"in": "header", "name": "Accept", "required": True, "schema": {}},
                ]
            },
            "post": {"requestBody": {"$ref": "#/components/requestBodies/order"}},
        },
        "/orders/{id}": {
            "parameters": [{"in": "path", "name": "id", "required": True, "schema": {"type": "integer"}}],
            "get": {"parameters": [{"in": "header", "name": "X-Trace", "schema": {"format": "uuid"}}]},
        },
        "/orders/latest": {"get": {}},
    },
}  # fmt: skip
SID = {"cookie": "sid=abc"}


@pytest.mark.parametrize(
    ("method", "path", "request_", "body", "expected"),
    [
        ("GET", "/orders", {"headers": SID, "query": [("page", "2"), ("ids", "1,2")]}, None, 0),
        ("HEAD", "/orders", {"headers": SID}, None, 0),
        ("GET", "/orders", {"headers": SID, "query": [("ids", "1,b")]}, None, [("query", "/ids/1", "type")]),
        ("GET", "/orders", {"headers": {"cookie": "sid=a"}}, None, [("cookies", "/sid", "minLength")]),
        ("GET", "/orders", {}, None, [("cookies", "", "required")]),
        ("POST", "/orders", {}, {"sku": "a", "n": 2}, 0),
        ("POST", "/orders", {}, {"sku": 1, "n": 0}, [("body", "/n", "minimum"), ("body", "/sku", "type")]),
        ("POST", "/orders", {}, None, [("body", "", "")]),
        ("POST", "/orders", {"kind": "text/plain"}, {}, 0),
        ("POST", "/orders", {"kind": "application/xml"}, {}, 415),
        ("GET", "/orders/7", {}, None, 0),
        ("GET", "/orders/x", {}, None, [("path", "/id", "type")]),
        ("GET", "/orders/latest", {}, None, 0),
        ("GET", "/orders/7", {"headers": {"x-trace": "1"}}, None, [("headers", "/x-trace", "format")]),
        ("DELETE", "/orders/7", {}, None, 405),
        ("GET", "/other", {}, None, 404),
    ],
)  # fmt: skip
def test_an_openapi_document(
    gateway: Gateway, method: str, path: str, request_: dict[str, Any], body: Any, expected: Any
) -> None:
    outcome = post(gateway, {"openapi": API}, body, method=method, path=path, **request_)
    assert (outcome.status if isinstance(expected, int) else faults(outcome)) == expected
    if expected == 405:
        assert outcome.headers["allow"] == "GET"


def test_an_openapi_documents_defaults(gateway: Gateway) -> None:
    outcome = post(gateway, {"openapi": API}, {"sku": "a"}, path="/orders")
    assert json.loads(outcome.upstream_body or b"") == {"sku": "a", "n": 1}
    outcome = post(gateway, {"openapi": API}, method="GET", path="/orders", headers=SID, query=[("ids", "1")])
    assert outcome.query is not None
    assert ("page", "1") in outcome.query


def test_arguments_that_no_operation_names(gateway: Gateway) -> None:
    config = {"openapi": API, "only_known_arguments": True}
    outcome = post(gateway, config, method="GET", path="/orders/7", query=[("x", "1")])
    assert faults(outcome) == [("query", "", "additionalProperties")]


# --- what can only be a mistake

BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "there is nothing to check"),
    ({"schema": {"type": "strin"}}, "schema is not a usable JSON Schema"),
    ({"schema": "{"}, "schema is not JSON"),
    ({"schema": {"$ref": "http://127.0.0.1:1/x"}}, "nothing is fetched"),
    ({"schema": {"$ref": "file:///etc/passwd"}}, "nothing is fetched"),
    ({"schema": {"$ref": "#/nowhere"}}, "not a usable JSON Schema"),
    ({"schema": {"pattern": "("}}, "not a usable JSON Schema"),
    ({"schema": {"$schema": "http://json-schema.org/draft-04/schema#"}}, "draft-04"),
    ({"schema": "", "query_schema": None}, "there is nothing to check"),
    ({"schema": {"type": "object"}, "model": "a:B"}, "not both"),
    ({"model": "nowhere:X"}, "can't be imported"),
    ({"model": "os"}, "package.module:Name"),
    ({"model": "os:getcwd"}, "not a class"),
    ({"path_schema": {"type": "object"}}, "wants a path"),
    ({"openapi": {"openapi": "3.0.0"}}, "OpenAPI 3.1"),
    ({"openapi": "file:/nowhere.yaml"}, "can't be read"),
    ({"openapi": "a: ["}, "neither JSON nor YAML"),
    ({"openapi": {"openapi": "3.1.0", "paths": {}}}, "no paths"),
    ({"openapi": API, "schema": {"type": "object"}}, "one or the other"),
    ({"openapi": {"openapi": "3.1.0", "paths": {"/a": {"$ref": "other.yaml"}}}}, "leads out of the document"),
    ({"schema": {"type": "object"}, "content_types": ["text/xml"]}, "content_types knows"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "message"), BAD, ids=[f"{text} {n}" for n, (_, text) in enumerate(BAD)])
def test_mistakes(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RequestValidator(config)
    assert message in str(refused.value)


def test_a_pattern_of_which_others_never_come_back(gateway: Gateway) -> None:
    schema = {
        "properties": {"a": {"pattern": r"^(([a-z])+.)+[A-Z]([a-z])+$"}, "b": {"pattern": r"^(?=(a+)+$)(a+)+b\1$"}}
    }
    outcome = post(gateway, {"schema": schema}, {"a": "a" * 5000, "b": "a" * 5000})
    assert outcome.status == 400


def test_what_is_wrong_is_not_logged_but_where(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    post(gateway, GUIDE, {**ADA, "email": "my-password"})
    assert "my-password" not in "".join(capfd.readouterr())


RECURSIVE = {
    "$defs": {
        "node": {
            "oneOf": [
                {"properties": {"and": {"$ref": "#/$defs/node"}}, "required": ["and"]},
                {"properties": {"and": {"$ref": "#/$defs/node"}, "or": {}}, "required": ["and"]},
                {"type": "string"},
            ]
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"items": {"type": "string"}}, list(range(140_000))),
        ({"items": {"anyOf": [{"type": "string"}, {"required": ["a"], "type": "object"}]}}, list(range(140_000))),
        (RECURSIVE, functools.reduce(lambda inner, _: {"and": inner}, range(40), 1)),
        ({"$defs": {"n": {"allOf": [{"items": {"$dynamicRef": "#n"}}, {"items": {"$dynamicRef": "#n"}},
                                    {"type": "array"}], "$dynamicAnchor": "n"}}, "$ref": "#/$defs/n"},
         functools.reduce(lambda inner, _: [inner], range(40), 1)),
    ],
)  # fmt: skip
def test_what_is_large_is_refused_at_once(gateway: Gateway, schema: Any, value: Any) -> None:
    """All that is wrong with it would take seconds to be told, or for ever."""
    post(gateway, {"schema": schema}, b"1")  # compiled
    begun = time.monotonic()
    outcome = post(gateway, {"schema": schema}, value)
    assert time.monotonic() - begun < 2
    assert outcome.status == 400
    (fault,) = outcome.json["errors"]
    assert (fault["in"], fault["pointer"]) == ("body", "")
    assert "too large for all that is wrong" in fault["detail"]


def test_of_a_schema_that_refers_to_itself_faults_are_told_all_the_same(gateway: Gateway) -> None:
    outcome = post(gateway, {"schema": RECURSIVE}, b'{"and": {"and": 1}}')
    (fault,) = outcome.json["errors"]
    assert fault["keyword"] == "oneOf"
    tree = {"type": "object", "properties": {"name": {"type": "string"}, "of": {"items": {"$ref": "#"}}}}
    deep = functools.reduce(lambda inner, _: {"name": "a", "of": [inner]}, range(20), {"name": 1})
    (fault,) = post(gateway, {"schema": tree}, deep).json["errors"]
    assert fault["pointer"] == "/of/0" * 20 + "/name"


def test_of_a_model_not_thousands_of_faults_are_made(gateway: Gateway) -> None:
    config = {"model": f"{__name__}:Numbers"}
    outcome = post(gateway, config, {"numbers": ["x"] * 5000})
    assert "too large for all that is wrong" in outcome.json["errors"][0]["detail"]
    assert len(post(gateway, config, {"numbers": ["x"] * 50}).json["errors"]) == 50


class Numbers(pydantic.BaseModel):
    numbers: list[int]
