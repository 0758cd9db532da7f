"""What serves APISIX's connections, traced or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from gatewright.errors import GatewayClosedError, GatewrightError
from gatewright.gateways.apisix.calls import HttpReqCall
from gatewright.gateways.apisix.session import ApisixSession
from gatewright.gateways.events import Session
from gatewright.http import Call, Question, RequestCall, Response
from gatewright.observe.tracing import Tracing
from gatewright.runtime.bridge import Strand
from gatewright.server.drivers.apisix.connection import Connection
from gatewright.server.worker.service import Service

__all__ = ["StrictConnection", "StrictTracedConnection", "TracedConnection", "driver"]


class TracedConnection(Connection):
    """A connection whose calls are traced."""

    def __init__(self, service: Service, session: Session, tracing: Tracing) -> None:
        super().__init__(service, session)
        self._tracing = tracing

    def _serve(self, strand: Strand, call: Call) -> None:
        if type(call) is RequestCall:
            self._tracing.begin(call, call.headers.get("traceparent"), call.headers.get("tracestate"))
        else:
            self._call, self._strand = call, strand  # the response phase doesn't tell the request's headers
            try:
                parent = self.ask_sync(call, Question("var", "http_traceparent"))
            except GatewayClosedError:
                return
            finally:
                self._call = self._strand = None
            self._tracing.begin(call, parent.decode("latin-1") if parent else None)
        try:
            super()._serve(strand, call)
        finally:
            self._tracing.end(call)

    def _refusal_of(self, error: GatewrightError, call: Call) -> bytes:
        self._tracing.refused(call, error)
        return super()._refusal_of(error, call)


class StrictConnection(Connection):
    """A connection whose requests are refused if headers may have been cut off."""

    def _serve(self, strand: Strand, call: Call) -> None:
        if type(call) is RequestCall and cast("HttpReqCall", call.source).headers_cut:
            self._service.count_refused("headers cut")
            self._write(self._session.reply(call, Response(431, body="Too many headers.\n")))
            return
        super()._serve(strand, call)


class StrictTracedConnection(StrictConnection, TracedConnection):
    """Both."""


def driver(
    service: Service, connect: Callable[[Service, Session], Connection] | None = None
) -> Callable[[], Connection]:
    """What makes the drivers of connections for a service.

    Args:
        service: the worker's service.
        connect: makes one for a session; by default what the settings ask for.
    """
    tracing, settings = service.tracing, service.settings

    def session() -> ApisixSession:
        return ApisixSession(
            max_payload=settings.max_frame,
            version=settings.apisix_version,
            answers_failures=settings.response_failure == "refuse",
            unsized_answers=settings.unsized_answers,
        )

    if connect is not None:
        return lambda: connect(service, session())
    strict = settings.cut_headers == "refuse"
    if tracing is None:
        plain = StrictConnection if strict else Connection
        return lambda: plain(service, session())
    traced = StrictTracedConnection if strict else TracedConnection
    return lambda: traced(service, session(), tracing)
