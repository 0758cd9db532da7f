"""What serves connections of the lean protocol, recorded, traced or neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from gatewright.gateways.lean.calls import LeanRequestCall, LeanSource
from gatewright.gateways.lean.session import LeanSession
from gatewright.http import Call
from gatewright.observe.tracing import Tracing
from gatewright.runtime.chain import Chain
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.lean.connection import LeanConnection
from gatewright.server.drivers.lean.plans import Plans
from gatewright.server.drivers.lean.recorded import RecordedLeanConnection
from gatewright.server.worker.service import Service

__all__ = ["TracedLeanConnection", "driver"]


class TracedLeanConnection(LeanConnection):
    """A connection whose calls are traced."""

    def __init__(self, service: Service, session: LeanSession, plans: Plans) -> None:
        super().__init__(service, session, plans)
        self._tracing = cast("Tracing", service.tracing)

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

    def _log_phase(self, chain: Chain, call: Call, strand: Strand) -> None:
        self._tracing.begin_phase(call, "log", call.headers.get("traceparent"), call.headers.get("tracestate"))
        try:
            super()._log_phase(chain, call, strand)
        finally:
            self._tracing.end(call)


Connect = Callable[[Service, LeanSession, Plans], LeanConnection]


def driver(service: Service, connect: Connect | None = None) -> Callable[[], LeanConnection]:
    """What makes the drivers of connections for a service.

    Args:
        service: the worker's service.
        connect: makes one for a session; by default what the settings ask for.
    """
    plans, limit = Plans(service.builder), service.settings.max_frame
    kind = connect if connect is not None else _kind_of_connection(service)
    return lambda: kind(service, LeanSession(max_size=limit), plans)


def _kind_of_connection(service: Service) -> type[LeanConnection]:
    """The plain connection, with what is to be done besides, from the outside inwards."""
    wanted: list[tuple[bool, type[LeanConnection]]] = [
        (service.recorder is not None, RecordedLeanConnection),
        (service.tracing is not None, TracedLeanConnection),
    ]
    kinds = [kind for is_wanted, kind in wanted if is_wanted]
    if len(kinds) < 2:
        return kinds[0] if kinds else LeanConnection
    return type("_LeanConnection", tuple(kinds), {})
