"""What serves Kong's connections, recorded, traced or neither, and the plan for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, cast

from gatewright.errors import CallRefusedError, DeadlineExceededError
from gatewright.gateways.kong.events import KongSession
from gatewright.gateways.kong.msgpack_session import MsgPackSession
from gatewright.gateways.kong.protobuf_session import ProtoBufSession
from gatewright.observe.recording import Recorder
from gatewright.observe.tracing import Tracing
from gatewright.runtime.confs import instance_id_of
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.pdk import PdkError
from gatewright.runtime.records import CallRecord
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.kong.connection import PluginServerConnection
from gatewright.server.drivers.kong.event import REFUSAL, Event
from gatewright.server.drivers.kong.instances import Instances
from gatewright.server.drivers.kong.stand_in import StandIn
from gatewright.server.host.listener import BACKLOG
from gatewright.server.host.orphans import GRACE_SECONDS
from gatewright.server.worker.process import WorkerPlan
from gatewright.server.worker.service import Service
from gatewright.settings import Address, Settings

__all__ = ["SESSIONS", "driver", "plan"]

SESSIONS: Final[dict[str, type[KongSession]]] = {"msgpack": MsgPackSession, "protobuf": ProtoBufSession}

_KEPT_DRAIN_SECONDS: Final = GRACE_SECONDS - 1.0
"""Kong kills a server some milliseconds after it has told it to end, and does not wait for its workers."""
_WITH_REQUEST: Final = frozenset(("rewrite", "access", "response", "log"))
"""Phases in which Kong tells the request's headers (pdk/request.lua)."""


class TracedPluginServerConnection(PluginServerConnection):
    """A connection whose events are traced."""

    def __init__(self, service: Service, instances: Instances, session: KongSession) -> None:
        super().__init__(service, instances, session)
        self._tracing = cast("Tracing", service.tracing)

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


class RecordedPluginServerConnection(PluginServerConnection):
    """A connection whose events are recorded, under the ticket that Kong's wish for them came with."""

    def __init__(self, service: Service, instances: Instances, session: KongSession) -> None:
        super().__init__(service, instances, session)
        self._recorder = cast("Recorder", service.recorder)

    def _run(self, event: Event, strand: Strand) -> None:
        number = self.session.number_of(event.ticket)
        recorder = self._recorder
        if recorder.at_rest and not recorder.wake():
            event.record = None
            super()._run(event, strand)
            return
        record = event.record = strand.record = CallRecord(number, event.phase, strand.began, event.chain.key)
        try:
            super()._run(event, strand)
        except CallRefusedError as error:
            record.refused = str(error)
            raise
        finally:
            event.record = strand.record = None
            recorder.end(record)
            if recorder.at_rest:
                recorder.flush_soon()


class _RecordedTracedConnection(RecordedPluginServerConnection, TracedPluginServerConnection):
    """Both."""


def driver(
    service: Service,
    *,
    new_session: type[KongSession],
    lua_style: bool,
    connect: Callable[[Service, Instances, KongSession], PluginServerConnection] | None = None,
) -> Callable[[], PluginServerConnection]:
    """What makes the drivers of connections for a service.

    Args:
        service: the worker's service.
        new_session: makes the protocol state of a new connection.
        lua_style: PDK calls give `(value, error)`.
        connect: makes one for a session; by default what the settings ask for.
    """
    service.builder.checks_fields = False
    instances = Instances(service, lua_style=lua_style)
    if new_session.moves and connect is None:  # a test client is the only one in its process, or one of many
        instances.neighbours.listen()
        service.on_close = instances.neighbours.close
    service.on_cut_off = instances.refuse_all
    if connect is not None:
        return lambda: connect(service, instances, new_session())
    kind: type[PluginServerConnection] = PluginServerConnection
    if service.recorder is not None:
        kind = RecordedPluginServerConnection if service.tracing is None else _RecordedTracedConnection
    elif service.tracing is not None:
        kind = TracedPluginServerConnection
    return lambda: kind(service, instances, new_session())


def plan(
    settings: Settings,
    discover: Callable[[], Discovery],
    *,
    protocol: str = "msgpack",
    lua_style: bool = False,
    use_gevent: bool = False,
    backlog: int = BACKLOG,
    socket_of: Callable[[str], Address] | None = None,
) -> WorkerPlan:
    """The plan for a Kong plugin server.

    Args:
        settings: the effective settings.
        discover: finds the plugins; called in each worker.
        protocol: what to speak, a key of `gatewright.gateways.kong.dump.PROTOCOLS`.
        lua_style: PDK calls give `(value, error)`.
        use_gevent: handlers run in greenlets of gevent's.
        backlog: connections that may wait to be accepted.
        socket_of: gives the address of a plugin's own socket, besides the one that all share.
    """
    session = SESSIONS[protocol]
    return WorkerPlan(
        settings,
        discover,
        partial(driver, new_session=session, lua_style=lua_style),
        instance_id_of,
        last_words=partial(session.last_words, refusal=REFUSAL),
        goes_on=session.moves,
        use_gevent=use_gevent,
        backlog=backlog,
        socket_of=socket_of,
        stand_in=partial(StandIn, session),
        kept_drain=_KEPT_DRAIN_SECONDS,
    )
