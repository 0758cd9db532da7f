"""A test client's gateway, as APISIX: the development gateway without listener and network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatewright.dev.apisix.behaviour import BEHAVIOURS
from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.apisix.routes import build_routes
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.dev.target import Upstream
from gatewright.dev.upstream import Sender
from gatewright.errors import GatewrightError
from gatewright.gateways.events import Session
from gatewright.http import Call
from gatewright.plugin import Plugin
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.apisix.connection import Connection
from gatewright.server.drivers.apisix.driver import driver
from gatewright.server.drivers.apisix.recorded import RecordedConnection
from gatewright.server.worker.service import Service
from gatewright.settings import Settings
from gatewright.testing.inprocess import InProcessRunner
from gatewright.testing.lean_connections import lean_connections
from gatewright.testing.recording import HereRecorder
from gatewright.testing.runs import Visit

__all__ = ["ApisixGateway"]

Chain = Sequence[tuple[type[Plugin], str]]


class _Watched(Connection):
    def __init__(self, service: Service, session: Session, visit: Visit) -> None:
        super().__init__(service, session)
        self._visit = visit

    def _serve(self, strand: Strand, call: Call) -> None:
        call.trace = self._visit
        super()._serve(strand, call)

    def _refusal_of(self, error: GatewrightError, call: Call) -> bytes:
        self._visit.refused = error
        return super()._refusal_of(error, call)


class _WatchedAndRecorded(_Watched, RecordedConnection):
    """Both."""


def _connections(service: Service) -> Callable[[Visit], asyncio.Protocol]:
    kind = _Watched if service.recorder is None else _WatchedAndRecorded

    def connect(visit: Visit) -> asyncio.Protocol:
        return driver(service, lambda service, session: kind(service, session, visit))()

    return connect


def _plugins_of_route(chain: Chain, request_phase: str, *, allow_degradation: bool) -> dict[str, Any]:
    """Each plugin under the phases that it has a handler for; one without any where its mistake shows."""
    phases = {"on_request": request_phase, "on_response": "ext-plugin-post-resp"}
    confs: dict[str, list[dict[str, str]]] = {}
    for plugin, text in chain:
        for phase in plugin.phases() or ("on_request",):
            confs.setdefault(phases[phase], []).append({"name": plugin.name, "value": text})
    return {name: {"conf": conf, "allow_degradation": allow_degradation} for name, conf in confs.items()}


def _lean_plugins_of_route(chain: Chain, request_phase: str) -> dict[str, Any]:
    """The same for the lean path, whose plugins call `on_log`, too."""
    request = "gatewright" if request_phase == "ext-plugin-pre-req" else "gatewright-after"
    confs: dict[str, list[dict[str, str]]] = {}
    for plugin, text in chain:
        handlers = plugin.phases()
        for name, wanted in ((request, "on_request"), ("gatewright-response", "on_response")):
            if wanted in handlers or (name == request and not handlers):
                confs.setdefault(name, []).append({"name": plugin.name, "value": text})
    return {name: {"conf": conf} for name, conf in confs.items()}


class ApisixGateway:
    """APISIX with one route."""

    server = "APISIX"
    charset = True

    def __init__(
        self, runner: InProcessRunner, routes: Any, version: str, send: Sender, recorder: HereRecorder | None
    ) -> None:
        self._runner = runner
        self._recorder = recorder
        self._routes = routes
        self._behaviour = BEHAVIOURS[version]
        self._send = send

    @classmethod
    async def start(
        cls,
        chain: Chain,
        plugins: Mapping[str, type[Plugin]],
        settings: Settings,
        send: Sender,
        *,
        version: str = "3.9",
        request_phase: str = "ext-plugin-pre-req",
        allow_degradation: bool = False,
        lean: bool = False,
        record: Path | None = None,
    ) -> ApisixGateway:
        """Start one on the running loop.

        Args:
            chain: plugins and the text of their configuration, in order.
            plugins: all that the runner knows, by name.
            settings: the runner's.
            send: sends requests to the upstream.
            version: which APISIX to behave as.
            request_phase: `ext-plugin-pre-req` or `ext-plugin-post-req`.
            allow_degradation: the route's.
            lean: over the lean path.
            record: a file to write each request's record to.
        """
        recorder = (
            None
            if record is None
            else HereRecorder.to_file(record, "apisix", version, server=cls.server, charset=cls.charset)
        )
        connections = lean_connections if lean else _connections
        runner = await InProcessRunner.start(plugins, settings, connections, recorder=recorder)
        named = (
            _lean_plugins_of_route(chain, request_phase)
            if lean
            else _plugins_of_route(chain, request_phase, allow_degradation=allow_degradation)
        )
        content = {"routes": [{"id": "test", "uri": "/*", "plugins": named}]}
        routes = build_routes(content, version="1", default_upstream=Upstream("upstream.test", 80))
        return cls(runner, routes, version, send, recorder)

    async def handle(self, request: ClientRequest, visit: Visit) -> Answer:
        """Answer one request."""
        # Connections belong to a visit, so the pool does, too; the runner knows a configuration by its key.
        gateway = DevGateway(self._routes, self._runner.dial, behaviour=self._behaviour, send=self._send)
        try:
            handle = gateway.handle if self._recorder is None else self._recorder.inspector.watch(gateway.handle)
            return await handle(request)
        finally:
            await gateway.stop()
            await self._runner.settle()

    async def close(self) -> None:
        """End the runner."""
        await self._runner.close()
