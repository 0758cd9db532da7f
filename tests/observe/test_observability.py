"""Metrics, health, status, logs and traces of running runners."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gatewright.gateways.apisix import calls
from gatewright.observe.control import ControlError, ask, ask_json
from gatewright.observe.report import Sample, TallyReport, WorkerReport, add_up
from tests.collector import Collector, attributes
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Refused

WriteFiles = Callable[..., Path]

COUNTED = """
import logging, time
from gatewright import Plugin, Response
from prometheus_client import Counter
seen = Counter("my_requests", "Seen by my plugin", ["kind"])
class Counted(Plugin):
    version = "1.2.3"
    def on_request(self, request):
        seen.labels("all").inc()
        if request.path == "/stop":
            return Response(403)
        if request.path == "/fail":
            raise RuntimeError("as meant, password=hunter2")
        if request.path == "/ask":
            request.headers["x-a"] = request.var("remote_addr") or ""
        if request.path == "/log":
            self.log.info("by the plugin, token=%s", "abc123")
            logging.getLogger("elsewhere").warning("by a library", extra={"api_key": "k", "amount": 3})
            request.headers["x"] = "1"
    def on_response(self, request, response):
        response.headers["x"] = "1"
class Thinks(Plugin):
    async def on_request(self, request):
        await request.body()
        self.log.info("after a wait")
class Sleeps(Plugin):
    blocking = True
    def on_request(self, request):
        self.log.info("in a thread")
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def get(url: str, method: str = "GET", accept: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url, method=method, headers={"accept": accept} if accept else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


Counts = dict[tuple[str, frozenset[tuple[str, str]]], float]


def metrics(text: str) -> Counts:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(counts: Counts, name: str, **labels: str) -> float:
    return counts[name, frozenset(labels.items())]


@pytest.fixture
def observed(start_runner: StartRunner, plugin_dir: WriteFiles) -> tuple[RunnerProcess, str]:
    port = free_port()
    runner = start_runner("-p", plugin_dir(counted=COUNTED), "--workers", "2", "--metrics", f"127.0.0.1:{port}")
    runner.wait_for_log("listening")
    return runner, f"http://127.0.0.1:{port}"


def test_metrics_are_summed_over_workers_and_outlive_them(observed: tuple[RunnerProcess, str]) -> None:
    runner, url = observed
    peers = [runner.peer() for _ in range(4)]
    token = peers[0].prepare(("counted", "{}"), key="route#7")
    for peer in peers:
        for path in ("/", "/stop", "/ask"):
            peer.request(token, path, answers={"remote_addr": b"192.0.2.1"})
        with pytest.raises(Refused):
            peer.request(token, "/fail")
        peer.response(token)
    with pytest.raises(Refused):
        peers[0].request(123)
    status, text = get(f"{url}/metrics")
    assert status == 200
    counts = metrics(text)
    assert value(counts, "gatewright_calls_total", phase="request") == 16
    assert value(counts, "gatewright_calls_total", phase="response") == 4
    assert value(counts, "gatewright_answered_total") == 4
    assert value(counts, "gatewright_refused_total", reason="service unavailable") == 4
    assert value(counts, "gatewright_refused_total", reason="conf token not found") == 1
    assert value(counts, "gatewright_failures_total", kind="plugin_error", plugin="counted") == 4
    assert value(counts, "gatewright_extra_info_total", kind="var") == 8  # 4 of the plugin, 4 for the method
    assert value(counts, "gatewright_conf_tokens_total", result="miss") == 1
    assert value(counts, "gatewright_conf_prepared_total") == 1
    assert value(counts, "gatewright_configurations") == 1
    assert (
        value(counts, "gatewright_connections", worker="1") + value(counts, "gatewright_connections", worker="2") == 4
    )
    assert value(counts, "gatewright_received_bytes_total") > 1000
    assert value(counts, "gatewright_sent_bytes_total") > 300
    assert value(counts, "gatewright_chains", worker="2") == 1
    of_route = {"plugin": "counted", "route": "route#7"}
    assert value(counts, "gatewright_plugin_seconds_count", phase="request", **of_route) == 16
    assert value(counts, "gatewright_plugin_seconds_bucket", phase="request", le="+Inf", **of_route) == 16
    assert 0 < value(counts, "gatewright_plugin_seconds_sum", phase="response", **of_route) < 1
    assert value(counts, "my_requests_total", kind="all") == 16

    os.kill(runner.process.pid, signal.SIGHUP)
    runner.wait_for_log("reloaded")
    runner.wait_for(lambda: len(runner.status()["workers"]) == 2)
    counts = metrics(get(f"{url}/metrics")[1])
    assert value(counts, "gatewright_calls_total", phase="request") == 16
    assert value(counts, "my_requests_total", kind="all") == 16
    assert value(counts, "gatewright_plugin_seconds_count", phase="request", **of_route) == 16
    assert value(counts, "gatewright_reloads_total", result="ok") == 1
    assert value(counts, "gatewright_worker_exits_total", reason="retired") == 2
    for peer in peers:
        peer.close()


def test_metrics_speak_openmetrics_too(observed: tuple[RunnerProcess, str]) -> None:
    _, text = get(f"{observed[1]}/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert text.rstrip().endswith("# EOF")


def test_health_and_status(observed: tuple[RunnerProcess, str]) -> None:
    runner, url = observed
    assert get(f"{url}/healthz") == (200, "ok\n")
    assert get(f"{url}/readyz") == (200, "ready\n")
    assert get(f"{url}/readyz", method="HEAD") == (200, "")
    assert get(f"{url}/nothing")[0] == 404
    with runner.peer() as peer:
        peer.prepare(("counted", "{}"), key="route#good")
        bad = peer.prepare(("counted", "not JSON"), key="route#bad")
        with pytest.raises(Refused):
            peer.request(bad)
    assert not {"chains", "last_errors"} & json.loads(get(f"{url}/status")[1]).keys()  # they may quote requests
    status = runner.status()
    assert status["ready"] is True
    assert [worker["number"] for worker in status["workers"]] == [1, 2]
    counted = next(plugin for plugin in status["plugins"] if plugin["name"] == "counted")
    assert counted["version"] == "1.2.3"
    assert counted["phases"] == ["on_request", "on_response"]
    assert counted["source"].endswith("counted.py")
    chains = {chain["key"]: chain for chain in status["chains"]}
    assert chains["route#good"]["ready"] is True
    assert chains["route#bad"]["plugins"][0]["state"] == "broken"
    assert "not JSON" not in json.dumps(status)  # configurations hold secrets
    assert any(error["plugin"] == "counted" for error in status["last_errors"])


def test_the_metrics_address_can_change_nothing(observed: tuple[RunnerProcess, str]) -> None:
    assert get(f"{observed[1]}/reload", method="POST")[0] == 404
    assert get(f"{observed[1]}/metrics", method="POST")[0] == 405
    assert observed[0].status()["last_reload"] is None


def test_broken_requests_and_idle_clients_do_no_harm(observed: tuple[RunnerProcess, str]) -> None:
    port = int(observed[1].rpartition(":")[2])
    idle = socket.create_connection(("127.0.0.1", port))
    with socket.create_connection(("127.0.0.1", port)) as broken:
        broken.settimeout(5)
        broken.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert broken.recv(100).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", port)) as keeping:
        keeping.settimeout(5)
        for _ in range(3):
            keeping.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"ok\n" in keeping.recv(1000)
    idle.close()
    assert get(f"{observed[1]}/healthz")[0] == 200


def test_a_runner_without_workers_is_not_ready(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    port = free_port()
    source = "import time\nfrom gatewright import Plugin\ntime.sleep(3)\nclass P(Plugin):\n    pass\n"
    runner = start_runner("-p", plugin_dir(slow=source), "--metrics", f"127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}"
    runner.wait_for(lambda: answers(port))
    assert get(f"{url}/healthz")[0] == 200
    assert get(f"{url}/readyz")[0] == 503
    runner.wait_for(lambda: get(f"{url}/readyz")[0] == 200)


def test_metrics_over_a_unix_socket(start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    runner = start_runner("-p", plugin_dir(counted=COUNTED), "--metrics", f"unix:{path}")
    runner.wait_for_log("listening")
    status, body = ask(str(path), "/metrics")
    assert status == 200
    assert b"gatewright_workers" in body
    assert ask(str(path), "/reload", method="POST")[0] == 404
    runner.stop()
    assert not path.exists()


def test_the_control_socket_is_its_owners_alone_and_goes_with_the_runner(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(counted=COUNTED), "--socket-mode", "0666")
    control = Path(f"{runner.socket}.control")
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    assert ask_json(str(control), "/log-level?level=loud", method="POST")[0] == 400
    assert runner.stop() == 0
    assert not control.exists()
    with pytest.raises(ControlError, match="no runner runs with this control socket"):
        ask_json(str(control), "/status")


# --- logs


def lines(runner: RunnerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in runner.log.splitlines() if line.startswith("{")]


def line(runner: RunnerProcess, event: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    runner.wait_for(lambda: bool(found.extend(e for e in lines(runner) if event in e["event"]) or found))
    return found[0]


def test_json_logs_carry_call_route_plugin_and_request_id(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(counted=COUNTED), "--log-format", "json")
    headers = (("host", "h"), ("x-request-id", "r-1"))
    with runner.peer() as peer:
        token = peer.prepare(("counted", "{}"), key="route#7")
        peer.request(token, "/log", headers=headers, id=5)
        with pytest.raises(Refused):
            peer.request(token, "/fail", headers=headers, id=6)
        peer.request(peer.prepare(("thinks", "{}"), key="route#8"), headers=headers, id=7)
        peer.request(peer.prepare(("sleeps", "{}"), key="route#9"), headers=headers, id=8)
    own = line(runner, "by the plugin")
    assert own["event"] == "by the plugin, token=[redacted]"
    assert own["logger"] == "gatewright.plugin.counted"
    bound = {"call": 5, "route": "route#7", "plugin": "counted", "request_id": "r-1", "worker": 1}
    assert own.items() >= bound.items()
    library = line(runner, "by a library")
    assert library.items() >= {**bound, "level": "warning", "amount": 3, "api_key": "[redacted]"}.items()
    failed = line(runner, "plugin failed")
    assert failed["error"] == "RuntimeError: as meant, password=[redacted]"
    assert 'raise RuntimeError("as meant' in failed["exception"]
    assert "hunter2" not in runner.log
    assert line(runner, "after a wait").items() >= {"call": 7, "route": "route#8", "plugin": "thinks"}.items()
    assert line(runner, "in a thread").items() >= {"call": 8, "route": "route#9", "plugin": "sleeps"}.items()


def test_the_level_changes_at_run_time_in_all_workers(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(counted=COUNTED), "--workers", "2", "--log-level", "warning")
    with runner.peer() as one, runner.peer() as other:
        token = one.prepare(("counted", "{}"))
        one.request(token, "/log")
        assert ask_json(f"{runner.socket}.control", "/log-level?level=info", method="POST")[0] == 200
        runner.wait_for(lambda: runner.log.count("log level set") == 3)
        assert "by the plugin" not in runner.log
        one.request(token, "/log")
        other.request(token, "/log")
    runner.wait_for(lambda: runner.log.count("by the plugin") == 2)


def test_sigusr1_reopens_the_log_file_everywhere(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    file, moved = tmp_path / "own.log", tmp_path / "own.log.1"
    runner = start_runner("-p", plugin_dir(counted=COUNTED), "--log-file", file)
    with runner.peer() as peer:
        token = peer.prepare(("counted", "{}"))
        file.rename(moved)
        runner.process.send_signal(signal.SIGUSR1)
        runner.wait_for(file.exists)
        runner.wait_for(lambda: peer.request(token, "/log") is not None and "by the plugin" in file.read_text())
    assert "listening" in moved.read_text()


# --- traces


def test_spans_continue_the_requests_trace(
    start_runner: StartRunner, plugin_dir: WriteFiles, collector: Collector
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    runner = start_runner("-p", plugin_dir(counted=COUNTED), "--tracing", endpoint)
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = (("traceparent", f"00-{trace}-{parent}-01"), ("x-request-id", "r-1"))
    with runner.peer() as peer:
        token = peer.prepare(("counted", "{}"), ("thinks", "{}"), ("sleeps", "{}"), key="route#7")
        peer.request(token, "/path", headers=headers)
        with pytest.raises(Refused):
            peer.request(token, "/fail", headers=headers)
        peer.response(token, answers={"http_traceparent": f"00-{trace}-{parent}-01".encode()})
        with pytest.raises(Refused):
            peer.request(99, headers=headers)
    runner.stop()
    deadline = time.monotonic() + 10
    while len(collector.spans) < 9:
        assert time.monotonic() < deadline, collector.spans
        time.sleep(0.05)
    assert {span.trace_id.hex() for span in collector.spans} == {trace}
    calls_ = [span for span in collector.spans if span.parent_span_id.hex() == parent]
    assert sorted(span.name for span in calls_) == [*["gatewright request"] * 3, "gatewright response"]
    ids = {span.span_id for span in calls_}
    handlers = [span for span in collector.spans if span.span_id not in ids]
    assert all(span.parent_span_id in ids for span in handlers)
    assert sorted(span.name for span in handlers) == [
        "counted on_request", "counted on_request", "counted on_response", "sleeps on_request", "thinks on_request",
    ]  # fmt: skip
    served = next(span for span in calls_ if attributes(span).get("url.path") == "/path")
    assert attributes(served)["gatewright.route"] == "route#7"
    assert attributes(served)["http.request.header.x-request-id"] == "r-1"
    failed = next(span for span in calls_ if attributes(span).get("url.path") == "/fail")
    assert failed.status.code == 2
    (told,) = (event for span in handlers for event in span.events if event.name == "exception")
    texts = {item.key: item.value.string_value for item in told.attributes}
    assert texts["exception.type"] == "builtins.RuntimeError"
    assert texts["exception.message"] == "as meant, password=[redacted]"
    assert 'raise RuntimeError("as meant' in texts["exception.stacktrace"]
    assert not any(b"hunter2" in span.SerializeToString() for span in collector.spans)


OWN_SPANS = """
from opentelemetry import trace
from gatewright import Plugin
tracer = trace.get_tracer("own")
class Own(Plugin):
    async def on_request(self, request):
        with tracer.start_as_current_span("looked up"):
            pass
class Blocking(Plugin):
    blocking = True
    def on_request(self, request):
        with tracer.start_as_current_span("in a thread"):
            pass
"""


def test_a_plugins_own_spans_are_children_of_its_span(
    start_runner: StartRunner, plugin_dir: WriteFiles, collector: Collector
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    runner = start_runner("-p", plugin_dir(own=OWN_SPANS), "--tracing", endpoint)
    with runner.peer() as peer:
        peer.request(peer.prepare(("own", "{}"), ("blocking", "{}")))
    runner.stop()
    deadline = time.monotonic() + 10
    while len(collector.spans) < 5:
        assert time.monotonic() < deadline, collector.spans
        time.sleep(0.05)
    by_name = {span.name: span for span in collector.spans}
    assert by_name["looked up"].parent_span_id == by_name["own on_request"].span_id
    assert by_name["in a thread"].parent_span_id == by_name["blocking on_request"].span_id


def test_untraced_requests_begin_traces_of_their_own_and_sampling_leaves_some_out(
    start_runner: StartRunner, plugin_dir: WriteFiles, collector: Collector
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    runner = start_runner("-p", plugin_dir(counted=COUNTED), "--tracing", endpoint, "--tracing-sample", "0")
    with runner.peer() as peer:
        token = peer.prepare(("counted", "{}"))
        peer.request(token)
        peer.request(token, headers=(("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),))
    runner.stop()
    deadline = time.monotonic() + 10
    while len(collector.spans) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {span.trace_id.hex() for span in collector.spans} == {"a" * 32}


def test_a_collector_that_is_away_disturbs_nobody(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(counted=COUNTED), "--tracing", f"http://127.0.0.1:{free_port()}")
    with runner.peer() as peer:
        token = peer.prepare(("counted", "{}"))
        for _ in range(100):
            peer.request(token)
    began = time.monotonic()
    assert runner.stop() == 0
    assert time.monotonic() - began < 3


# --- overload

CROWDED = """
import asyncio, time
from gatewright import Plugin
class Crowded(Plugin):
    max_concurrent = 2
    async def on_request(self, request):
        await request.body()
class CrowdedSync(Plugin):
    max_concurrent = 2
    def on_request(self, request):
        request.body()
class Threads(Plugin):
    blocking = True
    def on_request(self, request):
        time.sleep(0.5)
class Holds(Plugin):
    async def on_request(self, request):
        if request.path == "/hold":
            time.sleep(0.6)
        request.headers["x"] = "1"
class Leaks(Plugin):
    blocking = True
    timeout = 0.1
    def on_request(self, request):
        time.sleep(1.5)
"""


@pytest.mark.parametrize("name", ["crowded", "crowded-sync"])
def test_one_call_too_many_for_a_plugin_is_refused_at_once(
    start_runner: StartRunner, plugin_dir: WriteFiles, name: str
) -> None:
    runner = start_runner("-p", plugin_dir(crowded=CROWDED))
    peers = [runner.peer() for _ in range(3)]
    token = peers[0].prepare((name, "{}"))
    frame = calls.encode_http_req_call(
        id=0, conf_token=token, src_ip=b"\x7f\0\0\1", method="GET", path="/", args=(), headers=()
    )
    for peer in peers[:2]:
        peer.send(frame)
        assert peer.receive()[0] == 3
    with pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
        peers[2].request(token)
    for peer in peers[:2]:
        peer.send(calls.encode_extra_info_result(b""))
        assert peer.receive()[0] == 2
    assert peers[2].request(token, answers={"REQ_BODY": b""}) is None
    assert "plugin is overloaded" in runner.log
    assert "max_concurrent" in runner.log
    for peer in peers:
        peer.close()


def test_a_full_queue_for_threads_refuses(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(crowded=CROWDED), "--threads", "1", "--thread-queue", "1")
    peers = [runner.peer() for _ in range(3)]
    token = peers[0].prepare(("threads", "{}"))
    frame = calls.encode_http_req_call(
        id=0, conf_token=token, src_ip=b"\x7f\0\0\1", method="GET", path="/", args=(), headers=()
    )
    for peer in peers:
        peer.send(frame)
    assert sorted(peer.receive()[0] for peer in peers) == [0, 2, 2]
    for peer in peers:
        peer.close()


@pytest.mark.alone
def test_a_lagging_loop_sheds_calls_and_recovers(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(crowded=CROWDED), "--max-lag", "0.3")
    with runner.peer() as one:
        token = one.prepare(("holds", "{}"))
        one.request(token, "/hold")
        refused = 0
        deadline = time.monotonic() + 10
        while True:
            with runner.peer() as peer:
                try:
                    peer.request(token)
                    if refused:
                        break
                except Refused as error:
                    assert str(error) == "SERVICE_UNAVAILABLE"
                    refused += 1
            if not refused:
                one.request(token, "/hold")
            assert time.monotonic() < deadline
    assert "the loop lags" in runner.log


def test_a_thread_that_outlives_its_deadline_is_counted_until_it_ends(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(crowded=CROWDED))
    name = f"{runner.socket}.control"

    def abandoned() -> float:
        return value(metrics(ask(name, "/metrics")[1].decode()), "gatewright_threads", state="abandoned")

    with runner.peer() as peer:
        token = peer.prepare(("leaks", "{}"))
        with pytest.raises(Refused):
            peer.request(token)
        assert abandoned() == 1
        runner.wait_for(lambda: abandoned() == 0)
    assert re.search(r"plugin missed its deadline.*plugin=leaks", runner.log)


# --- adding up


def test_reports_add_up() -> None:
    one = WorkerReport(calls={"access": 2}, connections=3, chains=4, memory=10, loop_lag=0.5, failures={"a": {"p": 1}})
    one.tallies = [TallyReport("p", "request", "r", [1, 0], 0.5)]
    one.samples = [
        Sample("c", "counter", "", "c_total", {"x": "1"}, 2.0),
        Sample("c", "counter", "", "c_created", {"x": "1"}, 100.0),
        Sample("g", "gauge", "", "g", {}, 5.0),
    ]
    other = WorkerReport(
        calls={"access": 4, "log": 1},
        connections=1,
        chains=3,
        memory=20,
        loop_lag=0.1,
        failures={"a": {"p": 2, "q": 1}},
    )
    other.tallies = [TallyReport("p", "request", "r", [1, 2], 1.0), TallyReport("q", "request", "r", [1, 1], 1.0)]
    other.samples = [
        Sample("c", "counter", "", "c_total", {"x": "1"}, 3.0),
        Sample("c", "counter", "", "c_created", {"x": "1"}, 90.0),
        Sample("g", "gauge", "", "g", {}, 7.0),
    ]
    total = add_up([one], gone=[other])
    assert (total.connections, total.chains, total.memory, total.loop_lag) == (3, 4, 10, 0.5)
    assert total.calls == {"access": 6, "log": 1}
    assert total.failures == {"a": {"p": 3, "q": 1}}
    assert [(t.plugin, t.counts, t.seconds) for t in total.tallies] == [("p", [2, 2], 1.5), ("q", [1, 1], 1.0)]
    assert [(s.name, s.value) for s in total.samples] == [("c_total", 5.0), ("c_created", 90.0), ("g", 5.0)]
    assert one.tallies[0].counts == [1, 0], "what is added up stays as it was"


# --- what plugins' metrics may be

ODD = """
from prometheus_client import Counter, Gauge, REGISTRY
from prometheus_client.core import GaugeMetricFamily
from gatewright import Plugin

Gauge("no_help", None).set(1)
good = Counter("good", "fine")

class Raises:
    def collect(self):
        raise RuntimeError("not now")

class Texts:
    def collect(self):
        family = GaugeMetricFamily("is_text", "x")
        family.add_metric([], "many")
        yield family
        family = GaugeMetricFamily("odd_label", "x", labels=["a"])
        family.samples.append(family.samples.__class__ and __import__("prometheus_client").samples.Sample(
            "odd_label", {"a b\\n": "c"}, 1.0))
        yield family
        family = GaugeMetricFamily("too_large", "x")
        family.add_metric([], 10 ** 400)
        yield family

class Many:
    def collect(self):
        family = GaugeMetricFamily("many", "x", labels=["n"])
        for number in range(20_000):
            family.add_metric([str(number)], 1)
        yield family

for one in (Raises(), Texts(), Many()):
    REGISTRY._collector_to_names[one] = []

class Counts(Plugin):
    def on_request(self, request):
        good.inc()
"""


def test_a_metric_that_cannot_be_exported_is_left_out_and_named(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(odd=ODD), "--metrics", f"127.0.0.1:{free_port()}")
    with runner.peer() as peer:
        peer.request(peer.prepare(("counts", "{}")))
        exposition = ask(f"{runner.socket}.control", "/metrics")[1].decode()
        assert "good_total 1.0" in exposition
        assert "no_help 1.0" in exposition
        for name in ("is_text", "odd_label", "too_large", "many{"):
            assert name not in exposition
        odd = ("is_text", "odd_label", "too_large", "many", "Raises")
        runner.wait_for(  # those that take a moment are told the next time
            lambda: (
                ask(f"{runner.socket}.control", "/metrics")[0] == 200
                and all(f"metric={name} " in runner.log for name in odd)
            )
        )
        assert peer.request(peer.prepare(("counts", "{}"), key="another")) is None
