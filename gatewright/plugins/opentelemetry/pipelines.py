"""Spans on their way: samplers, exporters and threads that send, one of each in a process for all who say the same."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import msgspec
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatewright.plugins._shared.extras import extra

if TYPE_CHECKING:
    from opentelemetry.propagators.textmap import TextMapPropagator

    from gatewright.plugins.opentelemetry.options import Exporter, OpentelemetryConfig

__all__ = ["Pipeline", "Pipelines", "propagator_of"]

_log = logging.getLogger("gatewright.plugin.opentelemetry")
_LONGEST_TEXT: Final = 4096
_RANDOM_TRACE_ID: Final = 2
"""The flag of traces whose ids are random (W3C Trace Context, level 2)."""
_MOST_WAITING: Final = 4096
_CLOSING_SECONDS: Final = 0.8
"""A runner that ends has a second."""


def propagator_of(names: tuple[str, ...]) -> TextMapPropagator:
    """What reads and writes the headers of these ways of propagation.

    Raises:
        ConfigError: the package for B3 is not installed.
    """
    # What it says of a `tracestate` that it can't read is a line for each request, in words that a client has chosen.
    logging.getLogger(trace.TraceState.__module__).setLevel(logging.ERROR)
    made: list[TextMapPropagator] = []
    for name in names:
        if name == "tracecontext":
            made.append(TraceContextTextMapPropagator())
        elif name != "baggage":  # which is handed on as it is: see `baggage`
            with extra("opentelemetry", plugin="opentelemetry"):
                from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
            made.append(B3SingleFormat() if name == "b3" else B3MultiFormat())
    return CompositePropagator(made)


def _sampler(config: OpentelemetryConfig) -> Sampler:
    if config.sampler == "always":
        return ALWAYS_ON
    if config.sampler == "never":
        return ALWAYS_OFF
    ratio = TraceIdRatioBased(config.ratio)
    return ParentBased(ratio) if config.sampler == "parent" else ratio


def _exporter(config: Exporter) -> SpanExporter:
    headers = {name.lower(): secret.reveal() for name, secret in config.headers.items()}
    if config.kind == "console":
        return ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + "\n")
    if config.kind == "otlp-grpc":
        with extra("opentelemetry-grpc", plugin="opentelemetry"):
            import grpc
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
        from pathlib import Path

        endpoint = config.endpoint or "http://127.0.0.1:4317"
        is_open = endpoint.startswith("http:")
        roots = Path(config.ca_file).read_bytes() if config.ca_file else None
        exporter: SpanExporter = GrpcExporter(
            endpoint=endpoint,
            insecure=is_open,
            credentials=None if is_open else grpc.ssl_channel_credentials(roots),
            headers=headers or None,
            timeout=config.timeout,
            compression=grpc.Compression.Gzip if config.gzip else None,
        )
        return exporter
    if config.kind == "zipkin":
        with extra("opentelemetry-zipkin", plugin="opentelemetry"):
            import requests
            from opentelemetry.exporter.zipkin.json import ZipkinExporter
        session = requests.Session()
        session.headers.update(headers)
        endpoint = config.endpoint or "http://127.0.0.1:9411/api/v2/spans"
        whole_seconds = max(1, round(config.timeout))
        to_zipkin: SpanExporter = ZipkinExporter(endpoint=endpoint, timeout=whole_seconds, session=session)
        return to_zipkin
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    url = (config.endpoint or "http://127.0.0.1:4318").rstrip("/")
    return OTLPSpanExporter(
        endpoint=url if url.endswith("/v1/traces") else f"{url}/v1/traces",
        certificate_file=config.ca_file or None,
        headers=headers or None,
        timeout=config.timeout,
        compression=Compression.Gzip if config.gzip else Compression.NoCompression,
    )


class _GivenIds(IdGenerator):
    """Gives the ids that a span got in another phase, perhaps in another process."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class Pipeline:
    """Makes spans and sends them, in batches, from threads of its own.

    A span may begin in one process and end in another. So `begin` only decides on ids and sampling, and whoever ends
    the span makes it, whole, with `whole`.
    """

    def __init__(self, config: OpentelemetryConfig) -> None:
        resource = Resource.create({"service.name": config.service, **config.resource})
        limits = SpanLimits(max_attribute_length=_LONGEST_TEXT)
        self._heeds_callers = config.sampler == "parent"
        self._sampler, self._random, self._ids = _sampler(config), RandomIdGenerator(), _GivenIds()
        self._provider = TracerProvider(
            ALWAYS_ON, resource, shutdown_on_exit=False, span_limits=limits, id_generator=self._ids
        )
        for each in config.exporters:
            processor = BatchSpanProcessor(
                _exporter(each), max_queue_size=_MOST_WAITING, schedule_delay_millis=config.delay * 1000
            )
            self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("gatewright.plugins.opentelemetry")

    def begin(self, context: Context, parent: trace.SpanContext, *, unwanted: bool = False) -> trace.SpanContext:
        """Decide on a span's ids, and whether it is recorded (`trace_flags.sampled`).

        Args:
            context: the request's.
            parent: whose child it is; one that isn't valid: nobody's.
            unwanted: the caller has no trace, but says that there shall be none.
        """
        if parent.is_valid:
            trace_id, flags = parent.trace_id, parent.trace_flags & _RANDOM_TRACE_ID
        else:
            trace_id, flags = self._random.generate_trace_id(), _RANDOM_TRACE_ID
        sampling = self._sampler.should_sample(context, trace_id, "")
        if sampling.decision is Decision.RECORD_AND_SAMPLE and not (unwanted and self._heeds_callers):
            flags |= trace.TraceFlags.SAMPLED
        span_id = self._random.generate_span_id()
        return trace.SpanContext(trace_id, span_id, False, trace.TraceFlags(flags), sampling.trace_state)

    def whole(
        self,
        name: str,
        span: trace.SpanContext,
        parent: trace.SpanContext | None,
        started: int,
        attributes: dict[str, Any],
    ) -> trace.Span:
        """A span that was begun before, to be ended.

        Args:
            name: its name.
            span: what `begin` decided.
            parent: whose child it is.
            started: nanoseconds since 1970.
            attributes: known since then.
        """
        context = Context()
        if parent is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent), context)
        self._ids.trace_id, self._ids.span_id = span.trace_id, span.span_id
        return self._tracer.start_span(name, context, trace.SpanKind.SERVER, attributes, start_time=started)

    def close(self) -> None:
        """Send what is left, if that can be done soon."""
        closing = threading.Thread(target=self._provider.shutdown, name="gatewright-spans", daemon=True)
        closing.start()
        closing.join(_CLOSING_SECONDS)
        if closing.is_alive():
            _log.warning("spans that are left may not reach all exporters: one doesn't answer")


class Pipelines:
    """The pipelines of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[object, tuple[Pipeline, int]] = {}

    async def use(self, config: OpentelemetryConfig) -> tuple[object, Pipeline]:
        """A pipeline, and the key to give it back with. May raise what `Pipeline` raises."""
        return await asyncio.to_thread(self._use, config)

    def _use(self, config: OpentelemetryConfig) -> tuple[object, Pipeline]:
        # Not representations: two secrets look the same.
        exporters = tuple(
            tuple(frozenset(part.items()) if isinstance(part, dict) else part for part in msgspec.structs.astuple(each))
            for each in config.exporters
        )
        key = (
            config.service,
            frozenset(config.resource.items()),
            config.sampler,
            config.ratio,
            config.delay,
            exporters,
        )
        with self._lock:
            pipeline, users = self._known.get(key) or (Pipeline(config), 0)
            self._known[key] = pipeline, users + 1
        return key, pipeline

    async def leave(self, key: object) -> None:
        """Give one back; the last one closes it."""
        with self._lock:
            pipeline, users = self._known.pop(key)
            if users > 1:
                self._known[key] = pipeline, users - 1
                return
        await asyncio.to_thread(pipeline.close)
