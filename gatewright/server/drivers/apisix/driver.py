"""What serves APISIX's connections, traced or not, and the plan for it."""

from __future__ import annotations

from collections.abc import Callable

from gatewright.errors import GatewayClosedError, GatewrightError
from gatewright.gateways.apisix.session import ApisixSession
from gatewright.gateways.events import Session
from gatewright.http import Call, Question, RequestCall
from gatewright.observe.tracing import Tracing
from gatewright.runtime.bridge import Strand
from gatewright.runtime.discovery import Discovery
from gatewright.server.drivers.apisix.connection import Connection
from gatewright.server.worker.process import WorkerPlan
from gatewright.server.worker.service import Service
from gatewright.settings import Settings

__all__ = ["TracedConnection", "driver", "plan"]


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


def driver(service: Service) -> Callable[[], Connection]:
    """What makes the drivers of connections for a service."""
    tracing, most = service.tracing, service.settings.max_frame
    if tracing is None:
        return lambda: Connection(service, ApisixSession(max_payload=most))
    return lambda: TracedConnection(service, ApisixSession(max_payload=most), tracing)


def plan(settings: Settings, discover: Callable[[], Discovery]) -> WorkerPlan:
    """The plan for an APISIX plugin runner.

    Args:
        settings: the effective settings.
        discover: finds the plugins; called in each worker.
    """
    return WorkerPlan(settings, discover, driver)
