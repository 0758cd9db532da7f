from __future__ import annotations

import json
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gatewright import ConfigError
from gatewright.plugins.api_key import ApiKey
from tests.plugins.harness import Gateway
from tests.plugins.redis_servers import RedisProcess

PLUGINS = ["api-key"]
KEY, OTHER = "k-0123456789abcdef", "k-fedcba9876543210"
ADA = {"key": KEY, "consumer": "ada", "headers": {"x-plan": "gold"}}
BOB = {"sha256": sha256(OTHER.encode()).hexdigest(), "consumer": "bob"}


def test_who_may(gateway: Gateway) -> None:
    route = gateway.route(("api-key", {"keys": [ADA, BOB]}))
    assert route.request(headers={"X-API-Key": KEY}).upstream == {"x-consumer": "ada", "x-plan": "gold"}
    bob = route.request(headers={"x-api-key": OTHER, "x-plan": "gold", "X_Consumer": "root"})
    assert bob.upstream == {"x-consumer": "bob", "x-plan": None, "x_consumer": None}
    for headers in (
        {},
        {"x-api-key": ""},
        {"x-api-key": KEY[:-1]},
        {"x-api-key": "x" * 5000},
        {"x-api-key": [KEY, KEY]},
    ):
        outcome = route.request(headers=headers)
        assert (outcome.status, outcome.headers["www-authenticate"]) == (401, 'ApiKey realm="api"'), headers


def test_where_the_key_may_be(gateway: Gateway) -> None:
    config = {
        "keys": [ADA],
        "header": "authorization",
        "scheme": "Key",
        "cookie": "key",
        "argument": "key",
        "hide": True,
    }
    route = gateway.route(("api-key", config))
    assert route.request(headers={"authorization": f"key {KEY}"}).upstream["authorization"] is None
    assert route.request(headers={"cookie": f"a=1; key={KEY}"}).upstream["cookie"] == "a=1"
    outcome = route.request(query=[("key", KEY), ("a", "1")])
    assert outcome.query is not None
    assert "key" not in dict(outcome.query)
    assert route.request(headers={"cookie": f"key={KEY}"}, query=[("key", KEY)]).status == 401


def test_without_a_key_where_that_is_allowed(gateway: Gateway) -> None:
    route = gateway.route(("api-key", {"keys": [ADA], "optional": True}))
    outcome = route.request(headers={"x-consumer": "root", "x-plan": "gold"})
    assert outcome.upstream == {"x-consumer": None, "x-plan": None}
    assert route.request(headers={"x-api-key": "wrong"}).status == 401


def test_keys_end(gateway: Gateway) -> None:
    keys = [{**ADA, "expires": "2020-01-01T00:00:00Z"}, {**BOB, "expires": "2100-01-01T00:00:00"}]
    route = gateway.route(("api-key", {"keys": keys}))
    assert [route.request(headers={"x-api-key": key}).status for key in (KEY, OTHER)] == [401, 0]


def test_a_file_that_changes(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([ADA]))
    route = gateway.route(("api-key", {"file": str(file), "own_headers": ["x-plan"]}))
    assert route.request(headers={"x-api-key": KEY}).upstream == {"x-consumer": "ada", "x-plan": "gold"}
    assert route.request(headers={"x-api-key": OTHER}).status == 401
    file.write_text(json.dumps([BOB]))
    deadline = time.monotonic() + 10
    while route.request(headers={"x-api-key": OTHER}).status:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert route.request(headers={"x-api-key": KEY}).status == 401


def test_a_key_in_a_file_of_its_own_that_changes(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    others = tmp_path / "others.json"
    others.write_text(json.dumps([BOB]))
    keys = [{"key": f"file:{file}", "consumer": "ada"}]
    route = gateway.route(("api-key", {"keys": keys, "file": str(others)}))
    assert route.request(headers={"x-api-key": KEY}).upstream == {"x-consumer": "ada"}
    file.write_text("k-another-0123456789")
    deadline = time.monotonic() + 10
    while route.request(headers={"x-api-key": "k-another-0123456789"}).status:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert route.request(headers={"x-api-key": KEY}).status == 401, "it was withdrawn"
    assert route.request(headers={"x-api-key": OTHER}).upstream == {"x-consumer": "bob"}


def test_a_file_that_is_spoiled_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([ADA]))
    with Gateway("apisix", PLUGINS) as apisix:
        route = apisix.route(("api-key", {"file": str(file)}))
        assert route.request(headers={"x-api-key": KEY}).status == 0
        file.write_text("[{")
        time.sleep(1.1)
        assert route.request(headers={"x-api-key": KEY}).status == 0


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    server = RedisProcess(tmp_path_factory.mktemp("redis")).wait()
    yield server
    server.end()


def test_keys_in_redis(gateway: Gateway, redis: RedisProcess) -> None:
    redis.client().set(f"keys:{BOB['sha256']}", json.dumps(BOB))
    redis.client().set("keys:" + sha256(KEY.encode()).hexdigest(), json.dumps(BOB))
    where = {"servers": [redis.address], "timeout": 5}
    route = gateway.route(("api-key", {"redis": where, "redis_prefix": "keys:"}))
    assert route.request(headers={"x-api-key": OTHER}).upstream == {"x-consumer": "bob"}
    assert route.request(headers={"x-api-key": "unknown-0123456789"}).status == 401
    assert route.request(headers={"x-api-key": KEY}).status == 503, "another key's place holds it"


def test_a_redis_that_is_away_lets_nobody_pass(gateway: Gateway) -> None:
    config = {"keys": [ADA], "redis": {"servers": ["127.0.0.1:1"]}}
    route = gateway.route(("api-key", config))
    outcome = route.request(headers={"x-api-key": OTHER})
    assert (outcome.status, outcome.failed) == (503, False)
    assert route.request(headers={"x-api-key": KEY}).status == 0, "the configuration's own need no Redis"


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "there are no keys"),
    ({"keys": [{"key": "short", "consumer": "a"}]}, "16 are the least"),
    ({"keys": [{"consumer": "a"}]}, "key or as sha256"),
    ({"keys": [{"sha256": "AB", "consumer": "a"}]}, "64 digits"),
    ({"keys": [ADA, {**ADA, "consumer": "eve"}]}, "two credentials are the same"),
    ({"keys": [{**ADA, "consumer": "a\r\nb"}]}, "can't be sent in a header"),
    ({"file": "/nowhere"}, "can't be read"),
    ({"keys": [ADA], "header": ""}, "come from somewhere"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=[text for _, text in BAD])
def test_mistakes(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ApiKey(config)
    assert message in str(refused.value)
    assert KEY not in str(refused.value)
