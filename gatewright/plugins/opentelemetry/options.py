"""What is traced, and where spans go."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from gatewright import Secret
from gatewright.plugins._shared.model import field
from gatewright.plugins.opentelemetry.baggage import is_key

__all__ = ["Exporter", "OpentelemetryConfig"]

_SECRET_HEADERS: Final = frozenset(("authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key"))


class Exporter(msgspec.Struct, frozen=True, kw_only=True):
    """Where spans go."""

    kind: Annotated[
        Literal["otlp-http", "otlp-grpc", "zipkin", "console"],
        field("OTLP over HTTP or gRPC, Zipkin's JSON (version 2), or lines of JSON in the runner's log."),
    ] = "otlp-http"
    endpoint: Annotated[
        str,
        field(
            "`http://host:4318` (OTLP; `/v1/traces` is added), `http://host:4317` (gRPC; `https:` for TLS), "
            "`http://host:9411/api/v2/spans` (Zipkin); empty: that on this machine."
        ),
    ] = ""
    headers: Annotated[dict[str, Secret], field("Sent with each batch: an access token, say.")] = {}
    timeout: Annotated[float, field("How long a batch may take.", unit="seconds", gt=0, le=60)] = 10.0
    gzip: Annotated[bool, field("Of OTLP: pack batches.")] = False
    ca_file: Annotated[str, field("Of OTLP: certificates to trust instead of the system's, in a PEM file.")] = ""

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"an exporter's endpoint begins with http:// or https://, not as {self.endpoint!r}")


class OpentelemetryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Spans of a route."""

    service: Annotated[str, field("The service's name, `service.name` of all spans.", min_length=1)] = "gateway"
    resource: Annotated[dict[str, str], field("Further attributes of the service: `service.version`, say.")] = {}
    exporters: Annotated[tuple[Exporter, ...], field("Where spans go; to each of them.", min_length=1)] = (Exporter(),)
    delay: Annotated[
        float, field("How long spans are gathered before they are sent together.", unit="seconds", ge=0.01, le=60)
    ] = 1.0
    route: Annotated[
        str, field("The route's pattern, `http.route`, and so a part of the span's name: `/users/{id}`, say.")
    ] = ""
    ends: Annotated[
        Literal["response", "request"],
        field(
            "When a span ends: with the `response`, for which APISIX's `ext-plugin-post-resp` must be configured, too, "
            "or with the `request` phase, without a status and the upstream's time."
        ),
    ] = "response"
    sampler: Annotated[
        Literal["parent", "ratio", "always", "never"],
        field("Which requests are recorded: as the caller says, and a `ratio` of those who say nothing; or as named."),
    ] = "parent"
    ratio: Annotated[float, field("The share of traces that begin here to be recorded.", ge=0, le=1)] = 1.0
    propagate: Annotated[
        tuple[Literal["tracecontext", "baggage", "b3", "b3multi"], ...],
        field("What is read from clients and sent upstream: W3C Trace Context and Baggage, B3 in one header or many."),
    ] = ("tracecontext", "baggage")
    trust_incoming: Annotated[
        bool,
        field("Go on with the client's trace and baggage; if not, they are removed, and a trace begins here."),
    ] = True
    baggage: Annotated[dict[str, str], field("Entries to add to the baggage for the upstream.")] = {}
    trace_header: Annotated[str, field("A header that tells clients the trace's id; empty: none.")] = ""
    attributes: Annotated[dict[str, str], field("Attributes to add to each span.")] = {}
    query: Annotated[bool, field("Record the query, too (`url.query`): it may hold secrets.")] = False
    request_headers: Annotated[tuple[str, ...], field("Headers of requests to record.")] = ()
    response_headers: Annotated[tuple[str, ...], field("Headers of answers to record.")] = ()

    def __post_init__(self) -> None:
        for name in (*self.request_headers, *self.response_headers):
            if name.lower() in _SECRET_HEADERS:
                raise ValueError(f"{name!r} holds secrets, and is not recorded")
        if self.baggage and "baggage" not in self.propagate:
            raise ValueError("`baggage` is sent only if `propagate` has it")
        for name in self.baggage:
            if not is_key(name):
                raise ValueError(f"no entry of a baggage can be called {name!r}: names have no spaces, nor , ; =")
