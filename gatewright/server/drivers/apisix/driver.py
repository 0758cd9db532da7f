"""What serves APISIX's connections, recorded, traced or neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from gatewright.errors import GatewayClosedError, GatewrightError
from gatewright.gateways.apisix.calls import HttpReqCall
from gatewright.gateways.apisix.session import ApisixSession
from gatewright.gateways.events import Session
from gatewright.http import Call, Question, RequestCall, Response
from gatewright.observe.tracing import Tracing
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.apisix.connection import Connection
from gatewright.server.drivers.apisix.recorded import RecordedConnection
from gatewright.server.worker.service import Service

__all__ = ["StrictConnection", "TracedConnection", "driver"]


class TracedConnection(Connection):
    """A connection whose calls are traced."""

    def __init__(self, service: Service, session: Session) -> None:
        super().__init__(service, session)
        self._tracing = cast("Tracing", service.tracing)

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


def driver(
    service: Service, connect: Callable[[Service, Session], Connection] | None = None
) -> Callable[[], Connection]:
    """What makes the drivers of connections for a service.

    Args:
        service: the worker's service.
        connect: makes one for a session; by default what the settings ask for.
    """
    settings = service.settings

    def session() -> ApisixSession:
        return ApisixSession(
            max_payload=settings.max_frame,
            version=settings.apisix_version,
            answers_failures=settings.response_failure == "refuse",
            unsized_answers=settings.unsized_answers,
        )

    kind = connect if connect is not None else _kind_of_connection(service)
    return lambda: kind(service, session())


def _kind_of_connection(service: Service) -> type[Connection]:
    """The plain connection, with what is to be done besides, from the outside inwards."""
    wanted: list[tuple[bool, type[Connection]]] = [
        (service.recorder is not None, RecordedConnection),
        (service.settings.cut_headers == "refuse", StrictConnection),
        (service.tracing is not None, TracedConnection),
    ]
    kinds = [kind for is_wanted, kind in wanted if is_wanted]
    if len(kinds) < 2:
        return kinds[0] if kinds else Connection
    return type("_Connection", tuple(kinds), {})
