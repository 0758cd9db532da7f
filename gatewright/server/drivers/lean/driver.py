"""What serves connections of the lean protocol."""

from __future__ import annotations

from collections.abc import Callable

from gatewright.gateways.lean.calls import LeanRequestCall, LeanSource
from gatewright.gateways.lean.session import LeanSession
from gatewright.http import Call
from gatewright.observe.tracing import Tracing
from gatewright.runtime.bridge import Strand
from gatewright.runtime.chain import Chain
from gatewright.server.drivers.lean.connection import LeanConnection
from gatewright.server.drivers.lean.plans import Plans
from gatewright.server.worker.service import Service

__all__ = ["TracedLeanConnection", "driver"]


class TracedLeanConnection(LeanConnection):
    """A connection whose calls are traced."""

    def __init__(self, service: Service, session: LeanSession, plans: Plans, tracing: Tracing) -> None:
        super().__init__(service, session, plans)
        self._tracing = tracing

    def _answer(self, chain: Chain, strand: Strand, call: Call, source: LeanSource) -> bytes:
        learner = self._plans.request(chain) if type(call) is LeanRequestCall else self._plans.response(chain)
        source.note = learner.note
        self._tracing.begin(call, call.headers.get("traceparent"), call.headers.get("tracestate"))
        try:
            return super()._answer(chain, strand, call, source)
        except Exception as error:
            self._tracing.refused(call, error)
            raise
        finally:
            self._tracing.end(call)


def driver(service: Service) -> Callable[[], LeanConnection]:
    """What makes the drivers of connections for a service."""
    plans = Plans(service.builder)
    tracing, limit = service.tracing, service.settings.max_frame
    if tracing is None:
        return lambda: LeanConnection(service, LeanSession(max_size=limit), plans)
    return lambda: TracedLeanConnection(service, LeanSession(max_size=limit), plans, tracing)
