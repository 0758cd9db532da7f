"""A test client's gateway, as Kong: the development gateway without listener and network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from gatewright.dev.kong.declarative import parse_declarative
from gatewright.dev.kong.gateway import KongGateway as DevKong
from gatewright.dev.kong.plugins import KnownPlugin, Plugins, known_plugins
from gatewright.dev.kong.rpc import Instance, PdkFunction, PluginRpc, new_rpc
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
from gatewright.testing.recording import HereRecorder
from gatewright.testing.runs import CURRENT, PdkCall, Run, Visit

__all__ = ["KongGateway"]


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
            value = pdk(method, args)
            run.pdk.append(PdkCall(method, tuple(args), value))
            return value

        await self._rpc().handle_event(instance, phase, noted)

    def close(self) -> None:
        """Visits close their own."""


class KongGateway:
    """Kong with one route."""

    server = "gatewright-dev"
    charset = False

    def __init__(self, runner: InProcessRunner, gateway: DevKong, recorder: HereRecorder | None) -> None:
        self._runner = runner
        self._recorder = recorder
        self._gateway = gateway

    @classmethod
    async def start(
        cls,
        chain: Sequence[tuple[type[Plugin], str]],
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
            protocol: `msgpack` or `protobuf`.
            lua_style: PDK calls give `(value, error)`.
            record: a file to write each request's record to.
        """
        known = known_plugins(dump(list(plugins.values()), protocol), lambda _: "")
        declared = parse_declarative(
            {
                "_format_version": "3.0",
                "services": [
                    {"name": "test", "url": "http://upstream.test", "routes": [{"name": "test", "paths": ["/"]}]}
                ],
                "plugins": [{"name": plugin.name, "config": msgspec.json.decode(text)} for plugin, text in chain],
            }
        )
        recorder = (
            None if record is None else HereRecorder.to_file(record, "kong", "", server=cls.server, charset=cls.charset)
        )
        runner = await InProcessRunner.start(
            plugins, settings, partial(_connections, protocol=protocol, lua_style=lua_style),
            hash_token=instance_id_of, recorder=recorder,
        )  # fmt: skip
        try:
            configured = Plugins(known, declared, connect=lambda plugin: _VisitRpc(plugin, runner))
        except BaseException:
            await runner.close()
            raise
        return cls(runner, DevKong(declared, configured, send=send), recorder)

    async def handle(self, request: ClientRequest, visit: Visit) -> Answer:
        """Answer one request, and see its log phase to the end."""
        handle = (
            self._gateway.handle if self._recorder is None else self._recorder.inspector.watch(self._gateway.handle)
        )
        answer = await handle(request)
        await self._gateway.settle()
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
