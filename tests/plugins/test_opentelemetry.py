"""opentelemetry: spans of requests at real receivers, and what upstreams are told of the trace."""

from __future__ import annotations

import gzip
import json
import re
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from gatewright import ConfigError, Plugin, Response
from gatewright import Request as AnyRequest
from gatewright.gateways.apisix.replies import Rewrite
from gatewright.plugins.opentelemetry import Opentelemetry
from gatewright.runtime.shipped import load_shipped, shipped_names
from gatewright.testing import Request, TestClient
from tests.conftest import StartRunner
from tests.plugins.harness import Gateway, Outcome, Route
from tests.plugins.redis_servers import free_port


class AnswersAnything(Plugin):
    """Answers requests for one path."""

    async def on_request(self, request: AnyRequest) -> Response | None:
        return Response(401, {"x-why": "who?"}) if request.path == "/refused" else None


PLUGINS = ["opentelemetry"]
OWN = [AnswersAnything]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
INCOMING = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1", "baggage": "user=ada"}


class Receiver(HTTPServer):
    """Takes OTLP over HTTP, and Zipkin's JSON."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.otlp: list[Any] = []
        self.zipkin: list[dict[str, Any]] = []
        self.resources: list[Any] = []
        self.headers: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, message: Any) -> None:
        for resource in message.resource_spans:
            self.resources.append(resource.resource)
            for scope in resource.scope_spans:
                self.otlp.extend(scope.spans)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.path == "/api/v2/spans":
            self.server.zipkin.extend(json.loads(body))
        else:
            assert self.path == "/v1/traces"
            self.server.take(ExportTraceServiceRequest.FromString(body))
        self.send_response(202 if self.path.startswith("/api") else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.shutdown()
    receiver.server_close()


def until(what: Callable[[], Any], seconds: float = 15.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it didn't come true"
        time.sleep(0.02)
    return found


def conf(receiver: Receiver, **more: Any) -> tuple[str, dict[str, Any]]:
    return "opentelemetry", {"exporters": [{"endpoint": receiver.url}], "delay": 0.02, **more}


def attributes(span: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return (
            [each.string_value for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
        )

    return {item.key: plain(item.value) for item in span.attributes}


def span_of(receiver: Receiver, outcome: Outcome) -> Any:
    """The span that the upstream was told of."""
    span_id = (outcome.upstream["traceparent"] or "").split("-")[2]
    return until(lambda: [span for span in receiver.otlp if span.span_id.hex() == span_id])[0]


def test_a_request_is_a_span_with_the_conventions_attributes(gateway: Gateway, receiver: Receiver) -> None:
    route = gateway.route(
        conf(
            receiver,
            service="shop-gateway",
            resource={"deployment.environment.name": "test"},
            route="/users/{id}",
            attributes={"team": "shop"},
            query=True,
            request_headers=["X-Tenant"],
            response_headers=["x-cache"],
            trace_header="x-trace-id",
        ),
        id="users",
    )
    before = time.time_ns()
    outcome = route.request(
        "/users/7",
        method="POST",
        headers={
            "host": "shop.example:8443",
            "user-agent": "curl/8",
            "x-tenant": ["a", "b"],
            "x-forwarded-proto": "https",
            **INCOMING,
        },
        query=[("a", "1"), ("b", "2")],
        client="192.0.2.7",
    )  # fmt: skip
    time.sleep(0.02)
    route.answered(503, {"content-type": "text/plain", "x-cache": "miss"}, method="POST", path="/users/7")
    span = span_of(receiver, outcome)
    assert (span.name, span.kind) == ("POST /users/{id}", 2)
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, "vendor=1")
    assert before <= span.start_time_unix_nano < span.end_time_unix_nano - 15_000_000
    got = attributes(span)
    assert got.pop("gatewright.route")
    assert got == {
        "http.request.method": "POST",
        "http.route": "/users/{id}",
        "http.response.status_code": 503,
        "error.type": "503",
        "url.path": "/users/7",
        "url.query": "a=1&b=2",
        "url.scheme": "https",
        "server.address": "shop.example",
        "server.port": 8443,
        "client.address": "192.0.2.7",
        "user_agent.original": "curl/8",
        "http.request.header.x-tenant": ["a", "b"],
        "http.response.header.x-cache": ["miss"],
        "team": "shop",
    }
    assert span.status.code == 2
    resource = {item.key: item.value.string_value for item in receiver.resources[-1].attributes}
    assert resource["service.name"] == "shop-gateway"
    assert resource["deployment.environment.name"] == "test"
    assert outcome.headers["x-trace-id"] == TRACE


def finished(route: Route, receiver: Receiver, status: int = 200, **request: Any) -> Any:
    outcome = route.request(**request)
    route.answered(status)
    return span_of(receiver, outcome)


def test_a_clients_mistake_is_no_error_of_the_servers(gateway: Gateway, receiver: Receiver) -> None:
    span = finished(gateway.route(conf(receiver)), receiver, 404, method="GET", headers={"host": "[2001:db8::1]:80"})
    assert (span.name, span.status.code, span.parent_span_id) == ("GET", 0, b"")
    assert attributes(span)["server.address"] == "2001:db8::1"
    assert "http.route" not in attributes(span)
    assert "error.type" not in attributes(span)


@pytest.mark.parametrize(
    ("said", "trusted", "scheme"),
    [("http", True, "http"), (None, True, "https"), ("gopher", True, "https"), ("http", False, "https")],
)
def test_the_gateway_is_asked_for_a_scheme_that_no_proxy_tells(
    gateway: Gateway, receiver: Receiver, said: str | None, trusted: bool, scheme: str
) -> None:
    headers = {} if said is None else {"x-forwarded-proto": said}
    route = gateway.route(conf(receiver, trust_incoming=trusted))
    span = finished(route, receiver, headers=headers, variables={"scheme": "https"})
    assert attributes(span)["url.scheme"] == scheme


def test_what_no_exporter_could_send_costs_no_batch(gateway: Gateway, receiver: Receiver) -> None:
    span = finished(gateway.route(conf(receiver)), receiver, headers={"user-agent": "x" * 9000})
    assert len(attributes(span)["user_agent.original"]) == 4096
    _, described = Opentelemetry({"query": True})._described(Request(path="/a\udcff", query={"b\udcff": "c"}), "http")
    assert (described["url.path"], described["url.query"]) == ("/a?", "b?=c")


@pytest.mark.parametrize(
    ("propagate", "incoming", "told"),
    [
        (["tracecontext", "baggage"], INCOMING, {"traceparent": rf"00-{TRACE}-(\w{{16}})-01", "tracestate": "vendor=1",
          "baggage": "user=ada,tier=gold"}),
        (["tracecontext", "baggage"], {}, {"traceparent": r"00-\w{32}-(\w{16})-03", "baggage": "tier=gold"}),
        (["b3", "baggage"], {"b3": f"{TRACE}-{PARENT}-1"}, {"b3": rf"{TRACE}-(\w{{16}})-1", "baggage": "tier=gold"}),
        (
            ["b3multi", "baggage"],
            {"x-b3-traceid": TRACE, "x-b3-spanid": PARENT, "x-b3-sampled": "1"},
            {"x-b3-traceid": TRACE, "x-b3-spanid": r"\w{16}", "x-b3-sampled": "1", "baggage": "tier=gold"},
        ),
        (
            ["b3", "tracecontext", "baggage"],
            {"b3": f"{TRACE}-{PARENT}-1"},
            {"b3": rf"{TRACE}-\w{{16}}-1", "traceparent": rf"00-{TRACE}-\w{{16}}-01", "baggage": "tier=gold"},
        ),
    ],
)  # fmt: skip
def test_upstreams_are_told_of_the_trace(
    gateway: Gateway, receiver: Receiver, propagate: list[str], incoming: dict[str, str], told: dict[str, str]
) -> None:
    route = gateway.route(conf(receiver, propagate=propagate, baggage={"tier": "gold"}))
    outcome = route.request(headers=incoming)
    unchanged = {name: value for name, value in incoming.items() if name not in outcome.upstream}
    now = {name: value for name, value in outcome.upstream.items() if value is not None} | unchanged
    assert set(now) == set(told)
    for name, pattern in told.items():
        assert re.fullmatch(pattern, now[name] or ""), (name, now[name])
    span_id = re.search(r"\w{16}(?=-0[13]|-1|$)", now.get("traceparent") or now.get("b3") or now["x-b3-spanid"] or "")
    assert span_id is not None and span_id[0] != PARENT


@pytest.mark.parametrize(
    ("came", "goes_on"),
    [
        ("k=v%20w", "k=v%20w,tier=g%20%2B%C3%BC"),  # not as a form, where a space is a plus
        ("k=a+b", "k=a+b,tier=g%20%2B%C3%BC"),
        ("k=v;ttl=1;p , l=2", "k=v;ttl=1;p , l=2,tier=g%20%2B%C3%BC"),  # properties are no part of the value
        ("tier=lead,k=1, tier = lead;p", "k=1,tier=g%20%2B%C3%BC"),  # what is said here no caller can say
        (f"k={'x' * 5000}", f"k={'x' * 5000},tier=g%20%2B%C3%BC"),
    ],
)
def test_a_callers_baggage_goes_on_as_it_came(
    gateway: Gateway, receiver: Receiver, came: str, goes_on: str, caplog: pytest.LogCaptureFixture
) -> None:
    route = gateway.route(conf(receiver, baggage={"tier": "g +\u00fc"}))
    assert route.request(headers={"baggage": came}).upstream["baggage"] == goes_on
    assert "baggage" not in gateway.route(conf(receiver)).request(headers={"baggage": came}).upstream
    assert not caplog.text


@pytest.mark.parametrize(
    ("propagate", "headers", "told"),
    [
        (["b3"], {"b3": "0"}, {"b3": r"\w{32}-\w{16}-0"}),
        (["b3multi"], {"x-b3-sampled": "0"}, {"x-b3-sampled": "0"}),
        (["b3"], {}, {"b3": r"\w{32}-\w{16}-1"}),
        (["tracecontext"], {"b3": "0"}, {"traceparent": r"00-\w{32}-\w{16}-03"}),
    ],
)
def test_a_caller_may_say_that_there_is_to_be_no_trace(
    gateway: Gateway, receiver: Receiver, propagate: list[str], headers: dict[str, str], told: dict[str, str]
) -> None:
    outcome = gateway.route(conf(receiver, propagate=propagate)).request(headers=headers)
    for name, pattern in told.items():
        assert re.fullmatch(pattern, outcome.upstream.get(name, headers.get(name)) or ""), outcome.upstream


@pytest.mark.parametrize("state", ["no pairs", "A=1", f"k={'x' * 300}", ",".join(f"k{n}=1" for n in range(40))])
def test_what_a_client_sends_is_no_line_in_the_log(
    gateway: Gateway, receiver: Receiver, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    route = gateway.route(conf(receiver))
    assert TRACE in (route.request(headers={**INCOMING, "tracestate": state}).upstream["traceparent"] or "")
    assert not caplog.text


def test_two_configurations_on_one_route_are_two_spans(gateway: Gateway, receiver: Receiver) -> None:
    if gateway.kind != "apisix":
        pytest.skip("Kong has no plugin twice on one route")
    route = gateway.route(conf(receiver, service="outer"), conf(receiver, service="inner", route="/in"))
    outcome = route.request()
    route.response(200)
    inner = span_of(receiver, outcome)
    outer = until(lambda: [span for span in receiver.otlp if span.span_id == inner.parent_span_id])[0]
    assert (outer.name, inner.name) == ("GET", "GET /in")
    assert inner.parent_span_id == outer.span_id


def test_a_client_that_is_not_trusted_has_no_say(gateway: Gateway, receiver: Receiver) -> None:
    route = gateway.route(conf(receiver, trust_incoming=False))
    incoming = {**INCOMING, "b3": "0", "x-b3-traceid": TRACE, "uber-trace-id": "1:1:0:1"}
    outcome = route.request(headers=incoming)
    traceparent = outcome.upstream.pop("traceparent") or ""
    assert TRACE not in traceparent and PARENT not in traceparent
    assert outcome.upstream == dict.fromkeys(("tracestate", "baggage", "b3", "x-b3-traceid", "uber-trace-id"))


@pytest.mark.parametrize(
    ("config", "incoming", "recorded"),
    [
        ({"sampler": "parent", "ratio": 0.0}, {}, False),
        ({"sampler": "parent", "ratio": 0.0}, {"traceparent": f"00-{TRACE}-{PARENT}-01"}, True),
        ({"sampler": "parent"}, {"traceparent": f"00-{TRACE}-{PARENT}-00"}, False),
        ({"sampler": "ratio", "ratio": 0.0}, {"traceparent": f"00-{TRACE}-{PARENT}-01"}, False),
        ({"sampler": "always"}, {"traceparent": f"00-{TRACE}-{PARENT}-00"}, True),
        ({"sampler": "never"}, {"traceparent": f"00-{TRACE}-{PARENT}-01"}, False),
        ({}, {"traceparent": "00-nonsense-01"}, True),
    ],
)
def test_sampling(
    gateway: Gateway, receiver: Receiver, config: dict[str, Any], incoming: dict[str, str], recorded: bool
) -> None:
    route = gateway.route(conf(receiver, **config))
    outcome = route.request(headers=incoming)
    flags = int((outcome.upstream["traceparent"] or "")[-2:], 16)  # the second bit: the trace's id is random
    assert bool(flags & 1) is recorded
    route.answered(200)
    if recorded:
        span_of(receiver, outcome)


def test_a_span_may_end_with_the_request_phase(gateway: Gateway, receiver: Receiver) -> None:
    route = gateway.route(conf(receiver, ends="request"))
    span = span_of(receiver, route.request(headers=INCOMING))
    assert span.parent_span_id.hex() == PARENT
    assert "http.response.status_code" not in attributes(span)


def test_a_method_of_ones_own(gateway: Gateway, receiver: Receiver) -> None:
    if gateway.kind == "apisix":
        pytest.skip("APISIX hands over known methods only")
    span = finished(gateway.route(conf(receiver)), receiver, method="BREW")
    assert (span.name, attributes(span)["http.request.method"]) == ("HTTP", "_OTHER")
    assert attributes(span)["http.request.method_original"] == "BREW"


def test_refused_requests_are_spans_too(gateway: Gateway, receiver: Receiver) -> None:
    route = gateway.route(conf(receiver, response_headers=["x-why"]), ("answers-anything", {}))
    trace = secrets.token_hex(16)
    assert route.request("/refused", headers={"traceparent": f"00-{trace}-{PARENT}-01"}).status == 401
    if gateway.kind != "apisix":
        route.answered(401, {"x-why": "who?"})
    (span,) = until(lambda: [span for span in receiver.otlp if span.trace_id.hex() == trace])
    assert attributes(span)["http.response.status_code"] == 401
    assert attributes(span)["http.response.header.x-why"] == ["who?"]
    assert attributes(span)["url.path"] == "/refused"


def test_no_request_is_two_spans_where_both_phases_are_called(receiver: Receiver) -> None:
    traces = {path: secrets.token_hex(16) for path in ("/refused", "/", "/failed")}
    plugins: list[Any] = [(Opentelemetry, conf(receiver)[1]), AnswersAnything]

    def upstream(request: Any) -> Response:
        return Response(502 if request.path == "/failed" else 200)

    with TestClient(plugins, protocol="lean", upstream=upstream) as client:
        for path, trace in traces.items():
            client.get(path, headers={"traceparent": f"00-{trace}-{PARENT}-01"})
    ids = set(traces.values())
    spans = until(lambda: len(found := [span for span in receiver.otlp if span.trace_id.hex() in ids]) >= 3 and found)
    assert sorted((attributes(span)["url.path"], attributes(span)["http.response.status_code"]) for span in spans) == [
        ("/", 200), ("/failed", 502), ("/refused", 401),
    ]  # fmt: skip


def test_kong_buffers_no_answers_for_it_and_tells_it_of_refusals() -> None:
    assert Opentelemetry.kong_phases() == ("access", "log")
    others = [load_shipped(name).priority for name in shipped_names() - {"opentelemetry"}]
    assert Opentelemetry.priority > max(others)


# --- exporters


def test_zipkin_and_headers(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("Bearer secret\n")
    exporters = [
        {"kind": "zipkin", "endpoint": f"{receiver.url}/api/v2/spans", "headers": {"x-zipkin": "z"}},
        {"endpoint": receiver.url, "gzip": True, "headers": {"Authorization": f"file:{tmp_path}/token"}},
    ]
    with Gateway("apisix") as gateway:
        route = gateway.route(("opentelemetry", {"exporters": exporters, "service": "z"}))
        outcome = route.request(headers=INCOMING)
        route.answered(200)
    span_of(receiver, outcome)  # closing has sent them
    (span,) = until(lambda: [span for span in receiver.zipkin if span["localEndpoint"]["serviceName"] == "z"])
    assert (span["traceId"], span["parentId"], span["kind"], span["name"]) == (TRACE, PARENT, "SERVER", "GET")
    assert span["tags"]["http.response.status_code"] == "200"
    assert any(headers.get("authorization") == "Bearer secret" for headers in receiver.headers)
    assert any(headers.get("x-zipkin") == "z" for headers in receiver.headers)


async def test_routes_share_an_exporter_only_if_they_say_the_same(receiver: Receiver) -> None:
    def plugin(token: str) -> Opentelemetry:
        return Opentelemetry({"exporters": [{"endpoint": receiver.url, "headers": {"x-token": token}}]})

    plugins = [plugin("a"), plugin("a"), plugin("b")]
    for each in plugins:
        await each.setup()
    first, second, third = (each._pipeline for each in plugins)
    assert first is second
    assert first is not third
    for each in plugins:
        await each.teardown()
    assert all(pipeline not in (first, third) for pipeline, _ in Opentelemetry.pipelines._known.values())


def test_otlp_over_grpc(receiver: Receiver) -> None:
    import grpc

    def export(request: Any, context: Any) -> Any:
        seen.update(context.invocation_metadata())
        receiver.take(request)
        return ExportTraceServiceResponse()

    seen: dict[str, Any] = {}
    method = grpc.unary_unary_rpc_method_handler(
        export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        exporter = {
            "kind": "otlp-grpc",
            "endpoint": f"http://127.0.0.1:{port}",
            "headers": {"x-token": "t"},
            "gzip": True,
        }
        with Gateway("apisix") as gateway:
            route = gateway.route(("opentelemetry", {"exporters": [exporter]}))
            outcome = route.request()
            route.answered(200)
        span_of(receiver, outcome)
        assert seen["x-token"] == "t"
    finally:
        server.stop(None)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[int, int, Path]]:
    """A collector of somebody else's making: its ports for HTTP and gRPC, and where it writes what it took."""
    package = find_spec("rotel")
    if package is None or package.origin is None:
        pytest.skip("rotel is not made for this machine")
    over_http, over_grpc, out = free_port(), free_port(), tmp_path / "out"
    command = [
        Path(package.origin).parent / "rotel-agent", "start", "--otlp-http-endpoint", f"127.0.0.1:{over_http}",
        "--otlp-grpc-endpoint", f"127.0.0.1:{over_grpc}", "--exporter", "blackhole",
        "--debug-log", "traces", "--debug-log-verbosity", "detailed",
    ]  # fmt: skip
    with out.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            for port in (over_http, over_grpc):
                until(partial(_listens, port))
            yield over_http, over_grpc, out
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_collector_takes_what_is_sent_over_both_protocols(collector: tuple[int, int, Path]) -> None:
    over_http, over_grpc, out = collector
    exporters = [
        {"kind": "otlp-http", "endpoint": f"http://127.0.0.1:{over_http}", "gzip": True},
        {"kind": "otlp-grpc", "endpoint": f"http://127.0.0.1:{over_grpc}", "gzip": True},
    ]
    config = {"service": "shop", "route": "/g/{x}", "request_headers": ["x-a"], "exporters": exporters, "delay": 0.02}
    with Gateway("apisix") as gateway:
        route = gateway.route(("opentelemetry", config))
        outcome = route.request("/g/1", headers={**INCOMING, "x-a": "ü"})
        route.answered(200, path="/g/1")
    span = (outcome.upstream["traceparent"] or "").split("-")[2]
    told = until(lambda: (text := out.read_text()).count("http.response.status_code: Int(200)") == 2 and text)
    assert told.count(f"    ID             : {span}\n") == 2
    for line in (
        f"Trace ID       : {TRACE}", f"Parent ID      : {PARENT}", "Name           : GET /g/{x}",
        "Kind           : SPAN_KIND_SERVER", "service.name: Str(shop)", "url.path: Str(/g/1)",
        "http.route: Str(/g/{x})", "http.request.header.x-a: Slice(Str(ü))",
    ):  # fmt: skip
        assert told.count(line) == 2, told


def test_a_receiver_that_is_gone_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    with Gateway("apisix") as gateway:
        route = gateway.route(("opentelemetry", {"exporters": [{"endpoint": "http://127.0.0.1:1"}]}))
        began = time.monotonic()
        for _ in range(20):
            assert route.request().upstream["traceparent"]
            route.answered(200)
        assert time.monotonic() - began < 5
        began = time.monotonic()
    assert time.monotonic() - began < 8
    assert "may not reach all exporters" in caplog.text
    assert "teardown failed" not in caplog.text


def test_spans_end_in_another_worker_and_are_children_of_the_runners(
    start_runner: StartRunner, receiver: Receiver
) -> None:
    runner = start_runner("--workers", "2", "--tracing", receiver.url)
    exporters = [{"endpoint": receiver.url}, {"kind": "console"}]
    conf = ("opentelemetry", json.dumps({"exporters": exporters, "service": "two", "delay": 0.02}))
    requests, responses = [runner.peer() for _ in range(2)], [runner.peer() for _ in range(2)]
    told = set()
    for number, (first, second) in enumerate((a, b) for a in requests for b in responses):
        answers = {"request_id": f"r{number}".encode(), "uri": b"/", "args": b""}
        headers = [("traceparent", f"00-{TRACE}-{PARENT}-01")]
        action = first.request(first.prepare(conf), headers=headers, answers=answers)
        assert isinstance(action, Rewrite)
        told |= {(value or "").split("-")[2] for name, value in action.headers if name == "traceparent"}
        token = second.prepare(conf, key="route#1#ext-plugin-post-resp#1")
        second.response(token, 200, answers=answers)
    assert len(told) == 4
    ids = {bytes.fromhex(each) for each in told}
    spans = until(lambda: len(found := [span for span in receiver.otlp if span.span_id in ids]) == 4 and found)
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    for parent in {span.parent_span_id for span in spans}:
        (runners,) = until(lambda parent=parent: [span for span in receiver.otlp if span.span_id == parent])
        assert (runners.name, runners.trace_id.hex()) == ("opentelemetry on_request", TRACE)
    runner.wait_for_log('"service.name": "two"')
    for peer in (*requests, *responses):
        peer.close()


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"exporters": []}, "length >= 1"),
        ({"exporters": [{"endpoint": "collector:4317"}]}, "begins with http://"),
        ({"exporters": [{"kind": "jaeger"}]}, "jaeger"),
        ({"ratio": 2}, "<= 1"),
        ({"request_headers": ["Authorization"]}, "holds secrets"),
        ({"propagate": ["b3"], "baggage": {"a": "b"}}, "only if `propagate` has it"),
        ({"baggage": {"a b": "c"}}, "can be called 'a b'"),
        ({"propagate": ["jaeger"]}, "jaeger"),
    ],
)
def test_configurations_that_mean_nothing(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Opentelemetry(config)
