"""What variables say of GraphQL requests, as seen on APISIX 3.9.1."""

from __future__ import annotations

import json

import pytest

from gatewright.dev.apisix.exchange import Exchange, LuaError
from gatewright.dev.apisix.graphql import first_definition
from gatewright.dev.apisix.variables import variable
from gatewright.dev.messages import ClientRequest


def posted(body: bytes, kind: str = "application/graphql", method: str = "POST", target: str = "/") -> Exchange:
    headers = [("Host", "h"), ("Content-Type", kind)]
    return Exchange(ClientRequest(method, target, headers, "127.0.0.1", body=body, framing="content-length"))


def said(exchange: Exchange) -> tuple[bytes | None, bytes | None]:
    return variable(exchange, "graphql_name"), variable(exchange, "graphql_operation")


@pytest.mark.parametrize(
    ("text", "name", "operation"),
    [
        ("{ a }", "", "query"), ("{ }", "", "query"), ("query n { a, b c }", "n", "query"), ("queryn{a}", "n", "query"),
        ("mutation m($x: Int = 1, $y: [String!]!) @d(a: 1) { z: a(x: $x, y: {k: [1.5, E]}) @i(if: $b) { q } ...f }",
         "m", "mutation"),
        ("fragment f on T { a } query n { b }", "f", None), ("query n { a } query m { b }", "n", "query"),
        ("# said before\nquery n { a } # and after", "n", "query"), ('{ a(x: "st\\"r #") }', "", "query"),
        ("{ a(x: -1, y: 1e5, z: true) }", "", "query"), ("query n { a { b { c } } }", "n", "query"),
    ],
)  # fmt: skip
def test_what_the_parser_takes(text: str, name: str, operation: str | None) -> None:
    found = first_definition(text)
    assert found is not None
    assert (found.name, found.operation) == (name, operation)


@pytest.mark.parametrize(
    "text",
    [
        "", "nonsense", "{ a", "subscription s { a }", "query n", "query n { a } rest", "type T { a: Int }",
        "{ a : b }", "{ a (x: 1) }", "{ a(x : 1) }", "{ a(x: null) }", "query 1 { a }", "{é}",
        "{ ...on }", "{ a(s: 'x') }",
    ],
)  # fmt: skip
def test_what_it_does_not_take_has_no_operation(text: str) -> None:
    assert first_definition(text) is None
    assert said(posted(text.encode())) == (None, None)


def test_nesting_without_an_end_is_not_taken() -> None:
    assert first_definition("{a" * 100_000) is None


def test_the_document_is_where_method_and_type_say() -> None:
    document = json.dumps({"query": "query n { a }"}).encode()
    assert said(posted(b"query n { a }")) == (b"n", b"query")
    assert said(posted(document, "application/json")) == (b"n", b"query")
    assert said(posted(document, "application/json; charset=utf-8")) == (None, None)
    assert said(posted(b"", method="GET", target="/?query=query%20n%7Ba%7D&query=x")) == (b"n", b"query")
    assert said(posted(b"query n { a }", method="PUT")) == (None, None)
    assert said(posted(b'{"x": 1}', "application/json")) == (None, None)


@pytest.mark.parametrize(
    ("body", "kind", "target"),
    [
        (b"query { ... on T { a } }", "application/graphql", "/"),
        (b"5", "application/json", "/"),
        (b'{"query": null}', "application/json", "/"),
        (b"", "", "/?query"),
    ],
)
def test_what_lua_aborts_at(body: bytes, kind: str, target: str) -> None:
    with pytest.raises(LuaError):
        variable(posted(body, kind, "POST" if body else "GET", target), "graphql_name")


def test_it_is_parsed_once() -> None:
    exchange = posted(b"query n { a }")
    variable(exchange, "graphql_name")
    exchange.body = b"query m { a }"
    assert said(exchange) == (b"n", b"query")
    assert (variable(exchange, "graphql_root_fields") or b"").startswith(b"table: 0x")
    assert variable(exchange, "graphql_other") is None
