"""Spans and metrics of what runs on Kong."""

from __future__ import annotations

import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.collector import Collector, attributes
from tests.kong.conftest import Start, wait_until
from tests.kong.peer import Exited
from tests.kong.test_native_on_kong import ASYNC, NATIVE, REQUEST

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
KONGS = """
class Plugin(object):
    def __init__(self, config):
        self.config = config
    def access(self, kong):
        if self.config.get("fail"):
            raise RuntimeError("as meant")
        kong.response.set_header("x-path", kong.request.get_path()[0])
        if self.config.get("exit"):
            kong.response.exit(403)
    async def rewrite(self, kong):
        await kong.response.set_header("x-path", (await kong.request.get_path())[0])
    def log(self, kong):
        pass
    def certificate(self, kong):
        pass
"""
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
TRACED: dict[str, Any] = {
    **REQUEST,
    "kong.request.get_header": HEADERS.get,
    "kong.nginx.get_subsystem": lambda: "http",
}


@pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])
@pytest.mark.parametrize("flags", [(), ("-g",)], ids=["plain", "-g"])
def test_spans_continue_the_requests_trace(
    start: Start, collector: Collector, protocol: str, flags: tuple[str, ...]
) -> None:
    environ = {"GATEWRIGHT_TRACING": f"http://127.0.0.1:{collector.server_port}"}
    server = start(protocol, *flags, plain=KONGS, sync=NATIVE.format(async_="", await_=""), environ=environ)
    with server.kong() as kong:
        instance = kong.start("plain", {})
        kong.event(instance, "access", TRACED)
        assert kong.calls[-1] == ("kong.response.set_header", ["x-path", "/a%20b"])
        kong.event(instance, "rewrite", TRACED)
        kong.event(instance, "log", TRACED)
        with pytest.raises(Exited) as exited:
            kong.event(kong.start("plain", {"exit": True}), "access", TRACED)
        assert exited.value.status == 403
        with pytest.raises(Exited) as exited:
            kong.event(kong.start("plain", {"fail": True}), "access", TRACED)
        assert exited.value.status == 500
        kong.event(kong.start("greet", {}), "access", TRACED)
        kong.event(instance, "certificate", {})
    wait_until(lambda: len(collector.spans) >= 14)
    assert len(collector.spans) == 14
    phases = [span for span in collector.spans if span.name.startswith("gatewright ")]
    assert sorted(span.name for span in phases) == [
        *["gatewright access"] * 4, "gatewright certificate", "gatewright log", "gatewright rewrite",
    ]  # fmt: skip
    for span in phases:
        continues = (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert continues == (span.name != "gatewright certificate")
    by_id = {span.span_id: span for span in phases}
    handlers = [span for span in collector.spans if span.span_id not in by_id]
    assert sorted(span.name for span in handlers) == [
        "greet on_request", *["plain access"] * 3, "plain certificate", "plain log", "plain rewrite",
    ]  # fmt: skip
    assert all(span.trace_id == by_id[span.parent_span_id].trace_id for span in handlers)
    assert {attributes(span)["gatewright.route"] for span in phases} == {"plain#global", "greet#global"}
    assert sorted(span.status.code for span in phases) == [0] * 6 + [2], "the refused one, not the one that answered"


def test_an_async_native_plugin_is_traced(start: Start, collector: Collector) -> None:
    environ = {"GATEWRIGHT_TRACING": f"http://127.0.0.1:{collector.server_port}"}
    server = start("msgpack", native=NATIVE.format(**ASYNC), environ=environ)
    with server.kong() as kong:
        kong.event(kong.start("greet", {}), "access", TRACED)
    wait_until(lambda: len(collector.spans) >= 2)
    assert sorted(span.name for span in collector.spans) == ["gatewright access", "greet on_request"]


def test_a_kong_that_does_not_tell_the_trace_is_served(start: Start, collector: Collector) -> None:
    environ = {"GATEWRIGHT_TRACING": f"http://127.0.0.1:{collector.server_port}"}
    server = start("msgpack", plain=KONGS, environ=environ)
    pdk = {**REQUEST, "kong.request.get_header": lambda _: LookupError("not here")}
    with server.kong() as kong:
        kong.event(kong.start("plain", {}), "access", pdk)
        assert kong.calls[-1] == ("kong.response.set_header", ["x-path", "/a%20b"])
    wait_until(lambda: len(collector.spans) >= 2)
    assert not any(span.parent_span_id for span in collector.spans if span.name == "gatewright access")
    assert "trace not continued" in server.log


def test_metrics_count_phases(start: Start, tmp_path: Path) -> None:
    server = start("protobuf", plain=KONGS, environ={"GATEWRIGHT_METRICS": f"unix:{tmp_path / 'metrics'}"})
    with server.kong() as kong:
        instance = kong.start("plain", {})
        for phase in ("access", "access", "rewrite", "log", "invented"):
            kong.event(instance, phase, REQUEST)
        with pytest.raises(Exited):
            kong.event(kong.start("plain", {"exit": True}), "access", REQUEST)
        with pytest.raises(Exited):
            kong.event(kong.start("plain", {"fail": True}), "access", REQUEST)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "metrics"))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b"".join(iter(partial(client.recv, 65536), b"")).decode()
    lines = text.splitlines()
    counts = {"access": 4, "rewrite": 1, "log": 1, "response": 0, "certificate": 0, "preread": 0}
    told = {line for line in lines if line.startswith("gatewright_calls_total")}
    assert told == {f'gatewright_calls_total{{phase="{phase}"}} {count}.0' for phase, count in counts.items()}
    assert "gatewright_answered_total 1.0" in lines
    assert 'gatewright_extra_info_total{kind="pdk"} 8.0' in lines


def test_a_trace_that_is_not_told_in_time_changes_nothing_else(start: Start, collector: Collector) -> None:
    def slow(_: str) -> str:
        time.sleep(0.8)
        return HEADERS["traceparent"]

    source = NATIVE.format(**ASYNC).replace("    priority = 900\n", "    priority = 900\n    timeout = 0.5\n")
    environ = {"GATEWRIGHT_TRACING": f"http://127.0.0.1:{collector.server_port}"}
    server = start("msgpack", native=source, environ=environ)
    with server.kong() as kong:
        kong.event(kong.start("greet", {}), "access", {**REQUEST, "kong.request.get_header": slow})
        assert ("kong.service.request.set_raw_body", [b"new"]) in kong.calls
    assert "held the loop" not in server.log
