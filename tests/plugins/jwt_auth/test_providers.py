"""Keys that are fetched, discovered and rotated, and opaque tokens: against an identity provider over a real socket."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gatewright.plugins.jwt_auth._claims import ClaimRules
from gatewright.plugins.jwt_auth._key_source import FetchedKeys, Freshness, KeysUnavailableError
from gatewright.plugins.jwt_auth._token import InvalidTokenError
from gatewright.plugins.jwt_auth._verifier import Verifier
from tests.plugins.harness import Gateway, Outcome, Route
from tests.plugins.jwt_auth.provider import IdentityProvider
from tests.plugins.jwt_auth.tokens import claims, public_jwk, sign

PLUGINS = ["jwt-auth"]


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    made = IdentityProvider()
    yield made
    made.close()


@pytest.fixture(scope="module")
def apisix() -> Iterator[Gateway]:
    with Gateway("apisix", PLUGINS) as made:
        yield made


def ask(route: Route, token: str) -> Outcome:
    return route.request(headers={"authorization": f"Bearer {token}"})


def test_keys_from_a_url_and_by_discovery(gateway: Gateway, provider: IdentityProvider) -> None:
    for config in ({"jwks_url": f"{provider.url}/jwks"}, {"discover": provider.url}):
        route = gateway.route(("jwt-auth", config))
        assert ask(route, sign(kid="one", iss=provider.url)).upstream == {"x-jwt-sub": "ada"}
    assert ask(route, sign(kid="one", iss="https://evil.example")).status == 401


def test_a_key_is_rotated(apisix: Gateway, provider: IdentityProvider) -> None:
    config = {"jwks_url": f"{provider.url}/jwks", "keys_min_interval": 0.1, "keys_ttl": 10}
    route = apisix.route(("jwt-auth", config))
    assert ask(route, sign(kid="one")).status == 0
    provider.rotate(0, 1)
    time.sleep(0.15)
    assert ask(route, sign("RS256", 1, kid="two")).status == 0, "a new name has the provider asked"
    provider.rotate(1, 2)
    time.sleep(0.15)
    assert ask(route, sign("RS256", 2, kid="three")).status == 0
    refused = ask(route, sign(kid="one"))
    assert refused.status == 401, "a remembered token doesn't outlive its key"


def test_no_storm_of_questions(apisix: Gateway, provider: IdentityProvider) -> None:
    route = apisix.route(("jwt-auth", {"jwks_url": f"{provider.url}/jwks"}))
    provider.release.clear()
    statuses: list[int] = []
    tokens = [sign(kid="one", jti=str(n)) for n in range(10)]
    threads = [threading.Thread(target=lambda t=token: statuses.append(ask(route, t).status)) for token in tokens]
    for thread in threads:
        thread.start()
    while not provider.asked:
        time.sleep(0.01)
    time.sleep(0.2)
    provider.release.set()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 10
    for n in range(20):
        assert ask(route, sign("RS256", 1, kid=f"unknown {n}")).status == 401
    assert provider.count("/jwks") == 1


def test_a_provider_that_is_away(apisix: Gateway, provider: IdentityProvider) -> None:
    provider.fails = True
    config = {"jwks_url": f"{provider.url}/jwks", "keys_min_interval": 0.1}
    route = apisix.route(("jwt-auth", config))
    outcome = ask(route, sign(kid="one"))
    assert outcome.status == 503, "an answer: a failure might be let pass by allow_degradation"
    assert not outcome.failed
    assert outcome.headers["retry-after"] == "5"
    assert ask(route, "..").status == 401
    provider.fails = False
    time.sleep(0.15)
    assert ask(route, sign(kid="one")).status == 0


NO_KEYS = [b"{", b"[]", b'{"keys": {}}', b'{"keys": []}', b"[" * 100_000, b"x" * (1 << 20) + b"x"]
A_SECRET = json.dumps({"keys": [1, {}, {"kty": "oct", "k": "A" * 64}]}).encode()


@pytest.mark.parametrize("answer", [*NO_KEYS, A_SECRET], ids=lambda answer: answer[:20].decode())
def test_an_answer_that_is_no_key_set(apisix: Gateway, provider: IdentityProvider, answer: bytes) -> None:
    provider.answer = answer
    route = apisix.route(("jwt-auth", {"jwks_url": f"{provider.url}/jwks"}))
    assert ask(route, sign(kid="one")).status == 503


def test_redirects_and_other_issuers_are_not_followed(apisix: Gateway, provider: IdentityProvider) -> None:
    assert ask(apisix.route(("jwt-auth", {"jwks_url": f"{provider.url}/moved"})), sign(kid="one")).status == 503
    provider.issuer_told = "https://evil.example"
    assert ask(apisix.route(("jwt-auth", {"discover": provider.url})), sign(kid="one")).status == 503


# --- how old keys may be, by a clock of the test's own


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fetching:
    """Keys that are fetched from nowhere, with a clock."""

    def __init__(self, **freshness: float) -> None:
        self.clock = Clock()
        self.document: Any = {"keys": [public_jwk("RS256", kid="one")]}
        self.max_age: float | None = None
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()
        log = logging.getLogger("test")
        self.keys = FetchedKeys(self.fetch, ["RS256"], Freshness(**freshness), log, self.clock)

    async def fetch(self) -> tuple[Any, float | None]:
        self.count += 1
        await self.gate.wait()
        if isinstance(self.document, Exception):
            raise self.document
        return self.document, self.max_age

    async def find(self, kid: str | None = "one") -> int:
        return len(await self.keys.find("RS256", kid))

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_keys_are_fetched_ahead_while_the_old_ones_are_used() -> None:
    fetching = Fetching(ttl=300)
    assert await fetching.find() == 1
    fetching.clock.now += 239
    assert (await fetching.find(), fetching.count) == (1, 1)
    fetching.clock.now += 2
    fetching.gate.clear()
    assert await fetching.find() == 1, "nobody waits"
    await fetching.settle()
    assert fetching.count == 2
    fetching.gate.set()
    await fetching.settle()


async def test_keys_are_used_for_a_while_when_the_provider_fails_and_then_no_more() -> None:
    fetching = Fetching(ttl=300, stale=3600, min_interval=10)
    await fetching.find()
    fetching.document = OSError("away")
    fetching.clock.now += 3890
    assert await fetching.find() == 1
    await fetching.settle()
    fetching.clock.now += 20
    with pytest.raises(KeysUnavailableError, match="away"):
        await fetching.find()
    count = fetching.count
    with pytest.raises(KeysUnavailableError):
        await fetching.find()
    assert fetching.count == count, "not asked again at once"
    fetching.document = {"keys": [public_jwk("RS256", kid="one")]}
    fetching.clock.now += 10
    assert await fetching.find() == 1


async def test_max_age_shortens_and_never_lengthens() -> None:
    fetching = Fetching(ttl=300, min_interval=10, stale=0)
    for max_age, fresh in ((100.0, 100), (100_000.0, 300), (0.0, 10)):
        fetching.max_age = max_age
        fetching.clock.now = fetching.keys.usable_until + 1 if fetching.count else fetching.clock.now
        fetching.clock.now += 10
        await fetching.find()
        assert fetching.keys.usable_until == fetching.clock.now + fresh


async def test_unknown_names_share_one_question_in_a_while() -> None:
    fetching = Fetching(min_interval=10, unknown=60)
    await fetching.find()
    for n in range(100):
        assert await fetching.find(f"x{n}") == 0
    assert fetching.count == 1
    fetching.clock.now += 10
    results = await asyncio.gather(*(fetching.find(f"y{n}") for n in range(100)))
    assert (set(results), fetching.count) == ({0}, 2)
    fetching.clock.now += 11
    assert await fetching.find("y0") == 0
    assert fetching.count == 2, "that one is known to be none"
    fetching.document = {"keys": [public_jwk("RS256", kid="z")]}
    assert await fetching.find("z") == 1
    assert fetching.count == 3


async def test_a_token_that_names_no_key_has_the_provider_asked_once_more_and_no_further() -> None:
    fetching = Fetching(min_interval=0)
    verifier = Verifier(fetching.keys, ["RS256"], ClaimRules(), [])
    await fetching.find()
    with pytest.raises(InvalidTokenError):
        await verifier.verify(sign("RS256", 1))
    assert fetching.count == 2
    fetching.document = {"keys": [public_jwk("RS256", 1)]}
    assert (await verifier.verify(sign("RS256", 1)))[0]["sub"] == "ada"


async def test_the_generation_changes_when_a_key_goes_and_not_when_one_comes() -> None:
    fetching = Fetching(min_interval=1)
    await fetching.find()
    one, two = public_jwk("RS256", kid="one"), public_jwk("RS256", 1, kid="two")
    for document, changes in (([one, two], 0), ([two, one], 0), ([two], 1), ([{**two, "alg": "RS256"}], 1)):
        before = fetching.keys.generation
        fetching.document = {"keys": document}
        fetching.clock.now += 5
        await fetching.keys.renew()
        assert fetching.keys.generation - before == changes


async def test_a_call_that_ends_leaves_the_fetch_to_the_others() -> None:
    fetching = Fetching()
    fetching.gate.clear()
    first, second = (asyncio.create_task(fetching.find()) for _ in range(2))
    await fetching.settle()
    first.cancel()
    await fetching.settle()
    fetching.gate.set()
    assert await second == 1
    assert fetching.count == 1


async def test_closing_ends_a_fetch() -> None:
    fetching = Fetching()
    fetching.gate.clear()
    waiting = asyncio.create_task(fetching.find())
    await fetching.settle()
    await fetching.keys.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# --- opaque tokens


def introspecting(provider: IdentityProvider, **more: Any) -> dict[str, Any]:
    asked = {"url": f"{provider.url}/introspect", "client_id": "gateway", "client_secret": "s:ecret", **more}
    return {"introspection": asked}


def test_opaque_tokens(gateway: Gateway, provider: IdentityProvider) -> None:
    provider.active["opaque"] = {"sub": "ada", "scope": "read"}
    for auth in ("basic", "post"):
        route = gateway.route(("jwt-auth", introspecting(provider, client_auth=auth)))
        assert ask(route, "opaque").upstream == {"x-jwt-sub": "ada"}
        assert ask(route, "other").status == 401
    assert provider.forms[0]["token"] == ["opaque"]
    wrong = gateway.route(("jwt-auth", introspecting(provider, client_secret="wrong")))
    assert ask(wrong, "opaque").status == 503


def test_answers_are_kept_and_asked_for_once(apisix: Gateway, provider: IdentityProvider) -> None:
    provider.active["opaque"] = {"sub": "ada", "exp": int(time.time()) + 600}
    route = apisix.route(("jwt-auth", introspecting(provider)))
    for _ in range(5):
        assert ask(route, "opaque").status == 0
        assert ask(route, "none").status == 401
    assert provider.count("/introspect") == 2
    short = apisix.route(("jwt-auth", introspecting(provider, ttl=0, refused_ttl=0)))
    for _ in range(3):
        assert ask(short, "opaque").status == 0
    assert provider.count("/introspect") == 5


def test_an_answer_is_judged_by_the_same_rules(apisix: Gateway, provider: IdentityProvider) -> None:
    provider.active = {
        "expired": {"sub": "ada", "exp": 1},
        "other audience": {"sub": "ada", "aud": "bank"},
        "right": {"sub": "ada", "aud": "shop"},
    }
    route = apisix.route(("jwt-auth", {**introspecting(provider), "audiences": ["shop"], "leeway": 0}))
    assert {token: ask(route, token).status for token in provider.active} == {
        "expired": 401, "other audience": 401, "right": 0,
    }  # fmt: skip


def test_with_keys_a_jwt_is_verified_here_and_only_here(apisix: Gateway, provider: IdentityProvider) -> None:
    provider.active = {"opaque": {"sub": "ada"}, sign("RS256", 1, kid="one"): claims()}
    route = apisix.route(("jwt-auth", {**introspecting(provider), "jwks_url": f"{provider.url}/jwks"}))
    for token, status in (*((token, 401 if "." in token else 0) for token in provider.active), (sign(kid="one"), 0)):
        assert ask(route, token).status == status
    assert ask(route, "opaque").status == 0
    assert provider.count("/introspect") == 1


def test_an_endpoint_that_is_away(apisix: Gateway, provider: IdentityProvider) -> None:
    provider.fails = True
    route = apisix.route(("jwt-auth", introspecting(provider)))
    assert ask(route, "opaque").status == 503
    provider.fails = False
    provider.active["opaque"] = {"sub": "ada"}
    assert ask(route, "opaque").status == 0
