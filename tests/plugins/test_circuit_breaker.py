from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from gatewright import ConfigError
from gatewright.plugins.circuit_breaker import CircuitBreaker
from tests.plugins.harness import Gateway, Route

PLUGINS = ["circuit-breaker"]
_routes = itertools.count()


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock of the test's own, for circuits made from now on."""
    now = [1000.0]
    defaults = dict(CircuitBreaker._breaker.__globals__["Breaker"].__init__.__kwdefaults__)
    monkeypatch.setattr(
        "gatewright.plugins.circuit_breaker.Breaker.__init__.__kwdefaults__", {**defaults, "clock": lambda: now[0]}
    )

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


def route(gateway: Gateway, **conf: object) -> Route:
    return gateway.route(("circuit-breaker", {"failures": 3, **conf}), id=f"cb-{gateway.kind}-{next(_routes)}")


def ask(route: Route, status: int) -> int:
    """A request that the upstream answers with this status, if it gets there."""
    outcome = route.request()
    assert not outcome.failed
    if not outcome.status:
        route.answered(status)
        return status
    return outcome.status


def test_after_failures_in_a_row_nobody_asks(gateway: Gateway, pass_time: Callable[[float], None]) -> None:
    made = route(gateway, status=555, body="gone", pause=2)
    assert [ask(made, status) for status in (500, 503, 200, 500, 502, 504)] == [500, 503, 200, 500, 502, 504]
    refused = made.request()
    assert (refused.status, refused.body) == (555, b"gone")
    assert refused.headers["retry-after"] in ("2", "3")
    pass_time(2.5)
    assert ask(made, 500) == 500, "one tries"
    assert ask(made, 200) == 555
    pass_time(2.5)
    assert ask(made, 200) == 555, "the second pause is twice as long"
    pass_time(2.5)
    assert [ask(made, 200) for _ in range(3)] == [200, 200, 200]


def test_one_tries_and_the_others_wait_for_it(gateway: Gateway, pass_time: Callable[[float], None]) -> None:
    made = route(gateway, failures=1, pause=1, trial=10)
    ask(made, 500)
    pass_time(1.5)
    assert made.request().status == 0
    assert [made.request().status for _ in range(2)] == [503, 503]
    made.answered(200)
    assert made.request().status == 0


def test_what_counts_as_a_failure(gateway: Gateway) -> None:
    made = route(gateway, failures=1, statuses=[404])
    assert [ask(made, status) for status in (500, 404, 200)] == [500, 404, 503]


def test_routes_of_one_upstream_may_have_one_circuit(gateway: Gateway) -> None:
    name = f"{gateway.kind}-{next(_routes)}"
    one, other, alone = (route(gateway, failures=1, namespace=name) for _ in range(3))
    alone = route(gateway, failures=1)
    ask(one, 500)
    assert other.request().status == 503
    assert alone.request().status == 0


def test_what_plugins_answer_says_nothing_of_the_upstream(gateway: Gateway) -> None:
    if gateway.kind == "apisix":
        pytest.skip("there the response phase runs for the upstream's answers only")
    made = route(gateway, failures=1)
    assert made.request().status == 0
    made.answered(503, source="exit")
    assert made.request().status == 0
    made.answered(502, source="error")
    assert made.request().status == 503


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ({"failures": 0}, ">= 1"),
        ({"statuses": []}, "length >= 1"),
        ({"statuses": [99]}, ">= 100"),
        ({"pause": 5, "longest_pause": 1}, "longest_pause must not be less"),
    ],
)
def test_what_cannot_be_meant_is_refused(conf: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        CircuitBreaker(conf)
