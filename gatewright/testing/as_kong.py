"""A test client's gateway, as Kong: the development gateway without listener and network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from gatewright.dev.kong.declarative import parse_declarative
from gatewright.dev.kong.dialling import new_rpc
from gatewright.dev.kong.gateway import KongGateway as DevKong
from gatewright.dev.kong.lean import LeanPlugins
from gatewright.dev.kong.lean_schema import LEAN_PLUGINS
from gatewright.dev.kong.plugins import KnownPlugin, Plugins, known_plugins
from gatewright.dev.kong.rpc import Instance, PdkFunction, PluginRpc
from gatewright.dev.lean.client import LeanClient
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.dev.upstream import Sender
from gatewright.errors import CallRefusedError
from gatewright.gateways.kong.dump import dump
from gatewright.gateways.kong.events import KongSession
from gatewright.plugin import Plugin
from gatewright.runtime.confs import instance_id_of
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.kong.connection import PluginServerConnection
from gatewright.server.drivers.kong.driver import SESSIONS, RecordedPluginServerConnection, driver
from gatewright.server.drivers.kong.event import Event
from gatewright.server.drivers.kong.instances import Instances
from gatewright.server.worker.service import Service
from gatewright.settings import Settings
from gatewright.testing.inprocess import InProcessRunner
from gatewright.testing.lean_connections import lean_connections
from gatewright.testing.recording import HereRecorder
from gatewright.testing.runs import CURRENT, PdkCall, Run, Visit

__all__ = ["KongGateway"]


Chain = Sequence[tuple[type[Plugin], str]]
_LEAN = ""
"""Among a visit's ways, which are by plugin."""


class _Watched(PluginServerConnection):
    def __init__(self, service: Service, instances: Instances, session: KongSession, visit: Visit) -> None:
        super().__init__(service, instances, session)
        self._visit = visit

    def _run(self, event: Event, strand: Strand) -> None:
        event.trace = self._visit
        try:
            super()._run(event, strand)
        except CallRefusedError as error:
            self._visit.refused = error
            raise


class _WatchedAndRecorded(_Watched, RecordedPluginServerConnection):
    """Both."""


def _connections(service: Service, *, protocol: str, lua_style: bool) -> Callable[[Visit], asyncio.Protocol]:
    wanted: list[Visit] = []
    kind = _Watched if service.recorder is None else _WatchedAndRecorded

    def watched(service: Service, instances: Instances, session: KongSession) -> PluginServerConnection:
        return kind(service, instances, session, wanted.pop())

    new = driver(service, new_session=SESSIONS[protocol], lua_style=lua_style, connect=watched)

    def connect(visit: Visit) -> asyncio.Protocol:
        wanted.append(visit)
        return new()

    return connect


class _VisitRpc:
    """The way to the plugin server, on connections that belong to the visit (see `PluginRpc`)."""

    def __init__(self, plugin: KnownPlugin, runner: InProcessRunner) -> None:
        self._plugin = plugin
        self._runner = runner

    def _rpc(self) -> PluginRpc:
        visit = CURRENT.get()
        rpc: PluginRpc | None = visit.ways.get(self._plugin.name)
        if rpc is None:
            rpc = visit.ways[self._plugin.name] = new_rpc(self._plugin.protocol, self._runner.dial)
            visit.closing.callback(rpc.close)
        return rpc

    async def start_instance(self, plugin: str, config: Mapping[str, Any]) -> int:
        return await self._rpc().start_instance(plugin, config)

    async def close_instance(self, instance: int) -> None:
        await self._rpc().close_instance(instance)

    async def handle_event(self, instance: Instance, phase: str, pdk: PdkFunction) -> None:
        visit = CURRENT.get()
        run = visit.under_way = Run(instance.plugin, phase)
        visit.runs.append(run)

        def noted(method: str, args: Sequence[Any]) -> Any:
            value = None
            try:
                value = pdk(method, args)
            finally:  # those that end the phase give nothing
                run.pdk.append(PdkCall(method, tuple(args), value))
            return value

        await self._rpc().handle_event(instance, phase, noted)

    def close(self) -> None:
        """Visits close their own."""


def _client(runner: InProcessRunner) -> LeanClient:
    """The way to the runner over the lean path, on a connection that belongs to the visit."""
    visit = CURRENT.get()
    client: LeanClient | None = visit.ways.get(_LEAN)
    if client is None:
        client = visit.ways[_LEAN] = LeanClient(runner.dial)
        visit.closing.callback(client.close)
    return client


def _lean_plugins(chain: Chain) -> list[dict[str, Any]]:
    """Each plugin under the phases that it has a handler for; one without any where its mistake shows."""
    entries: dict[str, list[dict[str, str]]] = {}
    for plugin, text in chain:
        handlers = plugin.phases()
        for name, wanted in (("gatewright", "on_request"), ("gatewright-response", "on_response")):
            if wanted in handlers or (name == "gatewright" and not handlers):
                entries.setdefault(name, []).append({"name": plugin.name, "config": text})
    return [{"name": name, "config": {"chain": each}} for name, each in entries.items()]


def _plugins(chain: Chain) -> list[dict[str, Any]]:
    return [{"name": plugin.name, "config": msgspec.json.decode(text)} for plugin, text in chain]


class KongGateway:
    """Kong with one route."""

    server = "gatewright-dev"
    charset = False

    def __init__(
        self, runner: InProcessRunner, gateway: DevKong, recorder: HereRecorder | None, *, is_lean: bool
    ) -> None:
        self._runner = runner
        self._is_lean = is_lean
        self._recorder = recorder
        self._gateway = gateway

    @classmethod
    async def start(
        cls,
        chain: Chain,
        plugins: Mapping[str, type[Plugin]],
        settings: Settings,
        send: Sender,
        *,
        protocol: str = "msgpack",
        lua_style: bool = False,
        record: Path | None = None,
    ) -> KongGateway:
        """Start one on the running loop.

        Args:
            chain: plugins and the text of their configuration; Kong runs them by priority.
            plugins: all that the plugin server knows, by name.
            settings: the plugin server's.
            send: sends requests to the service.
            protocol: `msgpack`, `protobuf`, or `lean` for the lean path.
            lua_style: PDK calls give `(value, error)`.
            record: a file to write each request's record to.
        """
        is_lean = protocol == "lean"
        known = [] if is_lean else known_plugins(dump(list(plugins.values()), protocol), lambda _: "")
        declared = parse_declarative(
            {
                "_format_version": "3.0",
                "services": [
                    {"name": "test", "url": "http://upstream.test", "routes": [{"name": "test", "paths": ["/"]}]}
                ],
                "plugins": _lean_plugins(chain) if is_lean else _plugins(chain),
            }
        )
        recorder = (
            None if record is None else HereRecorder.to_file(record, "kong", "", server=cls.server, charset=cls.charset)
        )
        if is_lean:
            runner = await InProcessRunner.start(plugins, settings, lean_connections, recorder=recorder)
        else:
            runner = await InProcessRunner.start(
                plugins, settings, partial(_connections, protocol=protocol, lua_style=lua_style),
                hash_token=instance_id_of, recorder=recorder,
            )  # fmt: skip
        try:
            configured = Plugins(
                known, declared, connect=lambda plugin: _VisitRpc(plugin, runner), others=LEAN_PLUGINS
            )  # fmt: skip
        except BaseException:
            await runner.close()
            raise
        lean = LeanPlugins(lambda: _client(runner))
        return cls(runner, DevKong(declared, configured, send=send, lean=lean), recorder, is_lean=is_lean)

    async def handle(self, request: ClientRequest, visit: Visit) -> Answer:
        """Answer one request, and see its log phase to the end."""
        handle = (
            self._gateway.handle if self._recorder is None else self._recorder.inspector.watch(self._gateway.handle)
        )
        answer = await handle(request)
        await self._gateway.settle()
        if self._is_lean:
            await self._runner.settle()
        return answer

    async def close(self) -> None:
        """End the gateway and the plugin server."""
        visit = Visit()
        token = CURRENT.set(visit)
        try:
            with visit.closing:
                await self._gateway.stop()
        finally:
            CURRENT.reset(token)
        await self._runner.close()
