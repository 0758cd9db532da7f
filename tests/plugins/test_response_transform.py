"""response-transform: bodies, headers and statuses as configured; what can't be edited isn't shown."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from gatewright import Response
from gatewright.errors import ConfigError, PluginError
from gatewright.plugins._shared.codings import pack, unpack
from gatewright.plugins.response_transform import ResponseTransform
from tests.plugins.harness import Gateway

PLUGINS = ["response-transform"]

JSON = {"content-type": "application/json"}
USERS = {"users": [{"name": "ada", "card": "4111111111111111"}, {"name": "bob", "card": None}], "a/b": {"m~n": 1}}


async def transformed(
    config: dict[str, Any], body: bytes, headers: dict[str, str] = JSON, status: int = 200
) -> Response:
    response = Response(status, headers, body)
    await ResponseTransform(config).on_response(None, response)  # type: ignore[arg-type]  # it doesn't look at it
    return response


async def edited(document: Any, *edits: dict[str, Any]) -> Any:
    return json.loads((await transformed({"body": list(edits)}, json.dumps(document).encode())).content)


@pytest.mark.parametrize(
    ("edit", "document", "result"),
    [
        ({"op": "set", "path": "/a", "value": {"b": [1]}}, {}, {"a": {"b": [1]}}),
        ({"op": "set", "path": "/a/b/c", "value": 1}, {"a": {"x": 2}}, {"a": {"x": 2, "b": {"c": 1}}}),
        ({"op": "set", "path": "/l/1", "value": 9}, {"l": [1, 2, 3]}, {"l": [1, 9, 3]}),
        ({"op": "set", "path": "/l/-", "value": 9}, {"l": [1]}, {"l": [1, 9]}),
        ({"op": "set", "path": "/l/-/x", "value": 9}, {"l": [1]}, {"l": [1, {"x": 9}]}),
        ({"op": "set", "path": "/l/1", "value": 9}, {"l": [1]}, {"l": [1, 9]}),
        ({"op": "set", "path": "", "json": "[true]"}, {"l": [1]}, [True]),
        ({"op": "set", "path": "/n", "json": "1.50"}, {}, {"n": 1.5}),
        ({"op": "set", "path": "$.l[*].x", "value": 0}, {"l": [{"x": 1}, {"y": 2}]}, {"l": [{"x": 0}, {"y": 2}]}),
        ({"op": "set", "path": "$", "value": "gone"}, {"a": 1}, "gone"),
        ({"op": "remove", "path": "/a~1b/m~0n"}, {"a/b": {"m~n": 1, "k": 2}}, {"a/b": {"k": 2}}),
        ({"op": "remove", "path": "/l/0"}, {"l": [1, 2]}, {"l": [2]}),
        ({"op": "remove", "path": "/l/-"}, {"l": [1, 2]}, {"l": [1, 2]}),
        ({"op": "remove", "path": "/l/01"}, {"l": [1, 2]}, {"l": [1, 2]}),
        ({"op": "remove", "path": "/a/b/c"}, {"a": 1}, {"a": 1}),
        ({"op": "remove", "path": "$.l[0,2,3]"}, {"l": [1, 2, 3, 4, 5]}, {"l": [2, 5]}),
        ({"op": "remove", "path": "$.l[?@.secret == true]"}, {"l": [{"secret": True}, {"n": 1}]}, {"l": [{"n": 1}]}),
        ({"op": "remove", "path": "$..password"}, {"password": 1, "u": [{"password": {"password": 2}}]}, {"u": [{}]}),
        ({"op": "rename", "path": "/a", "to": "b"}, {"x": 0, "a": 1, "b": 2, "c": 3}, {"x": 0, "b": 1, "c": 3}),
        ({"op": "rename", "path": "/a", "to": "a"}, {"a": 1}, {"a": 1}),
        ({"op": "rename", "path": "/l/0", "to": "a"}, {"l": [1]}, {"l": [1]}),
        ({"op": "rename", "path": "$.l[*].a", "to": "b"}, {"l": [{"a": 1}, {"a": 2}]}, {"l": [{"b": 1}, {"b": 2}]}),
        ({"op": "mask", "path": "/card", "keep": 4}, {"card": "4111111111111234"}, {"card": "***1234"}),
        ({"op": "mask", "path": "/card", "keep": 4}, {"card": "1234567"}, {"card": "***"}),
        ({"op": "mask", "path": "/pin", "keep": 1, "text": "#"}, {"pin": 1234}, {"pin": "#4"}),
        ({"op": "mask", "path": "$..x"}, {"x": {"deep": 1}, "l": [{"x": True}, {"x": None}]}, None),
    ],
)
async def test_edits(edit: dict[str, Any], document: Any, result: Any) -> None:
    if result is None:
        result = {"x": "***", "l": [{"x": "***"}, {"x": None}]}
    got = await edited(document, edit)
    assert got == result
    if isinstance(got, dict):
        assert list(got) == list(result)  # members stay where they were


async def test_edits_are_done_in_order_and_leave_the_configuration_alone() -> None:
    plugin = ResponseTransform(
        {"body": [{"op": "set", "path": "/a", "value": {"n": []}}, {"op": "set", "path": "/a/n/-", "value": 1}]}
    )
    for _ in range(2):
        response = Response(200, JSON, b"{}")
        await plugin.on_response(None, response)  # type: ignore[arg-type]
        assert response.content == b'{"a":{"n":[1]}}'


async def test_numbers_stay_what_they_are() -> None:
    body = b'{"a":1.10,"b":123456789012345678901234567890,"c":0.1000000000000000055511151231257827,"d":-0.0,"x":1}'
    response = await transformed({"body": [{"op": "remove", "path": "/x"}]}, body)
    assert response.content == body.replace(b',"x":1', b"")


@pytest.mark.parametrize("codings", [("gzip",), ("deflate",), ("br",), ("gzip", "br")])
async def test_packed_bodies_are_packed_again(codings: tuple[str, ...]) -> None:
    headers = {**JSON, "content-encoding": ", ".join(codings)}
    packed = pack(json.dumps(USERS).encode() + b" " * 100_000, codings)
    response = await transformed({"body": [{"op": "remove", "path": "$.users[*].card"}]}, packed, headers)
    assert response.headers["content-encoding"] == headers["content-encoding"]
    assert json.loads(unpack(response.content, codings, 1000))["users"] == [{"name": "ada"}, {"name": "bob"}]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "text/html"}, b'{"a":1}'),
        ({}, b'{"a":1}'),
        ({"content-type": "image/png"}, b"\x89PNG"),
        (JSON, b""),
    ],
)
async def test_what_is_not_json_is_left_alone(headers: dict[str, str], body: bytes) -> None:
    response = await transformed({"body": [{"op": "set", "path": "", "value": 1}]}, body, headers)
    assert response.content == body
    assert dict(response.headers) == headers


@pytest.mark.parametrize(
    ("body", "result"), [(b'{"a":1}', b"{}"), (b"\x89PNG", b"\x89PNG"), (b"[" * 5000, b"[" * 5000)]
)
async def test_any_type_edits_what_is_json_whatever_it_says(body: bytes, result: bytes) -> None:
    config = {"body": [{"op": "remove", "path": "/a"}], "any_type": True}
    assert (await transformed(config, body, {"content-type": "text/plain"})).content == result


@pytest.mark.parametrize("kind", ["application/problem+json; charset=utf-8", "Application/JSON", "text/json"])
async def test_json_by_its_other_names(kind: str) -> None:
    response = await transformed({"body": [{"op": "remove", "path": "/a"}]}, b'{"a":1}', {"content-type": kind})
    assert response.content == b"{}"


async def test_other_charsets_become_utf_8() -> None:
    headers = {"content-type": "application/json; charset=ISO-8859-1"}
    response = await transformed({"body": [{"op": "remove", "path": "/a"}]}, b'{"a":1,"n":"\xe9"}', headers)
    assert response.content == '{"n":"é"}'.encode()
    assert response.headers["content-type"] == "application/json; charset=utf-8"


DEEP = b'{"a":' * 400 + b"1" + b"}" * 400
UNREADABLE = [
    (JSON, b'{"a":', 200, "isn't JSON"),
    (JSON, b"[" * 100_000, 200, "isn't JSON"),
    (JSON, DEEP, 200, "recursion"),
    (JSON, b" " * 2000, 200, "more than `max_body`"),
    ({**JSON, "content-encoding": "gzip"}, gzip.compress(b" " * 2000, mtime=0), 200, "unpacks to more"),
    ({**JSON, "content-encoding": "gzip"}, b"{}", 200, "damaged"),
    ({**JSON, "content-encoding": "aes128gcm"}, b"{}", 200, "isn't known"),
    ({"content-type": "application/json; charset=klingon"}, b"{}", 200, "klingon"),
    ({"content-type": "application/json; charset=utf-16"}, b"{}}", 200, "utf-16"),
    (JSON, b'{"a"', 206, "a part"),
    ({"content-type": "multipart/byteranges; boundary=x"}, b"--x", 206, "a part"),
]


@pytest.mark.parametrize(("headers", "body", "status", "why"), UNREADABLE)
async def test_what_calls_itself_json_and_cannot_be_edited_is_not_shown(
    headers: dict[str, str], body: bytes, status: int, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 1000 if len(body) < 5000 else 1 << 20
    config = {"body": [{"op": "mask", "path": "$..z"}], "max_body": 4000 if body is DEEP else limit}
    with pytest.raises(PluginError, match=why):
        await transformed(config, body, headers, status)
    response = await transformed({**config, "unreadable": "pass"}, body, headers, status)
    assert response.content == body
    assert why in caplog.text


async def test_headers_of_the_former_body_go() -> None:
    body = b'{ "a": 1 }'  # nothing to do: not a byte is changed
    assert (await transformed({"body": [{"op": "remove", "path": "/b"}]}, body)).content == body
    former = {"etag": '"x"', "content-md5": "x", "digest": "x", "repr-digest": "x", "accept-ranges": "bytes", **JSON}
    response = await transformed({"body": [{"op": "remove", "path": "/a"}]}, b'{"a":1}', former)
    assert dict(response.headers) == {"etag": 'W/"x"', **JSON}
    response = await transformed({"body": [{"op": "remove", "path": "/b"}]}, b'{"a":1}', former)
    assert dict(response.headers) == former
    for status in (200, 304):  # of a HEAD, of a copy that is still good: both stand for a body that would be edited
        of_none = {**former, "content-length": "7"}
        response = await transformed({"body": [{"op": "remove", "path": "/a"}]}, b"", of_none, status)
        assert response.headers["etag"] == 'W/"x"'
        assert "content-length" not in response.headers


async def test_header_edits() -> None:
    response = Response(200, [("X-Old", "1"), ("x-old", "2"), ("server", "x"), ("x-a", "1"), ("x-b", "1")], b"")
    edits = {
        "rename": {"x-old": "x-new", "x-no": "x-b"},
        "remove": ["Server"],
        "set": {"x-a": "2"},
        "add": {"x-b": "2"},
    }
    await ResponseTransform({"headers": edits}).on_response(None, response)  # type: ignore[arg-type]
    assert response.headers.multi_items() == [("x-a", "2"), ("x-b", "1"), ("x-b", "2"), ("x-new", "1"), ("x-new", "2")]


@pytest.mark.parametrize(("before", "after"), [(404, 410), (403, 403), (500, 502), (503, 599), (200, 200)])
async def test_the_status_is_mapped_by_number_before_class(before: int, after: int) -> None:
    config = {"status": {"404": 410, "5xx": 502, "503": 599}}
    assert (await transformed(config, b"", {}, before)).status == after


async def test_when_status_says_which_answers_are_edited() -> None:
    config = {"when_status": ["200", "4xx"], "body": [{"op": "remove", "path": "/a"}], "headers": {"set": {"x": "1"}}}
    for status, is_edited in ((200, True), (404, True), (201, False), (500, False)):
        response = await transformed(config, b'{"a":1}', JSON, status)
        assert (response.content == b"{}") is is_edited
        assert ("x" in response.headers) is is_edited


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"body": [{"op": "remove", "path": "a"}]}, r"begins with '/'.*\$\.body\[0\]"),
        ({"body": [{"op": "remove", "path": "/a~2"}]}, "written '~0'"),
        ({"body": [{"op": "remove", "path": "$.a["}]}, "no JSONPath"),
        ({"body": [{"op": "remove", "path": ""}]}, "not the whole"),
        ({"body": [{"op": "rename", "path": "/a"}]}, "`to`"),
        ({"body": [{"op": "drop", "path": "/a"}]}, "drop"),
        ({"body": [{"op": "set", "path": "/a", "json": "{"}]}, "not valid JSON"),
        ({"status": {"40": 200}}, "404"),
        ({"status": {"404": 100}}, ">= 200"),
        ({"when_status": ["6xx"]}, "6xx"),
        ({"headers": {"remove": ["a b"]}}, "header name"),
        ({"headers": {"set": {"x": "a\nb"}}}, "must not contain"),
        ({"headers": {"add": {"a b": "x"}}}, "header name"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        ResponseTransform(config)


async def test_where_nothing_can_be_set_the_answer_is_refused() -> None:
    with pytest.raises(PluginError, match="no such place as '/a/b'"):
        await edited({"a": 1}, {"op": "set", "path": "/a/b/c", "value": 1})


def test_the_client_gets_what_is_left(gateway: Gateway) -> None:
    config = {
        "body": [{"op": "remove", "path": "$..password"}, {"op": "set", "path": "/by", "json": '{"n": 1}'}],
        "headers": {"remove": ["x-powered-by"], "set": {"x-seen": "yes"}},
        "status": {"5xx": 502},
    }
    route = gateway.route(("response-transform", config))
    packed = gzip.compress(b'{"password": 1, "id": 1.50}')
    outcome = route.response(200, {**JSON, "content-encoding": "gzip", "x-powered-by": "php"}, packed)
    assert gzip.decompress(outcome.body) == b'{"id":1.50,"by":{"n":1}}'
    assert outcome.headers["x-seen"] == "yes"
    assert "x-powered-by" not in outcome.headers
    assert route.response(503, {"content-type": "text/plain"}, b"down").status == 502
    assert route.response(200, JSON, b"no json").status in (500, 503)


def test_on_a_bomb_the_client_gets_nothing(gateway: Gateway) -> None:
    config = {"body": [{"op": "mask", "path": "/a"}], "max_body": 100_000}
    route = gateway.route(("response-transform", config))
    outcome = route.response(200, {**JSON, "content-encoding": "gzip"}, gzip.compress(bytes(50_000_000)))
    assert outcome.status in (500, 503)
    assert len(outcome.body) < 1000
