from __future__ import annotations

from typing import Any

import pytest

from gatewright import ConfigError
from gatewright.plugins.cors import Cors
from tests.plugins.harness import Gateway, Outcome

PLUGINS = ["cors"]

NAMED = {"allow_origins": ["https://app.example.com", "https://*.example.org"]}
APP = {"allow_origins": [*NAMED["allow_origins"], "null"]}


def ask(gateway: Gateway, conf: Any, origin: str | None, **more: Any) -> Outcome:
    headers = {**({"origin": origin} if origin else {}), **more.pop("headers", {})}
    outcome = gateway.route(("cors", conf)).request(headers=headers, **more)
    assert not outcome.failed
    return outcome


def preflight(gateway: Gateway, conf: Any, origin: str, method: str, asked: str = "") -> Outcome:
    headers = {"access-control-request-method": method}
    if asked:
        headers["access-control-request-headers"] = asked
    return ask(gateway, conf, origin, headers=headers, method="OPTIONS")


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("https://app.example.com", True),
        ("https://a.example.org", True),
        ("https://a.b.example.org", True),
        ("null", True),
        ("https://example.org", False),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("https://app.example.com.evil.test", False),
        ("https://evil-example.org", False),
        ("https://evil.test/x.example.org", False),
        ("https://evil.test#.example.org", False),
        ("https://APP.example.com", False),
    ],
)
def test_whose_pages_may_read(gateway: Gateway, origin: str, may: bool) -> None:
    outcome = ask(gateway, APP, origin)
    assert outcome.status == 0
    assert outcome.headers.get("access-control-allow-origin") == (origin if may else None)
    assert outcome.headers["vary"] == "Origin", "what the answer depends on is said in either case"
    assert ask(gateway, {**APP, "refuse": True}, origin).status == (0 if may else 403)
    assert preflight(gateway, APP, origin, "PUT").status == (204 if may else 403)


def test_a_request_of_no_other_origin_passes(gateway: Gateway) -> None:
    assert ask(gateway, APP, None).headers == {"vary": "Origin"}
    assert ask(gateway, {"allow_origins": ["*"]}, None).headers == {}


def test_all_origins(gateway: Gateway) -> None:
    outcome = ask(gateway, {"allow_origins": ["*"], "expose_headers": ["x-a", "x-b"]}, "https://any.test")
    assert outcome.headers == {"access-control-allow-origin": "*", "access-control-expose-headers": "x-a, x-b"}


def test_credentials_name_the_origin(gateway: Gateway) -> None:
    conf = {**NAMED, "allow_credentials": True}
    headers = ask(gateway, conf, "https://app.example.com").headers
    assert headers["access-control-allow-credentials"] == "true"
    assert headers["access-control-allow-origin"] == "https://app.example.com"


def test_what_a_preflight_is_told(gateway: Gateway) -> None:
    conf = {**APP, "allow_methods": ["PUT"], "allow_headers": ["X-Token"], "max_age": 60}
    answer = preflight(gateway, conf, "https://app.example.com", "PUT", "x-token")
    assert (answer.status, answer.body) == (204, b"")
    assert {name: answer.headers[name] for name in answer.headers if name.startswith(("access", "vary"))} == {
        "access-control-allow-origin": "https://app.example.com",
        "access-control-allow-methods": "GET, HEAD, POST, PUT",
        "access-control-allow-headers": "X-Token",
        "access-control-max-age": "60",
        "vary": "Origin, access-control-request-method, access-control-request-headers",
    }
    assert preflight(gateway, conf, "https://app.example.com", "PATCH").status == 403
    assert preflight(gateway, conf, "https://app.example.com", "PUT", "x-token, x-other").status == 403
    assert preflight(gateway, conf, "https://app.example.com", "PU T").status == 403


def test_any_method_and_any_header(gateway: Gateway) -> None:
    conf = {**NAMED, "allow_methods": ["*"], "allow_headers": ["*"], "allow_credentials": True}
    answer = preflight(gateway, conf, "https://app.example.com", "PROPFIND", "x-a,x-b")
    assert answer.headers["access-control-allow-methods"] == "PROPFIND"
    assert answer.headers["access-control-allow-headers"] == "x-a, x-b"


def test_an_options_request_that_is_no_preflight_goes_on(gateway: Gateway) -> None:
    assert ask(gateway, APP, "https://app.example.com", method="OPTIONS").status == 0


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ({"allow_origins": []}, "length >= 1"),
        ({"allow_origins": ["example.com"]}, "an origin is a scheme"),
        ({"allow_origins": ["https://example.com/"]}, "an origin is a scheme"),
        ({"allow_origins": ["*"], "allow_credentials": True}, "every site could act"),
        ({"allow_origins": ["https://a.example", "null"], "allow_credentials": True}, "every site could act"),
        ({"allow_origins": ["*"], "allow_headers": ["a b"]}, "not a name"),
    ],
)
def test_what_cannot_be_meant_is_refused(conf: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Cors(conf)
