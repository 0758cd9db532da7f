"""Collectors of plugins' metrics hold no loop: the slow ones are asked in threads, and tell what they gave before."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
import pytest
from prometheus_client.core import GaugeMetricFamily
from structlog.testing import capture_logs

from gatewright.observe.report import MOST_SAMPLES
from gatewright.runtime.failures import FailureLog
from gatewright.server.worker.own_metrics import OwnMetrics

Register = Callable[[Callable[[], Any]], None]


@pytest.fixture
def register() -> Iterator[Register]:
    there: list[Any] = []

    def make(collect: Callable[[], Any]) -> None:
        class Collector:
            def describe(self) -> list[Any]:
                return []

            def collect(self) -> Any:
                return collect()

        there.append(Collector())
        prometheus_client.REGISTRY.register(there[-1])

    yield make
    for each in there:
        prometheus_client.REGISTRY.unregister(each)


def value(metrics: OwnMetrics, name: str) -> float | None:
    return next((sample.value for sample in metrics.samples() if sample.name == name), None)


def test_one_that_is_quick_tells_what_is_so_now(register: Register) -> None:
    numbers = itertools.count(1)
    register(lambda: [GaugeMetricFamily("collectors_quick", "q", value=next(numbers))])
    metrics = OwnMetrics(FailureLog())
    assert [value(metrics, "collectors_quick") for _ in range(3)] == [1, 2, 3]


def test_one_that_is_slow_holds_nobody_up_and_tells_what_was_so_before(register: Register) -> None:
    go, numbers = threading.Event(), itertools.count(1)

    def ask_a_database() -> list[Any]:
        assert go.wait(20)
        return [GaugeMetricFamily("collectors_slow", "s", value=next(numbers))]

    register(ask_a_database)
    metrics = OwnMetrics(FailureLog())
    with capture_logs() as lines:
        began = time.monotonic()
        for _ in range(20):
            assert value(metrics, "collectors_slow") is None
        assert time.monotonic() - began < 3, "waited for once, and a moment only"
        assert threading.active_count() < 20, "nor is it asked anew while it's asked"
    assert [line["metric"] for line in lines] == ["Collector"]
    go.set()
    deadline = time.monotonic() + 10
    while value(metrics, "collectors_slow") is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_without_an_end_is_left_out(register: Register) -> None:
    register(lambda: (GaugeMetricFamily("collectors_endless", "e", value=1) for _ in itertools.count()))
    metrics = OwnMetrics(FailureLog())
    with capture_logs() as lines:
        deadline = time.monotonic() + 10
        while not any(f"more than {MOST_SAMPLES}" in str(line.get("error")) for line in lines):
            assert time.monotonic() < deadline
            metrics.samples()


def test_a_gauges_own_function_is_waited_for_once() -> None:
    gauge = prometheus_client.Gauge("collectors_gauge", "g")
    gauge.set_function(lambda: time.sleep(0.3) or 7.0)
    try:
        metrics = OwnMetrics(FailureLog())
        assert value(metrics, "collectors_gauge") == 7
        began = time.monotonic()
        value(metrics, "collectors_gauge")
        assert time.monotonic() - began < 0.25
        deadline = time.monotonic() + 10
        while value(metrics, "collectors_gauge") != 7:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        prometheus_client.REGISTRY.unregister(gauge)
