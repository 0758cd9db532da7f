"""OpenTelemetry spans: one a call, one a plugin in it, children of the request's `traceparent`.

Off means free: without an endpoint nothing of this is imported, and the hot path doesn't know of it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Protocol

from gatewright._version import __version__
from gatewright.errors import ConfigError, text_of
from gatewright.http import Call, RequestCall
from gatewright.redaction import redact, redact_error

if TYPE_CHECKING:
    from gatewright.runtime.steps import Step

__all__ = ["Traced", "Tracing", "check_tracing"]

_MOST_FRAMES: Final = 50
_LONGEST_TEXT: Final = 1 << 14
"""Characters of one attribute of a span; what a client sends may be longer."""


class Traced(Protocol):
    """What a span is kept on: a call of APISIX's, or one phase of a request of Kong's."""

    trace: Any

    @property
    def route(self) -> str:
        """Which configuration it's for."""


def check_tracing() -> None:
    """Make sure that spans can be made.

    Raises:
        ConfigError: the extra is not installed.
    """
    for package in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            found = find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ConfigError(f"tracing needs {package}: pip install 'gatewright[tracing]'")


class Tracing:
    """Makes spans and sends them to a collector, in batches, from a thread of its own."""

    def __init__(self, provider: Any, propagator: Any) -> None:
        from opentelemetry import trace

        self._provider = provider
        self._propagator = propagator
        self._tracer = provider.get_tracer("gatewright", __version__)
        self._set_span_in_context = trace.set_span_in_context
        self._kind = trace.SpanKind.SERVER
        self._error = trace.StatusCode.ERROR

    @classmethod
    def start(cls, endpoint: str, sample: float) -> Tracing:
        """Start to trace.

        Args:
            endpoint: of an OTLP collector over HTTP, without `/v1/traces`.
            sample: share of the traces that begin here to be recorded; others are as their parent says.
        """
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # What it says of a `tracestate` that it can't read would be a line for each request, of a client's words.
        logging.getLogger(trace.TraceState.__module__).setLevel(logging.ERROR)
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample)),
            resource=Resource.create({"service.name": "gatewright", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        url = endpoint.rstrip("/")
        exporter = OTLPSpanExporter(endpoint=url if url.endswith("/v1/traces") else f"{url}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # nobody else has set one
            trace.set_tracer_provider(provider)  # so that plugins' own spans are sent, too, as children of ours
        return cls(provider, TraceContextTextMapPropagator())

    def begin(self, call: Call, parent: str | None, state: str | None = None) -> None:
        """Begin the span of a call.

        Args:
            call: the call.
            parent: the request's `traceparent` header.
            state: its `tracestate` header.
        """
        name = "gatewright request" if isinstance(call, RequestCall) else "gatewright response"
        self._begin(call, name, _attributes(call), parent, state)

    def begin_phase(self, event: Traced, phase: str, parent: str | None, state: str | None = None) -> None:
        """Begin the span of one of Kong's phases; see `begin`."""
        self._begin(event, f"gatewright {phase}", {"gatewright.phase": phase}, parent, state)

    def _begin(self, call: Traced, name: str, attributes: Any, parent: str | None, state: str | None) -> None:
        headers = {name: value for name, value in (("traceparent", parent), ("tracestate", state)) if value}
        context = self._propagator.extract(headers)
        span = self._tracer.start_span(name, context=context, kind=self._kind, attributes=attributes)
        call.trace = span, self._set_span_in_context(span)

    def refused(self, call: Traced, error: BaseException) -> None:
        """Tell that a call is refused."""
        self._record(call.trace[0], error, f"refused: {redact(text_of(error))}")

    def end(self, call: Traced) -> None:
        """End the span of a call."""
        span = call.trace[0]
        if call.route:
            span.set_attribute("gatewright.route", call.route)
        span.end()

    def function(self, step: Step, phase: str, call: Traced, run: Callable[[], Any]) -> Any:
        """Run a `def` handler in a span."""
        with self._span(step, phase, call):
            return run()

    async def coroutine(self, step: Step, phase: str, call: Traced, run: Coroutine[Any, Any, Any]) -> Any:
        """Run an `async def` handler in a span."""
        with self._span(step, phase, call):
            return await run

    @contextlib.contextmanager
    def _span(self, step: Step, phase: str, call: Traced) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            f"{step.name} on_{phase}" if isinstance(call, Call) else f"{step.name} {phase}",
            context=call.trace[1],
            attributes={"gatewright.plugin": step.name, "gatewright.phase": phase},
            record_exception=False,  # it would send the exception's text as it is
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as error:
                self._record(span, error, redact_error(error))
                raise

    def _record(self, span: Any, error: BaseException, status: str) -> None:
        """Note an exception on a span as OpenTelemetry's conventions have it, without secrets."""
        lines = traceback.format_exception(error, limit=_MOST_FRAMES)
        attributes = {
            "exception.type": f"{type(error).__module__}.{type(error).__qualname__}",
            "exception.message": redact_error(error).partition(": ")[2],
            "exception.stacktrace": redact("".join(lines)),
        }
        span.add_event("exception", {name: text[:_LONGEST_TEXT] for name, text in attributes.items()})
        span.set_status(self._error, status[:_LONGEST_TEXT])

    def close(self, seconds: float) -> None:
        """Send what is left, for as long as `seconds`."""
        sending = threading.Thread(target=self._provider.shutdown, name="gatewright-spans", daemon=True)
        sending.start()
        sending.join(seconds)


def _attributes(call: Call) -> dict[str, Any]:
    attributes: dict[str, Any] = {"gatewright.call": call.source.id}
    if isinstance(call, RequestCall):
        attributes["http.request.method"] = call.source.method
        attributes["url.path"] = redact(call.source.path[:_LONGEST_TEXT])
        request_id = call.headers.get("x-request-id")
        if request_id:
            attributes["http.request.header.x-request-id"] = redact(request_id[:_LONGEST_TEXT])
    elif not call.response_unseen:
        attributes["http.response.status_code"] = call.response_status
    return attributes
