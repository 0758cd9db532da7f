from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any

import pytest

from gatewright import ConfigError
from gatewright.plugins._shared.redis_server import RedisConfig, shared_server
from gatewright.plugins.cache import Cache
from gatewright.plugins.cache.entries import Entry, MemoryEntries, RedisEntries
from gatewright.plugins.cache.rules import (
    HEURISTIC,
    directives,
    is_fresh_enough,
    lifetime,
    matches,
    may_store,
)
from tests.plugins.harness import Gateway, Outcome, Route
from tests.plugins.redis_servers import RedisProcess

PLUGINS = ["cache"]
NOW = 1_700_000_000.0
_paths = itertools.count()

Made = Callable[..., Route]


@pytest.fixture(params=["memory", "redis"])
def cached(request: pytest.FixtureRequest, gateway: Gateway, redis: RedisProcess) -> Made:
    def make(**conf: Any) -> Route:
        if request.param == "redis":
            conf["redis"] = {"servers": [redis.address], "timeout": 5}
        return gateway.route(("cache", conf), id=f"{gateway.kind}-{request.param}-{next(_paths)}")

    return make


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass, for the cache."""
    return lambda seconds: monkeypatch.setattr("gatewright.plugins.cache.time", lambda: time.time() + seconds)


def ask(route: Route, answer: Mapping[str, str] | None = None, body: bytes = b"body", **request: Any) -> Outcome:
    """A request, and its answer by an upstream unless the cache has one."""
    status = request.pop("status", 200)
    outcome = route.request(**request)
    assert not outcome.failed
    if outcome.status:
        return outcome
    told = {"content-type": "text/plain", **(answer or {})}
    came = route.response(status, told, body, request_headers=request.get("headers"),
                          method=request.get("method", "GET"))  # fmt: skip
    assert not came.failed
    came.upstream = outcome.upstream
    return came


FRESH = {"cache-control": "max-age=60"}


def test_an_answer_is_given_again(cached: Made) -> None:
    route = cached()
    first = ask(route, {**FRESH, "etag": '"1"', "x-own": "a", "connection": "close"})
    assert first.headers["cache-status"] == "gatewright; fwd=miss; stored"
    again = ask(route)
    assert (again.status, again.body) == (200, b"body")
    assert again.headers["cache-status"].startswith("gatewright; hit; ttl=")
    assert (again.headers["x-own"], again.headers["etag"]) == ("a", '"1"')
    assert int(again.headers["age"]) < 5
    assert "connection" not in again.headers


@pytest.mark.parametrize(
    ("answer", "more"),
    [
        ({}, {}),
        ({"cache-control": "no-store, max-age=60"}, {}),
        ({"cache-control": "private, max-age=60"}, {}),
        ({"cache-control": "no-cache"}, {}),
        ({"cache-control": "max-age=0"}, {}),
        ({"cache-control": "max-age=x"}, {}),
        ({**FRESH, "vary": "*"}, {}),
        ({**FRESH, "set-cookie": "session=1"}, {}),
        ({"cache-control": "public, max-age=60", "set-cookie": "a=1"}, {}),
        (FRESH, {"headers": {"authorization": "Basic eA=="}}),
        (FRESH, {"headers": {"x-consumer-username": "ada"}}),
        (FRESH, {"headers": {"cache-control": "no-store"}}),
        (FRESH, {"headers": {"range": "bytes=0-1"}}),
        (FRESH, {"method": "POST"}),
        (FRESH, {"method": "HEAD"}),
        (FRESH, {"status": 206}),
        (FRESH, {"body": b"x" * 2000}),
        ({"expires": "0"}, {}),
        ({"expires": formatdate(NOW, usegmt=True)}, {}),
        ({**FRESH, "age": "60"}, {}),
        ({**FRESH, "date": formatdate(time.time() - 3600, usegmt=True)}, {}),
    ],
)
def test_what_is_not_kept(cached: Made, answer: Mapping[str, str], more: Any) -> None:
    route = cached(max_body=1000)
    ask(route, answer, **more)
    assert route.request(**{k: v for k, v in more.items() if k in ("method", "headers")}).status == 0


@pytest.mark.parametrize(
    ("answer", "more"),
    [
        ({"cache-control": "max-age=0, s-maxage=60"}, {}),
        ({"cache-control": "public, max-age=60"}, {"headers": {"authorization": "Basic eA=="}}),
        ({"expires": formatdate(time.time() + 3600, usegmt=True)}, {}),
        (FRESH, {"status": 404}),
        (FRESH, {"body": b"\x00\xff" * 100}),
        ({**FRESH, "age": "10"}, {}),
    ],
)
def test_what_is_kept(cached: Made, answer: Mapping[str, str], more: Any) -> None:
    route = cached(max_body=1000)
    ask(route, answer, **more)
    again = route.request(headers=more.get("headers"))
    assert (again.status, again.body) == (more.get("status", 200), more.get("body", b"body"))


def test_answers_that_depend_on_headers(cached: Made) -> None:
    route = cached()
    for language in ("de", "fr"):
        ask(route, {**FRESH, "vary": "Accept-Language"}, language.encode(), headers={"accept-language": language})
    assert ask(route, headers={"accept-language": "de"}).body == b"de"
    assert ask(route, headers={"accept-language": "fr"}).body == b"fr"
    assert route.request(headers={"accept-language": "it"}).status == 0
    assert route.request().status == 0


def test_headers_that_are_there_twice_are_not_their_first_value(cached: Made) -> None:
    """Otherwise whoever adds a second value could have others get what the upstream makes of that."""
    route = cached()
    ask(route, {**FRESH, "vary": "X-Theme"}, b"evil", headers={"x-theme": ["dark", "<script>"]})
    assert route.request(headers={"x-theme": "dark"}).status == 0
    ask(route, {**FRESH, "vary": "X-Theme"}, b"dark", headers={"x-theme": "dark"})
    assert route.request(headers={"x-theme": "dark"}).body == b"dark"


def test_a_path_in_another_spelling_is_another(cached: Made) -> None:
    """Plugins see both decoded; the upstream doesn't."""
    route = cached()
    ask(route, FRESH, b"evil", path="/a/b", variables={"request_uri": "/a%2Fb"})
    assert route.request("/a/b").status == 0
    ask(route, FRESH, b"right", path="/a/b")
    assert route.request("/a/b").body == b"right"
    assert route.request("/a/b", variables={"request_uri": "/a%2Fb"}).body == b"evil"


def test_a_path_as_apisix_tells_it_is_taken_from_where_it_is_told(gateway: Gateway) -> None:
    if gateway.kind == "apisix":
        route = gateway.route(("cache", {}))
        ask(route, FRESH, b"evil", path="/a/b", variables={"real_request_uri": "/a%2Fb"})
        assert route.request("/a/b", variables={"real_request_uri": "/a/b"}).status == 0


def test_what_a_gateway_may_not_show_is_not_kept(cached: Made) -> None:
    route = cached(ignore_query=["utm_source"])
    padded = "/?" + "utm_source=x&" * 100 + "page=evil"
    ask(route, FRESH, b"evil", query=[("utm_source", "x")] * 100, variables={"request_uri": padded})
    assert route.request().status == 0


@pytest.mark.parametrize("headers", [{"content-length": "5"}, {"transfer-encoding": "chunked"}])
def test_a_request_with_a_body_is_not_answered_nor_its_answer_kept(cached: Made, headers: dict[str, str]) -> None:
    route = cached()
    ask(route, FRESH, b"evil", headers=headers)
    assert route.request().status == 0
    ask(route, FRESH)
    assert route.request(headers=headers).status == 0
    assert route.request(headers={"content-length": "0"}).status == 200


def test_what_addresses_are_the_same(cached: Made) -> None:
    route = cached(ignore_query=["utm_source"], vary_by="{header:x-tenant}")
    query = [("b", "2"), ("a", "1")]
    ask(route, FRESH, query=query)
    assert route.request(query=[("a", "1"), ("b", "2"), ("utm_source", "x")]).status == 200
    assert route.request(query=[("a", "1")]).status == 0
    assert route.request("/other", query=query).status == 0
    assert route.request(query=query, headers={"host": "other.test"}).status == 0
    assert route.request(query=query, headers={"x-tenant": "a"}).status == 0


CLAIMS = {
    "x-forwarded-host": "evil.test",
    "x-forwarded-proto": "https",
    "x-original-url": "/admin",
    "x-http-method-override": "DELETE",
    "forwarded": "for=192.0.2.1;host=evil.test",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_whoever_claims_another_address_is_answered_apart(cached: Made, name: str) -> None:
    route = cached()
    ask(route, FRESH, b"evil", headers={name: CLAIMS[name]})
    assert route.request().status == 0
    assert route.request(headers={name: CLAIMS[name]}).status == 200


def test_whom_a_request_was_forwarded_for_makes_no_difference(cached: Made) -> None:
    route = cached()
    ask(route, FRESH, headers={"forwarded": "for=192.0.2.1;host=a.test"})
    assert route.request(headers={"forwarded": "for=192.0.2.2;host=a.test"}).status == 200


def test_a_redirect_to_https_is_none_of_https(cached: Made) -> None:
    route = cached()
    ask(route, FRESH, status=301, variables={"scheme": "http"})
    assert route.request(variables={"scheme": "http"}).status == 301
    assert route.request(variables={"scheme": "https"}).status == 0


@pytest.mark.parametrize(
    ("evil", "sent"),
    [
        ([("a", "2"), ("a", "1")], "a=2&a=1"),  # which of the two counts is the upstream's choice
        ([("a", "1"), ("a", "2"), ("utm_source", "x;a=3")], "a=1&a=2&utm_source=x;a=3"),  # `;` divides for some
        ([("a", "1"), ("a", "2"), ("utm_source", "x;a=3")], "a=1&a=2&utm_source=x%3Ba=3"),
        ([("a", "1"), ("a", "2")], "a=1&a=2&=evil"),  # APISIX doesn't tell of it
        ([("a", "1"), ("a", "2")], "a=1&a=%32"),
    ],
)
def test_a_query_that_can_be_read_in_another_way_is_another(cached: Made, evil: Any, sent: str) -> None:
    route = cached(ignore_query=["utm_source"])
    ask(route, FRESH, b"evil", query=evil, variables={"request_uri": f"/?{sent}"})
    query = [("a", "1"), ("a", "2")]
    assert route.request(query=query, variables={"request_uri": "/?a=1&a=2"}).status == 0


def test_what_a_plugin_before_found_out_makes_an_answer_somebodys() -> None:
    """Though it has taken the credential out of the request."""
    key = {"keys": [{"key": "k-2d1f4b6c8a9e0f13", "consumer": "ada"}], "hide": True}
    headers = {"x-api-key": "k-2d1f4b6c8a9e0f13"}
    with Gateway("apisix") as gateway:
        for said, status in (FRESH, 0), ({"cache-control": "public, max-age=60"}, 200):
            route = gateway.route(("api-key", key), ("cache", {}))
            assert route.request(headers=headers).upstream == {"x-consumer": "ada", "x-api-key": None}
            answers = gateway.route(("cache", {}), id=route.id)
            answers.pair = route.pair
            answers.response(200, {"content-type": "text/plain", **said}, b"ada's")
            assert route.request(headers=headers).status == status


def test_a_method_that_nobody_knows_may_change_things(cached: Made) -> None:
    route = cached()
    ask(route, FRESH)
    ask(route, method="MKCOL")
    assert route.request().status == 0


def test_what_clients_say(cached: Made) -> None:
    route = cached()
    ask(route, {**FRESH, "etag": '"1"', "last-modified": formatdate(NOW, usegmt=True)})
    ask_with = lambda **headers: route.request(headers={k.replace("_", "-"): v for k, v in headers.items()})  # noqa: E731
    assert ask_with(cache_control="no-cache").status == 0
    assert ask_with(pragma="no-cache").status == 0
    assert ask_with(cache_control="min-fresh=3600").status == 0
    assert ask_with(cache_control="max-age=600").status == 200
    known = ask_with(if_none_match='"0", W/"1"')
    assert (known.status, known.body, known.headers["etag"]) == (304, b"", '"1"')
    assert ask_with(if_none_match='"0"').status == 200
    assert ask_with(if_modified_since=formatdate(NOW, usegmt=True)).status == 304
    assert ask_with(if_modified_since=formatdate(NOW - 1, usegmt=True)).status == 200
    assert route.request("/unknown", headers={"cache-control": "only-if-cached"}).status == 504


def test_what_clients_say_may_be_ignored(cached: Made) -> None:
    route = cached(client_control="ignore")
    ask(route, FRESH)
    assert route.request(headers={"cache-control": "no-cache"}).status == 200


def test_a_change_forgets_what_was_kept(cached: Made) -> None:
    route = cached()
    ask(route, FRESH)
    ask(route, method="POST", status=500)
    assert route.request().status == 200, "it has changed nothing"
    ask(route, method="PUT")
    assert route.request().status == 0


def test_a_change_forgets_all_answers_of_an_address(cached: Made) -> None:
    route = cached()
    vary = {**FRESH, "vary": "Accept-Language"}
    for language in ("de", "fr"):
        ask(route, vary, b"old", headers={"accept-language": language})
    ask(route, method="PUT")
    ask(route, vary, b"new", headers={"accept-language": "fr"})
    assert route.request(headers={"accept-language": "de"}).status == 0, "it would be the one from before"
    assert route.request(headers={"accept-language": "fr"}).body == b"new"


def test_an_answer_that_has_to_be_fresh_is_not_given_stale_to_whom_it_would_do(
    cached: Made, later: Callable[[float], None]
) -> None:
    for said, status in (("max-age=60", 200), ("max-age=60, must-revalidate", 0), ("s-maxage=60", 0)):
        route = cached()
        ask(route, {"cache-control": said, "etag": '"1"'})
        later(70)
        assert route.request(headers={"cache-control": "max-stale"}).status == status, said
        later(0)


def test_numbers_that_nobody_can_mean(cached: Made) -> None:
    route, digits = cached(), "9" * 5000
    ask(route, {"cache-control": f"max-age={digits}"})
    assert route.request().status == 200
    assert route.request(headers={"cache-control": f"max-age={digits}, min-fresh=\u0663"}).status == 200
    assert route.request(headers={"cache-control": f"min-fresh={digits}"}).status == 0
    old = cached()
    ask(old, {**FRESH, "age": digits, "content-length": digits})
    assert old.request().status == 0


def test_a_failing_upstream_is_hidden_for_a_while(cached: Made, later: Callable[[float], None]) -> None:
    route, other = cached(stale_if_error=60), cached(stale_if_error=60)
    ask(route, FRESH, b"old")
    ask(other, {"cache-control": "max-age=60, must-revalidate"}, b"old")
    later(61)
    failed = ask(route, status=503, body=b"down")
    assert (failed.status, failed.body) == (200, b"old")
    assert int(failed.headers["age"]) >= 61
    assert ask(other, status=503, body=b"down").body == b""
    later(121)
    assert ask(route, status=503, body=b"down").body == b"", "that is too old"


def test_what_has_grown_old_is_renewed_by_the_upstream(
    gateway: Gateway, redis: RedisProcess, later: Callable[[float], None]
) -> None:
    conf = {"redis": {"servers": [redis.address], "timeout": 5}}
    route = gateway.route(("cache", conf), id=f"{gateway.kind}-renew-{next(_paths)}")
    ask(route, {**FRESH, "etag": '"1"'}, b"old")
    later(61)
    renewed = ask(route, {"cache-control": "max-age=90", "etag": '"1"', "x-new": "a"}, b"", status=304)
    assert renewed.upstream == {"if-none-match": '"1"'}
    assert (renewed.status, renewed.body) == (200, b"old")
    again = route.request()
    assert (again.status, again.body, again.headers["cache-control"]) == (200, b"old", "max-age=90")


def test_a_redis_that_is_gone_is_a_cache_that_has_nothing(gateway: Gateway) -> None:
    route = gateway.route(("cache", {"redis": {"servers": ["127.0.0.1:1"], "timeout": 0.5}}))
    assert ask(route, FRESH).headers["cache-status"] == "gatewright; fwd=miss"
    assert route.request().status == 0


def test_the_default(cached: Made) -> None:
    route = cached(default_ttl=60)
    ask(route)
    assert route.request().status == 200
    ask(other := cached(default_ttl=60), status=503)
    assert other.request().status == 0, "for such statuses nothing may be assumed"


# --- the rules


def test_directives_as_they_are_written() -> None:
    assert directives(['Max-Age="60" , private="a, b"', "no-store,, max-age=5"]) == {
        "max-age": "60", "private": "a, b", "no-store": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "age", "fresh", "is_fine"),
    [
        ({}, 5, 10, True),
        ({}, 10, 10, False),
        ({"max-age": "4"}, 5, 10, False),
        ({"min-fresh": "6"}, 5, 10, False),
        ({"max-stale": ""}, 1000, 10, True),
        ({"max-stale": "5"}, 14, 10, True),
        ({"max-stale": "5"}, 16, 10, False),
        ({"no-cache": ""}, 0, 10, False),
    ],
)
def test_freshness(said: dict[str, str], age: float, fresh: float, is_fine: bool) -> None:
    assert is_fresh_enough(said, age, fresh, may_be_stale=True) is is_fine
    assert is_fresh_enough(said, age, fresh, may_be_stale=False) is (is_fine and age < fresh)


def test_a_lifetime_by_dates() -> None:
    headers = {"date": formatdate(NOW, usegmt=True), "expires": formatdate(NOW + 30, usegmt=True)}
    assert lifetime(200, {}, headers.get, NOW + 1000, 5) == 30
    assert lifetime(200, {}, {}.get, NOW, 5) == 5
    assert lifetime(302, {}, {}.get, NOW, 5) == 0
    assert lifetime(200, {"max-age": "7"}, headers.get, NOW, 5) == 7


def test_statuses() -> None:
    kept = {status for status in range(200, 600) if may_store(status, {}, authorized=False, vary=[], sets_cookie=False)}
    assert kept >= HEURISTIC
    assert not kept & {206, 304, 407, 429}


def test_a_star_matches_anything() -> None:
    assert matches({"if-none-match": "*"}.get, {}.get)
    assert not matches({}.get, {"etag": '"1"'}.get)


async def test_memory_is_bounded() -> None:
    shelf = MemoryEntries(1 << 16)
    entry = Entry(200, [], b"x" * 10_000, NOW, 60.0)
    for number in range(20):
        assert await shelf.put(str(number), entry, 60)
    kept = [number for number in range(20) if await shelf.get(str(number))]
    assert 4 <= len(kept) <= 6
    assert not await shelf.put("large", Entry(200, [], b"x" * 100_000, NOW, 60.0), 60)


async def test_many_at_once_share_few_connections(redis: RedisProcess) -> None:
    server, release = await shared_server(RedisConfig(servers=(redis.address,), connections=2, timeout=5), plugin="x")
    shelf = RedisEntries(server)
    entry = Entry(200, [("a", "b")], b"x", NOW, 60.0)
    keys = [f"many-{number}" for number in range(100)]
    assert all(await asyncio.gather(*(shelf.put(key, entry, 60) for key in keys)))
    assert await asyncio.gather(*map(shelf.get, keys)) == [entry] * 100
    redis.client().set("many-0", b"e nonsense")
    assert await shelf.get("many-0") is None
    await release()


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="a key's parts are"):
        Cache({"vary_by": "{tenant}"})
