"""Handlers that are called with requests and responses made by hand."""

from __future__ import annotations

import pytest

from gatewright.testing import Request, Response, SyncRequest, SyncResponse
from tests.testing.plugins import Greet, Shout


async def test_a_handler_can_be_called_with_a_request_made_by_hand() -> None:
    request = Request(headers={"X-User": "ann"})
    assert await Greet({"greeting": "hi"}).on_request(request) is None
    assert request.changes.headers == {"x-greeting": ("hi",)}
    assert request.headers["x-greeting"] == "hi"


async def test_what_is_not_changed_is_not_in_the_changes() -> None:
    request = Request("PUT", "/x?a=1&z", headers={"x-user": "ann"}, body="abc", client_ip="::1")
    answer = await Greet().on_request(Request())
    assert answer is not None
    assert answer.status == 401
    assert not request.changes
    assert (request.method, request.path, request.client_ip) == ("PUT", "/x", "::1")
    assert request.query.get_all("a") == ["1"]
    assert request.query.is_bare("z")
    assert await request.body() == request.body_sent == b"abc"


def test_def_handlers_have_requests_of_their_own() -> None:
    request = SyncRequest("POST", "/a", body=b"hello", variables={"uri": "/a"})
    Shout().on_request(request)
    assert request.path == "/loud/a"
    assert request.body_sent == b"HELLO"
    assert request.changes.as_dict() == {
        "path": "/loud/a", "query": {"loud": ["1"]}, "body": "HELLO", "response_headers": {"x-loud": ["yes"]},
    }  # fmt: skip
    assert request.var("uri") == "/a"
    assert request.var("other") is None


async def test_responses_can_be_made_by_hand_too() -> None:
    response = Response(200, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], "hello")
    await Greet().on_response(Request(), response)
    assert response.changes.response_headers == {"x-served-by": ("gatewright",)}
    assert response.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert response.body_sent == await response.body() == b"hello"

    shouted = SyncResponse(200, body="hello")
    Shout().on_response(SyncRequest(), shouted)
    assert (shouted.status, shouted.body_sent) == (202, b"HELLO")
    assert shouted.changes.status == 202


async def test_the_context_and_variables_are_what_the_test_says() -> None:
    request = Request(ctx={"user": "ann"}, variables={"request_id": "7"}, query={"q": "ä ö"})
    assert request.ctx == {"user": "ann"}
    assert await request.var("request_id") == "7"
    assert request.query["q"] == "ä ö"


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(ValueError, match="not a header name"):
        Request(headers={"x y": "1"})
    with pytest.raises(ValueError, match="say it once"):
        Request(path="/x?a=1", query={"b": "2"})
    with pytest.raises(ValueError, match="200 to 999"):
        Response(99)
