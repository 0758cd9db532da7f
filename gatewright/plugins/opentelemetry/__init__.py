"""**opentelemetry**: a span for each request of a route, and the trace's context for the upstream.

The runner's own tracing tells what the runner does with a call. This plugin tells of requests: their status, their time
with the upstream, as HTTP's semantic conventions have it, to whatever exporters a route names. With both, the runner's
spans are the parents of these.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import Any, ClassVar, Final

from gatewright import Plugin, Request, Response
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.extras import extra
from gatewright.plugins.opentelemetry.options import OpentelemetryConfig

with extra("opentelemetry", plugin="opentelemetry"):
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags, TraceState

    from gatewright.plugins.opentelemetry.baggage import HEADER, OwnEntries
    from gatewright.plugins.opentelemetry.pipelines import Pipeline, Pipelines, propagator_of

__all__ = ["Opentelemetry"]

_LEFT: Final = "opentelemetry"
"""Under this name the request phase leaves spans' beginnings in `request.ctx`, by the digests of configurations."""
_METHODS: Final = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))
_ALL_HEADERS: Final = (
    "traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled",
    "x-b3-flags", "uber-trace-id",
)  # fmt: skip


class Opentelemetry(Plugin[OpentelemetryConfig]):
    """Makes spans of requests, and hands the trace on to the upstream."""

    name = "opentelemetry"
    version = "1.0.0"
    priority = 100_000  # on Kong: before those that refuse requests, which are spans, too

    pipelines: ClassVar[Pipelines] = Pipelines()
    """Those of this process, shared by all instances."""

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self._propagator = propagator_of(self.config.propagate)
        self._fields = sorted(self._propagator.fields)
        self._baggage = OwnEntries(self.config.baggage) if HEADER in self.config.propagate else None
        self._digest = blake2b(repr(self.config).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
        self._spans = counter("opentelemetry_spans", "Spans, by whether they are recorded.", ["recorded"])
        self._key: object = None
        self._pipeline: Pipeline | None = None

    @classmethod
    def kong_phases(cls) -> tuple[str, ...]:
        """On Kong, spans end in the log phase: it knows all answers, and need not have them buffered."""
        return "access", "log"

    async def setup(self) -> None:
        """Get at the exporters."""
        self._key, self._pipeline = await self.pipelines.use(self.config)

    async def teardown(self) -> None:
        """Let go of the exporters."""
        if self._pipeline is not None:
            await self.pipelines.leave(self._key)

    async def on_request(self, request: Request) -> None:
        """Begin a span, and tell the upstream of it."""
        own, pipeline = self.config, self._pipeline
        assert pipeline is not None  # noqa: S101 - set up
        started = time.time_ns()
        context = self._incoming(request)
        parent = trace.get_current_span(context).get_span_context()
        its = pipeline.begin(context, parent, unwanted=not parent.is_valid and self._is_unwanted(request))
        described = None
        if its.trace_flags.sampled:
            described = self._described(request, await self._scheme(request))  # before its headers are changed
        self._propagate(request, trace.set_span_in_context(trace.NonRecordingSpan(its), context))
        if own.trace_header:
            request.response_headers[own.trace_header] = f"{its.trace_id:032x}"
        self._spans.add("no" if described is None else "yes")
        if described is None:
            return
        name, attributes = described
        if own.ends == "request":
            pipeline.whole(name, its, parent if parent.is_valid else None, started, attributes).end()
            return
        left = {
            "name": name,
            "attributes": attributes,
            "started": started,
            "span": _written(its),
            "parent": _written(parent) if parent.is_valid else None,
        }
        request.ctx[_LEFT] = {**(request.ctx.get(_LEFT) or {}), self._digest: left}

    async def on_response(self, request: Request, response: Response) -> None:
        """End the span with the upstream's answer (APISIX)."""
        self._end(request, response)

    async def on_log(self, request: Request, response: Response) -> None:
        """End the span with the answer that the client got, whoever gave it (Kong, and the lean path)."""
        self._end(request, response)

    def _end(self, request: Request, response: Response) -> None:
        pipeline = self._pipeline
        assert pipeline is not None  # noqa: S101 - set up
        left = self._take_left(request) if self.config.ends == "response" else None
        if not left:
            return  # not recorded, or ended in the phase before
        parent = _read(left["parent"]) if left["parent"] else None
        span = pipeline.whole(left["name"], _read(left["span"]), parent, left["started"], left["attributes"])
        status = response.status
        span.set_attribute("http.response.status_code", status)
        for name in self.config.response_headers:
            values = response.headers.get_all(name)
            if values:
                span.set_attribute(f"http.response.header.{name.lower()}", _clean(values))
        if status >= 500:  # as the conventions have it for servers: 4xx are no errors of theirs
            span.set_attribute("error.type", str(status))
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _take_left(self, request: Request) -> Any:
        """What the request phase has left for this configuration, or for one that only differs a little."""
        left: dict[str, Any] = dict(request.ctx.get(_LEFT) or {})
        digest = self._digest if self._digest in left or len(left) != 1 else next(iter(left))
        taken = left.pop(digest, None)
        request.ctx[_LEFT] = left
        return taken

    def _incoming(self, request: Request) -> Context:
        """The context that the request comes with."""
        context = Context()
        if self.config.trust_incoming:
            headers = request.headers
            carrier = {name: ",".join(values) for name in self._fields if (values := headers.get_all(name))}
            context = self._propagator.extract(carrier, context)
        runners = trace.get_current_span()
        return trace.set_span_in_context(runners, context) if runners.get_span_context().is_valid else context

    def _is_unwanted(self, request: Request) -> bool:
        """Whether the caller says, as B3 has it, that a trace shall not be recorded, without having one."""
        headers = request.headers
        return self.config.trust_incoming and (
            ("b3" in self._fields and headers.get("b3") == "0")
            or ("x-b3-sampled" in self._fields and headers.get("x-b3-sampled") in ("0", "false"))
        )

    def _propagate(self, request: Request, context: Context) -> None:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context)
        if self._baggage is not None:
            told = self._baggage.behind(request.headers.get_all(HEADER) if self.config.trust_incoming else ())
            carrier |= {HEADER: told} if told is not None else {}
        for name in self._fields if self.config.trust_incoming else _ALL_HEADERS:
            if name not in carrier and name in request.headers:
                request.headers.discard(name)
        for name, value in carrier.items():
            if request.headers.get_all(name) != [value]:
                request.headers[name] = value

    async def _scheme(self, request: Request) -> str:
        """How the client asks. Gateways are asked themselves only where no proxy before them says so."""
        said = request.headers.get("x-forwarded-proto", "") if self.config.trust_incoming else ""
        return said if said in ("http", "https") else await request.var("scheme") or "http"

    def _described(self, request: Request, scheme: str) -> tuple[str, dict[str, Any]]:
        """A span's name and attributes."""
        own, headers, method = self.config, request.headers, request.method
        known = method if method in _METHODS else "_OTHER"
        host, _, port = _host(headers.get("host", ""))
        attributes: dict[str, Any] = {
            **own.attributes,
            "http.request.method": known,
            "url.path": request.path,
            "url.scheme": scheme,
            "client.address": request.client_ip,
            "gatewright.route": request.route,
        }
        if known != method:
            attributes["http.request.method_original"] = method
        if host:
            attributes["server.address"] = host
        if port.isdecimal() and port.isascii():
            attributes["server.port"] = int(port)
        if "user-agent" in headers:
            attributes["user_agent.original"] = headers["user-agent"]
        if own.route:
            attributes["http.route"] = own.route
        if own.query:
            attributes["url.query"] = "&".join(f"{name}={value}" for name, value in request.query.multi_items())
        for name in own.request_headers:
            values = headers.get_all(name)
            if values:
                attributes[f"http.request.header.{name.lower()}"] = values
        verb = known if known != "_OTHER" else "HTTP"
        clean = {name: _clean(value) for name, value in attributes.items()}
        return f"{verb} {own.route}" if own.route else verb, clean


def _clean(value: Any) -> Any:
    """Text that every exporter can send: one that can't be encoded would cost the whole batch."""
    if isinstance(value, list):
        return [_clean(each) for each in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _host(text: str) -> tuple[str, str, str]:
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        return address, "", rest.removeprefix(":")
    return text.partition(":")


def _written(context: SpanContext) -> list[Any]:
    state = context.trace_state.to_header()
    return [f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags), context.is_remote, state]


def _read(written: list[Any]) -> SpanContext:
    trace_id, span_id, flags, is_remote, state = written
    kept = TraceState.from_header([state] if state else [])
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, TraceFlags(flags), kept)
