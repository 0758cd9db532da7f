"""What the plugins that come along share."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gatewright import ConfigError, Plugin, Request, Response
from gatewright.plugins._shared.addresses import parse_address
from gatewright.plugins._shared.breaker import CircuitBreaker, CircuitState
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.expiring import ExpiringCache
from gatewright.plugins._shared.extras import extra
from gatewright.plugins._shared.keys import KeyTemplate
from gatewright.plugins._shared.proxies import proxy_of
from tests.plugins.harness import Gateway


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Keyed(Plugin):
    """Answers with its key."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._key = KeyTemplate(self.config["key"])

    async def on_request(self, request: Request) -> Response:
        if "as" in self.config:
            request.ctx["consumer"] = self.config["as"]
        return Response(200, body=await self._key.render(request))


PLUGINS: list[str] = []
OWN = [Keyed]


def key_of(gateway: Gateway, template: str, **request: Any) -> str:
    conf = {"key": template, **request.pop("conf", {})}
    outcome = gateway.route(("keyed", conf), id="9").request(**request)
    assert not outcome.failed
    return outcome.body.decode()


def test_keys(gateway: Gateway) -> None:
    assert key_of(gateway, "{client_ip}", client="192.0.2.7") == "192.0.2.7"
    assert key_of(gateway, "{client_ip}", client="2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64"
    assert key_of(gateway, "{client_ip}", client="::ffff:192.0.2.7") == "192.0.2.7"
    assert key_of(gateway, "{method}:{path}", path="/a:b") == "GET:/a%3Ab"
    assert key_of(gateway, "{route}") == ("route#9" if gateway.kind == "apisix" else "9")
    assert key_of(gateway, "{consumer}", consumer="jack") == "jack"
    assert key_of(gateway, "{consumer}") == ""
    assert key_of(gateway, "{consumer}", consumer="jack", conf={"as": "jill"}) == "jill"
    assert key_of(gateway, "global") == "global"


def test_what_a_client_says_is_in_a_key_as_a_digest(gateway: Gateway) -> None:
    one = key_of(gateway, "{header:X-Api-Key}", headers={"x-api-key": "s3cret"})
    assert len(one) == 24
    assert "s3cret" not in one
    assert key_of(gateway, "{header:x-api-key}", headers={"x-api-key": "other"}) != one
    assert key_of(gateway, "{query:k}", query=[("k", "s3cret")]) == one
    assert key_of(gateway, "{cookie:k}", headers={"cookie": "a=1; k=s3cret"}) == one
    assert key_of(gateway, "{var:x}", variables={"x": "s3cret"}) == one
    assert key_of(gateway, "{header:x-api-key}") == ""


@pytest.mark.parametrize("text", ["{client}", "{header}", "{client_ip:x}", "{", "a}b", "{header:}"])
def test_a_template_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a key's parts are"):
        KeyTemplate(text)


def test_the_breaker() -> None:
    clock, states = Clock(), []
    breaker = CircuitBreaker(failures=3, pause=1, longest_pause=3, trial_seconds=10, clock=clock,
                             on_change=states.append)  # fmt: skip
    breaker.failed()
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    assert 0 < breaker.retry_after <= 1.1
    clock.now += 1.2
    assert [breaker.allows() for _ in range(3)] == [True, False, False], "one tries"
    breaker.failed()
    clock.now += 1.2
    assert not breaker.allows(), "twice as long as before"
    clock.now += 1.2
    assert breaker.allows()
    clock.now += 10
    assert breaker.allows(), "of the one that tried nothing was heard"
    breaker.succeeded()
    assert breaker.allows()
    assert states == [CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.OPEN, CircuitState.HALF_OPEN,
                      CircuitState.CLOSED]  # fmt: skip


def test_the_cache_forgets() -> None:
    clock = Clock()
    cache: ExpiringCache[str, bytes] = ExpiringCache(2, most_bytes=10, size_of=len, clock=clock)
    cache.put("a", b"1", 5)
    cache.put("b", b"2", 5)
    assert cache.get("a") == b"1"
    cache.put("c", b"3", 50)
    assert cache.get("b") is None, "it was used longest ago"
    clock.now += 6
    assert cache.get("a") is None
    assert (len(cache), cache.bytes) == (1, 1)
    cache.put("d", b"12345678901", 5)
    assert cache.get("d") is None, "it is larger than all"
    cache.put("e", b"1234567890", 5)
    assert cache.get("c") is None
    cache.put("e", b"", 0)
    assert (len(cache), cache.bytes) == (0, 0)


def test_counters_are_bounded() -> None:
    count = counter("test_bounded", "For this test.", ["key"], most=3)
    assert counter("test_bounded", "For this test.", ["key"]) is count
    for number in range(10):
        count.add(str(number))
        count.add(str(number))
    count.add("\udc80\udc80")
    assert _counted("test_bounded") == {"0": 2, "1": 2, "2": 2, "other": 15}


def test_series_that_are_shown_alike_are_one() -> None:
    count = counter("test_alike", "For this test.", ["key"])
    count.add("x" * 300)
    count.series("x" * 301).count += 2
    assert _counted("test_alike") == {"x" * 200: 3}


def _counted(name: str) -> dict[str, float]:
    (family,) = (each for each in REGISTRY.collect() if each.name == name)
    return {sample.labels["key"]: sample.value for sample in family.samples}


def test_a_missing_extra_says_what_to_install() -> None:
    told = r"plugin x needs no_such_package.*pip install 'gatewright\[redis\]'"
    with pytest.raises(ConfigError, match=told), extra("redis", plugin="x"):
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401


def test_a_key_that_needs_no_question_needs_no_loop() -> None:
    """What renders without waiting never suspends: the coroutine ends with its first step."""

    class Asked:
        method = "GET"

    coroutine = KeyTemplate("{method}:x").render(Asked())  # type: ignore[arg-type]
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    assert end.value.value == "GET:x"
    assert asyncio.iscoroutine(coroutine)


def test_an_address_is_one_however_it_is_written_and_has_a_length() -> None:
    for text in ("fe80::1", "fe80::1%eth0", "fe80::1%" + "x" * 50, "[fe80::1]:443", " fe80:0::1 "):
        assert str(parse_address(text)) == "fe80::1"
    before = parse_address.cache_info().currsize
    for text in ("fe80::1%" + "x" * 100, "192.0.2.1" + " " * 100):
        with pytest.raises(ValueError, match="an address of"):
            parse_address(text)
    assert parse_address.cache_info().currsize == before


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://id.example/keys", None),
        ({"HTTPS_PROXY": "http://u:p@10.0.0.1:3128"}, "https://id.example/keys", "http://u:p@10.0.0.1:3128"),
        ({"https_proxy": "10.0.0.1:3128"}, "https://id.example/keys", "http://10.0.0.1:3128"),
        ({"HTTP_PROXY": "http://10.0.0.1"}, "https://id.example/keys", None),
        ({"ALL_PROXY": "http://10.0.0.1"}, "https://id.example/keys", "http://10.0.0.1"),
        ({"HTTPS_PROXY": "http://10.0.0.1", "NO_PROXY": "other,.example"}, "https://id.example:8443/keys", None),
        ({"HTTPS_PROXY": "http://10.0.0.1", "NO_PROXY": "*"}, "https://id.example/keys", None),
        ({"HTTP_PROXY": "http://10.0.0.1"}, "http://localhost:8080/keys", None),
        ({"HTTP_PROXY": "http://10.0.0.1"}, "http://[::1]:8080/keys", None),
        ({"HTTP_PROXY": "http://10.0.0.1"}, "http://127.0.0.1:8080/keys", None),
    ],
)
def test_which_proxy(environment: dict[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == proxy
