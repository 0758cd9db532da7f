"""How nginx's Lua sets a request's headers, as seen on APISIX 3.9.1 and 3.18."""

from __future__ import annotations

import pytest

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.messages import ClientRequest
from gatewright.gateways.apisix.replies import Rewrite

POINTED_AT = ("User-Agent", "Content-Type", "Range", "Accept-Encoding", "Via", "Date", "Referer", "Depth")


def exchange(name: str, *values: str) -> Exchange:
    return Exchange(ClientRequest("GET", "/", [("Host", "h"), *((name, value) for value in values)], "127.0.0.1"))


@pytest.mark.parametrize("name", POINTED_AT)
def test_of_headers_that_nginx_knows_the_first_is_set_and_others_stay(name: str) -> None:
    seen = exchange(name, "1", "2")
    seen.apply_rewrite(Rewrite(headers=[(name.lower(), "n")]))
    assert seen.headers[1:] == [(name, "n"), (name, "2")]
    assert seen.call_headers()[1:] == [(name.lower(), "n"), (name.lower(), "2")]


@pytest.mark.parametrize("name", ["X-A", "Cookie", "X-Forwarded-For", "Accept"])
def test_of_others_the_first_is_set_and_the_rest_goes(name: str) -> None:
    seen = exchange(name, "1", "2")
    seen.apply_rewrite(Rewrite(headers=[(name.lower(), "n")]))
    assert seen.headers[1:] == [(name, "n")]


@pytest.mark.parametrize("name", [*POINTED_AT, "X-A"])
def test_what_is_removed_goes_whole(name: str) -> None:
    seen = exchange(name, "1", "2")
    seen.apply_rewrite(Rewrite(headers=[(name.lower(), None)]))
    assert seen.headers == [("Host", "h")]


def test_a_header_that_nginx_knows_is_added_to_by_setting_it() -> None:
    seen = exchange("Via", "1", "2")
    seen.add_header("Via", "n")
    assert seen.headers[1:] == [("Via", "n"), ("Via", "2")]
    seen = exchange("X-A", "1")
    seen.add_header("X-A", "n")
    seen.add_header("Via", "first")
    assert seen.headers[1:] == [("X-A", "1"), ("X-A", "n"), ("Via", "first")]
