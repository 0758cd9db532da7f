from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gatewright import ConfigError
from gatewright.gateways.apisix.replies import Stop
from gatewright.plugins.rate_limit import RateLimit
from tests.conftest import StartRunner
from tests.plugins.harness import Gateway, Route
from tests.plugins.redis_servers import RedisProcess, wait_for

PLUGINS = ["rate-limit"]
_namespaces = itertools.count()


@pytest.fixture(params=["memory", "redis"])
def limited(request: pytest.FixtureRequest, gateway: Gateway, redis: RedisProcess) -> Callable[..., Route]:
    """A route with limits, counted in memory or in Redis, for whom nobody has been counted yet."""

    def make(*limits: Mapping[str, Any], **more: Any) -> Route:
        conf = {"limits": limits, "namespace": f"{gateway.kind}-{request.param}-{next(_namespaces)}", **more}
        if request.param == "redis":
            conf["redis"] = {"servers": [redis.address], "timeout": 5}
        return gateway.route(("rate-limit", conf))

    return make


def statuses(route: Route, count: int, **request: Any) -> list[int]:
    return [route.request(**request).status for _ in range(count)]


def test_what_clients_are_told(limited: Callable[..., Route]) -> None:
    route = limited({"requests": 2, "period": 60, "algorithm": "sliding-log"})
    first = route.request()
    assert (first.status, first.failed) == (0, False)
    assert first.headers == {
        "ratelimit-policy": '"2-in-60s";q=2;w=60',
        "ratelimit": '"2-in-60s";r=1;t=60',
        "x-ratelimit-limit": "2",
        "x-ratelimit-remaining": "1",
        "x-ratelimit-reset": "60",
    }
    assert route.request().headers["ratelimit"] == '"2-in-60s";r=0;t=60'
    refused = route.request()
    assert (refused.status, refused.body) == (429, b"Too many requests.\n")
    assert 58 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit"].startswith('"2-in-60s";r=0;t=')
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert refused.headers["content-type"] == "text/plain; charset=utf-8"


def test_several_limits_at_once(limited: Callable[..., Route]) -> None:
    route = limited({"requests": 2, "period": 1000, "name": "short"}, {"requests": 5, "period": 5000, "name": "long"})
    first = route.request()
    assert first.headers["ratelimit-policy"] == '"short";q=2;w=1000, "long";q=5;w=5000'
    assert first.headers["ratelimit"] == '"short";r=1;t=500, "long";r=4;t=1000'
    assert first.headers["x-ratelimit-limit"] == "2"
    assert statuses(route, 2) == [0, 429]


def test_two_configurations_on_one_route_tell_of_all_limits(gateway: Gateway) -> None:
    if gateway.kind != "apisix":
        pytest.skip("Kong has no plugin twice on one route")
    each = {"requests": 4, "period": 60, "algorithm": "sliding-log", "name": "each"}
    tenant = {"requests": 10, "period": 60, "algorithm": "sliding-log", "name": "tenant"}
    inner, outer = ("rate-limit", {"limits": [each]}), ("rate-limit", {"limits": [tenant], "key": "{header:tenant}"})
    for conf in ((inner, outer), (outer, inner)):
        told = gateway.route(*conf).request(headers={"tenant": "a"}).headers
        assert sorted(told["ratelimit-policy"].split(", ")) == ['"each";q=4;w=60', '"tenant";q=10;w=60']
        assert sorted(told["ratelimit"].split(", ")) == ['"each";r=3;t=60', '"tenant";r=9;t=60']
        assert (told["x-ratelimit-limit"], told["x-ratelimit-remaining"]) == ("4", "3")


@pytest.mark.parametrize(
    ("key", "one", "another"),
    [
        ("{client_ip}", {"client": "192.0.2.1"}, {"client": "192.0.2.2"}),
        ("{client_ip}", {"client": "2001:db8:1::1"}, {"client": "2001:db8:2::1"}),
        ("{header:x-api-key}", {"headers": {"x-api-key": "a"}}, {"headers": {"x-api-key": "b"}}),
        ("{consumer}", {"consumer": "jack"}, {"consumer": "jill"}),
        ("{consumer}:{client_ip}", {"consumer": "jack"}, {"consumer": "jill"}),
        ("{var:tenant}", {"variables": {"tenant": "a"}}, {"variables": {"tenant": "b"}}),
    ],
)
def test_whom_requests_are_counted_for(limited: Callable[..., Route], key: str, one: Any, another: Any) -> None:
    route = limited({"requests": 1, "period": 60}, key=key)
    assert [route.request(**each).status for each in (one, another, one, another)] == [0, 0, 429, 429]


def test_behind_proxies_that_are_trusted(limited: Callable[..., Route]) -> None:
    route = limited({"requests": 1, "period": 60}, trusted_proxies=["10.0.0.0/8"])
    proxied = {"client": "10.0.0.1", "headers": {"x-forwarded-for": "198.51.100.7, 192.0.2.1"}}
    assert statuses(route, 2, **proxied) == [0, 429]
    assert route.request(client="192.0.2.1").status == 429
    assert route.request(client="198.51.100.7").status == 0


def test_the_refusal_can_be_worded_and_headers_left_away(limited: Callable[..., Route]) -> None:
    own = {"status": 503, "body": '{"error": "slow down"}', "content_type": "application/json"}
    route = limited({"requests": 1, "period": 60}, **own, standard_headers=False, legacy_headers=False)
    assert route.request().headers == {}
    refused = route.request()
    assert (refused.status, refused.json) == (503, {"error": "slow down"})
    assert set(refused.headers) == {"content-type", "retry-after"}


def test_what_costs_more(limited: Callable[..., Route]) -> None:
    assert statuses(limited({"requests": 5, "period": 60}, cost=2), 3) == [0, 0, 429]


def test_routes_count_for_themselves_unless_they_share_a_namespace(gateway: Gateway) -> None:
    conf = {"limits": [{"requests": 1, "period": 60}]}
    assert [gateway.route(("rate-limit", conf)).request().status for _ in range(2)] == [0, 0]


def test_what_was_counted_survives_a_configuration_that_is_made_anew(gateway: Gateway) -> None:
    rule = {"requests": 1, "period": 60}
    route = gateway.route(("rate-limit", {"limits": [rule]}), id="anew")
    assert route.request().status == 0
    changed = gateway.route(("rate-limit", {"limits": [rule], "body": "other"}), id="anew")
    assert changed.request().status == 429


def test_without_redis_the_policy_holds(gateway: Gateway) -> None:
    dead = {"servers": ["127.0.0.1:1"], "timeout": 0.5}
    conf = {"limits": [{"requests": 1, "period": 60}], "redis": dead}
    closed = gateway.route(("rate-limit", conf)).request()
    assert (closed.status, closed.failed) == (503, False)
    assert closed.headers["retry-after"] == "1"
    opened = gateway.route(("rate-limit", {**conf, "fail_open": True}))
    assert statuses(opened, 5) == [0] * 5


RULE = {"requests": 10}


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ({"limits": []}, "length >= 1"),
        ({"limits": [{"requests": 0}]}, ">= 1"),
        ({"limits": [{"requests": 1, "period": 0}]}, "> 0"),
        ({"limits": [{"requests": 3_000_000}]}, "more than one a microsecond"),
        ({"limits": [{"requests": 3, "algorithm": "fixed-window", "burst": 2}]}, "burst is for gcra"),
        ({"limits": [{"requests": 3, "algorithm": "leaky"}]}, "Invalid enum value 'leaky'"),
        ({"limits": [RULE, RULE]}, "two limits are the same"),
        ({"limits": [RULE], "cost": 11}, "would never pass"),
        ({"limits": [RULE], "key": "{ip}"}, "a key's parts are"),
        ({"limits": [RULE], "trusted_proxies": ["x"]}, "does not appear to be"),
        ({"limits": [RULE], "redis": {"servers": []}}, "has to name one"),
        ({"limits": [RULE], "redis": {"servers": ["a:b:c"]}}, "are written host:port"),
        ({"limits": [RULE], "redis": {"url": "redis://x", "mode": "cluster"}}, "url is for one server"),
        ({"limits": [RULE], "redis": {"mode": "cluster", "database": 1}}, "database 0 only"),
        ({"limits": [RULE], "redis": {"tls_key": "/k"}}, "needs tls_certificate"),
    ],
)
def test_what_cannot_be_meant_is_refused(conf: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RateLimit(conf)


# --- whole processes


class Load:
    """Threads that ask runners as fast as they can."""

    def __init__(self, runners: list[Any], conf: Mapping[str, Any], threads: int) -> None:
        self.passed: list[float] = []
        self.spans: list[tuple[float, float]] = []
        """When each that passed was asked, and was answered: it was counted between the two."""
        self.refused: list[tuple[float, int]] = []
        self.slowest = 0.0
        self._stop = threading.Event()
        text = json.dumps(conf)
        self._threads = [
            threading.Thread(target=self._ask, args=[runners[number % len(runners)], text]) for number in range(threads)
        ]

    def _ask(self, runner: Any, text: str) -> None:
        with runner.peer() as peer:
            token = peer.prepare(("rate-limit", text))
            while not self._stop.is_set():
                before = time.time()
                action = peer.request(token)
                after = time.time()
                self.slowest = max(self.slowest, after - before)
                if isinstance(action, Stop):
                    self.refused.append((after, action.status))
                else:
                    self.passed.append(after)
                    self.spans.append((before, after))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisProcess]:
    server = RedisProcess(tmp_path).wait()
    yield server
    server.end()


PERIOD, MOST, BURST = 0.5, 100, 20


def _log_holds(spans: list[tuple[float, float]]) -> None:
    for number in range(len(spans) - MOST):
        together = spans[number : number + MOST + 1]  # one more than the limit can't all have been counted in a period
        assert max(after for _, after in together) - together[0][0] > PERIOD


def _windows_hold(spans: list[tuple[float, float]]) -> None:
    inside = Counter(int(before // PERIOD) for before, after in spans if before // PERIOD == after // PERIOD)
    assert max(inside.values()) <= MOST


def _bucket_holds(spans: list[tuple[float, float]]) -> None:
    """Of any stretch of time no more than the bucket holds and what flows in meanwhile."""
    for number, (begin, _) in enumerate(spans):
        for count, end in enumerate(sorted(after for _, after in spans[number:]), 1):
            assert count <= BURST + (end - begin) * MOST / PERIOD + 1e-3


@pytest.mark.long
@pytest.mark.parametrize(
    ("algorithm", "holds"),
    [
        ("sliding-log", _log_holds),
        ("fixed-window", _windows_hold),
        ("sliding-window", _windows_hold),
        ("gcra", _bucket_holds),
    ],
)
def test_two_runners_with_four_workers_never_let_one_too_many_pass(
    start_runner: StartRunner, redis: RedisProcess, algorithm: str, holds: Callable[[list[tuple[float, float]]], None]
) -> None:
    runners = [start_runner("--workers", "4", "--log-level", "warning") for _ in range(2)]
    rule: dict[str, Any] = {"requests": MOST, "period": PERIOD, "algorithm": algorithm}
    if algorithm == "gcra":
        rule["burst"] = BURST
    conf = {"limits": [rule], "namespace": f"exact-{algorithm}", "redis": {"servers": [redis.address], "timeout": 5}}
    with Load(runners, conf, threads=16) as load:
        wait_for(lambda: len(load.passed) > 100)  # all workers have imported what they need
        begun, before = time.time(), len(load.passed)
        time.sleep(2)
    took = time.time() - begun
    passed = len(load.passed) - before
    assert passed <= MOST * (math.ceil(took / PERIOD) + (algorithm != "sliding-log"))
    assert passed >= MOST * (took / PERIOD - 1) * 0.7, "nor many too few"
    holds(sorted(load.spans))
    assert {status for _, status in load.refused} == {429}
    assert not any("the loop is blocked" in runner.log for runner in runners)


def test_a_redis_that_is_killed_in_mid_run(start_runner: StartRunner, own_redis: RedisProcess) -> None:
    runner = start_runner("--workers", "2", "--log-level", "warning")
    conf = {
        "limits": [{"requests": 1_000_000, "period": 1}], "namespace": "killed",
        "redis": {"servers": [own_redis.address], "timeout": 0.5, "retry_after": 0.2},
    }  # fmt: skip
    with Load([runner], conf, threads=4) as load:
        wait_for(lambda: len(load.passed) > 20)
        own_redis.kill()
        killed = time.time()
        wait_for(lambda: any(at > killed for at, _ in load.refused))
        first = next(at for at, _ in load.refused if at > killed)
        own_redis.start()
        back = time.time()
        wait_for(lambda: load.passed[-1] > back)
        # Each worker has noticed for itself, or not: what one says comes with the next request that it is asked.
        runner.wait_for_log("answers again")
    assert first - killed < 0.5 + 1.0, "the policy holds within one timeout"
    assert {status for _, status in load.refused} == {503}
    assert load.slowest < 0.5 + 1.5
    assert "does not answer and is left alone" in runner.log
