"""How nginx's Lua sets a request's headers, as seen on APISIX 3.9.1 and 3.18."""

from __future__ import annotations

import pytest

from gatewright.dev.apisix.behaviour import BEHAVIOURS
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.rewriting import proxy_rewrite
from gatewright.dev.apisix.variables import variable
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


@pytest.mark.parametrize(
    ("value", "sent"), [("a\x01b", "a%01b"), ("\x1f\x7f", "%1F%7F"), ("a\tb", "a\tb"), ("a\r\nb", "a%0D%0Ab")]
)
def test_control_characters_are_escaped_but_for_the_tab(value: str, sent: str) -> None:
    seen = exchange("X-A")
    seen.apply_rewrite(Rewrite(headers=[("x-a", value)], resp_headers=[("x-r", value)]))
    assert seen.headers[1:] == [("x-a", sent)]
    assert seen.response_headers == [("x-r", sent)]


@pytest.mark.parametrize(("version", "target"), [("3.9", "/n?"), ("3.18", "/n")])
def test_a_path_without_arguments_left_has_a_question_mark_in_older_versions(version: str, target: str) -> None:
    came = ClientRequest("GET", "/r?a=1", [("Host", "h")], "127.0.0.1")
    seen = Exchange(came, BEHAVIOURS[version])
    seen.apply_rewrite(Rewrite(path="/n", args=[("a", None)]))
    assert seen.proxy_target() == target


# --- what is known of it


def test_nginx_s_own_uri_is_what_proxy_rewrite_makes_of_it() -> None:
    seen = exchange("X-A")
    proxy_rewrite(seen, {"uri": "/p q"})
    assert variable(seen, "document_uri") == b"/p%20q"
    assert variable(seen, "uri") == b"/"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("upstream_cache_zone", b"off", b"off"), ("upstream_cache_key", b"", b""), ("llm_stream", None, b"false"),
        ("request_type", None, b"traditional_http"), ("llm_prompt_tokens", None, b"0"), ("request_line", None, b""),
    ],
)  # fmt: skip
def test_variables_of_the_configuration(name: str, old: bytes | None, new: bytes | None) -> None:
    came = ClientRequest("GET", "/", [("Host", "h")], "127.0.0.1")
    assert [variable(Exchange(came, BEHAVIOURS[each]), name) for each in ("3.9", "3.18")] == [old, new]
