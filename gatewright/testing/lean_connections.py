"""A test client's runner over the lean path: connections belong to a visit, and note what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gatewright.errors import GatewrightError
from gatewright.gateways.lean.session import LeanSession
from gatewright.http import Call
from gatewright.runtime.chain import Chain
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.lean.connection import LeanConnection
from gatewright.server.drivers.lean.driver import driver
from gatewright.server.drivers.lean.plans import Plans
from gatewright.server.drivers.lean.recorded import RecordedLeanConnection
from gatewright.server.worker.service import Service
from gatewright.testing.runs import Visit

__all__ = ["lean_connections"]


class _WatchedLean(LeanConnection):
    def __init__(self, service: Service, session: LeanSession, plans: Plans, visit: Visit) -> None:
        super().__init__(service, session, plans)
        self._visit = visit

    def _serve(self, strand: Strand, call: Call) -> None:
        call.trace = self._visit
        super()._serve(strand, call)

    def _log_phase(self, chain: Chain, call: Call, strand: Strand) -> None:
        call.trace = self._visit
        super()._log_phase(chain, call, strand)

    def _refusal_of(self, error: GatewrightError, call: Call) -> bytes:
        self._visit.refused = error
        return super()._refusal_of(error, call)


class _WatchedAndRecordedLean(_WatchedLean, RecordedLeanConnection):
    """Both."""


def lean_connections(service: Service) -> Callable[[Visit], asyncio.Protocol]:
    """What makes the connections of a service."""
    kind = _WatchedLean if service.recorder is None else _WatchedAndRecordedLean

    def connect(visit: Visit) -> asyncio.Protocol:
        return driver(service, lambda service, session, plans: kind(service, session, plans, visit))()

    return connect
