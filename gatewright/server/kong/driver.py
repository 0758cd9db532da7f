"""What serves Kong's connections, traced or not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from gatewright.errors import CallRefusedError, DeadlineExceededError
from gatewright.gateways.kong.events import KongSession
from gatewright.observe.tracing import Tracing
from gatewright.runtime.bridge import Strand
from gatewright.runtime.pdk import PdkError
from gatewright.server.kong.connection import PluginServerConnection
from gatewright.server.kong.event import Event
from gatewright.server.kong.instances import Instances
from gatewright.server.service import Service

__all__ = ["driver"]

_WITH_REQUEST: Final = frozenset(("rewrite", "access", "response", "log"))
"""Phases in which Kong tells the request's headers (pdk/request.lua)."""


class TracedPluginServerConnection(PluginServerConnection):
    """A connection whose events are traced."""

    def __init__(
        self, service: Service, instances: Instances, new_session: Callable[[], KongSession], tracing: Tracing
    ) -> None:
        super().__init__(service, instances, new_session())
        self._tracing = tracing

    def _run(self, event: Event, strand: Strand) -> None:
        chain = event.chain
        if not chain.ready:
            chain.build()
        strand.work, strand.deadline = chain.steps[0], 0.0
        parent = self._header(event, "traceparent")
        state = self._header(event, "tracestate") if parent else None
        strand.deadline = 0.0
        self._tracing.begin_phase(event, event.phase, parent, state)
        try:
            super()._run(event, strand)
        except CallRefusedError as error:
            self._tracing.refused(event, error)
            raise
        finally:
            self._tracing.end(event)

    def _header(self, event: Event, name: str) -> str | None:
        if event.phase not in _WITH_REQUEST:
            return None
        try:
            if event.phase == "log" and event.call("kong.nginx.get_subsystem", ()) != "http":
                return None
            value: str | None = event.call("kong.request.get_header", (name,))
        except (PdkError, DeadlineExceededError) as error:
            self._service.failures.report("trace not continued", kind="trace", plugin=event.chain.name, error=error)
            return None
        return value


def driver(new_session: Callable[[], KongSession], *, lua_style: bool) -> Callable[[Service], Callable[[], Any]]:
    """What makes the drivers of connections for a service.

    Args:
        new_session: makes the protocol state of a new connection.
        lua_style: PDK calls give `(value, error)`.
    """

    def for_service(service: Service) -> Callable[[], PluginServerConnection]:
        instances = Instances(service, lua_style=lua_style)
        service.on_letter = lambda letter, delivered: instances.on_letter(letter, delivered, new_session)
        service.on_gone = instances.on_gone
        service.on_cut_off = instances.refuse_all
        if service.tracing is not None:
            return partial(TracedPluginServerConnection, service, instances, new_session, service.tracing)
        return lambda: PluginServerConnection(service, instances, new_session())

    return for_service
