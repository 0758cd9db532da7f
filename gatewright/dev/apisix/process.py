"""`gatewright dev`: a real runner, the gateway before it, an upstream behind, started and stopped together."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from gatewright.dev.apisix.admin import AdminApi
from gatewright.dev.apisix.banner import print_banner
from gatewright.dev.apisix.behaviour import BEHAVIOURS, Behaviour
from gatewright.dev.apisix.facts import facts_of
from gatewright.dev.apisix.gateway import SERVER_HEADER, DevGateway
from gatewright.dev.apisix.routes import Routes
from gatewright.dev.apisix.rpc import Timeouts
from gatewright.dev.apisix.table import made_up_routes, read_routes
from gatewright.dev.echo import ECHO, EchoUpstream
from gatewright.dev.explaining import explaining
from gatewright.dev.front import Front, listening
from gatewright.dev.here import RunnerHere, leave_at_once, runner_here, settings_for_debugging
from gatewright.dev.inspector.session import Inspection, inspecting
from gatewright.dev.messages import Answer
from gatewright.dev.options import DevOptions
from gatewright.dev.processes import until_listening, until_stopped
from gatewright.dev.reload import watch
from gatewright.dev.runner_process import reload_runner, runner_process
from gatewright.dev.survey import Survey, survey
from gatewright.dev.target import Upstream, upstream_of
from gatewright.errors import GatewrightError
from gatewright.observe.control import ask_json
from gatewright.runtime.discovery import discover
from gatewright.server.drivers.runner import plan
from gatewright.settings import parse_address

__all__ = ["run_dev"]

_FOREVER = 1e9
_ADMIN_PORT = 9180


async def run_dev(
    options: DevOptions, *, routes: Path | None = None, version: str = "3.9", workers: int = 1, lean: bool = False
) -> int:
    """Run plugins behind a development gateway until SIGINT or SIGTERM.

    Args:
        options: what is wanted.
        routes: a route file in APISIX's standalone format; by default every plugin is applied to every path.
        version: which APISIX to behave as, a key of `BEHAVIOURS`.
        workers: how many worker processes of a gateway to act as.
        lean: without routes, plugins are asked over the lean path.

    Returns:
        The exit code: 0 after a stop that was asked for, 1 if the runner ended by itself.

    Raises:
        GatewrightError: it could not be started; the message says why and what to do.
    """
    work = _run_dev(options, routes, BEHAVIOURS[version], workers, lean=lean)
    return await until_stopped(work, log_level=options.log_level)


async def _run_dev(options: DevOptions, routes: Path | None, behaviour: Behaviour, workers: int, *, lean: bool) -> int:
    echo = EchoUpstream()
    directory = tempfile.mkdtemp(prefix="gatewright-")
    if options.debug:
        leave_at_once(directory)
    try:
        await echo.start()
        there = options.upstream or ECHO
        target = Upstream("127.0.0.1", echo.port) if there == ECHO else upstream_of(there)
        facts = {"name": "apisix", "version": behaviour.version}
        async with (
            inspecting(options.inspect, directory, facts, server_header=SERVER_HEADER, charset=True) as inspection,
            _runner(options, directory, behaviour, inspection) as runner,
            AsyncExitStack() as stack,
        ):
            found = await runner.survey(options, routes)
            admin = await asyncio.to_thread(_admin_api, options, found, routes, target) if options.admin else None
            state = _State(options, routes, target, runner, found, admin, lean)
            gateway = DevGateway(
                state.table(), runner.address, behaviour=behaviour,
                watch=lambda handler: explaining(
                    inspection.watch(handler) if admin is None else admin.before(inspection.watch(handler)),
                    inspection.inspector, state.why_blocked, state.hints, inspection.url_of,
                ),
                timeouts=Timeouts(read=_FOREVER) if options.debug else None, workers=workers,
            )  # fmt: skip
            state.gateway = gateway
            with listening(f"{options.host}:{options.port}", "--port"):
                await gateway.start(options.host, options.port)
            stack.push_async_callback(gateway.stop)
            state.changed = lambda: inspection.changed(facts_of(state.found, gateway, options.host))
            page = await inspection.show(facts_of(found, gateway, options.host))
            if admin is not None:
                admin.on_change = lambda: gateway.replace_routes(state.table())
                front = Front(
                    admin.handle, server_header=SERVER_HEADER, refusal=lambda status: Answer(status, page=True)
                )
                with listening(f"{options.host}:{options.admin_port}", "--admin-port"):
                    await front.start_near(options.host, _ADMIN_PORT, options.admin_port)
                stack.push_async_callback(front.stop)
                state.admin_port = front.port
            watched = [*options.paths, *([routes] if routes is not None else [])]
            watching = asyncio.create_task(watch(watched, state.reload, whole=options.watched))
            stack.callback(watching.cancel)
            state.tell_findings()
            print_banner(
                options, state.gateway, state.found, routes=state.routes, lean=state.lean,
                admin_port=state.admin_port, blocked=state.why_blocked(), page=page,
            )  # fmt: skip
            return await runner.ended()
    finally:
        await echo.stop()
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(slots=True)
class _Runner:
    """The runner that is asked, wherever it runs."""

    address: str
    ended: Callable[[], Awaitable[int]]
    reload: Callable[[], Awaitable[None]]
    control: str = ""

    def says(self) -> list[str]:
        """Why a runner that isn't ours has refused a request: its last error, if it can be asked."""
        try:
            failed = ask_json(self.control, "/status")[1]["last_errors"][-1:] if self.control else []
        except GatewrightError as error:
            return [str(error)]
        shown = [f"{each['plugin']}: {each['event']}: {each.get('error', '')}" for each in failed]
        return [*shown, f"the log of the runner at {self.address} has more"]

    async def survey(self, options: DevOptions, routes: Path | None) -> Survey:
        """What plugins it has."""
        if options.paths or not self.control:
            return await survey(options.paths, options.confs, routes)
        _, status = await asyncio.to_thread(ask_json, self.control, "/status")
        plugins = [{**plugin, "needs": None} for plugin in status["plugins"]]
        return Survey(plugins, status["plugin_errors"])


@asynccontextmanager
async def _runner(
    options: DevOptions, directory: str, behaviour: Behaviour, inspection: Inspection
) -> AsyncIterator[_Runner]:
    listen = f"unix:{directory}/runner.sock"

    async def until_cancelled() -> int:
        await asyncio.Event().wait()
        return 0

    if options.connect:
        address = parse_address(options.connect, "--connect")
        if address.path:
            await until_listening(None, address.path, seconds=1.0)
        else:
            with listening(f"--connect {options.connect}", "--connect"):
                _, writer = await asyncio.open_connection(address.host, address.port)
                writer.close()
        control = await asyncio.to_thread(_control_of, address.path)

        async def not_ours() -> None:
            """Its reloads are somebody else's affair."""

        yield _Runner(options.connect, until_cancelled, not_ours, control)
    elif options.debug:
        settings = settings_for_debugging(
            listen, plugins=[str(path) for path in options.paths], apisix_version=behaviour.version,
            **({"record": inspection.environ["GATEWRIGHT_RECORD"]} if inspection.environ else {}),
        )  # fmt: skip
        made = plan(settings, lambda: discover(settings.plugins, installed=settings.installed_plugins))
        async with runner_here(made, listen.removeprefix("unix:"), [*options.paths, *options.watched]) as here:
            yield _Runner(listen, until_cancelled, _reload_of(here))
    else:
        async with runner_process(
            options.paths, listen, version=behaviour.version, environ=inspection.environ, log_level=options.log_level
        ) as process:

            async def ended() -> int:
                await process.wait()
                print(f"the runner ended with exit code {process.returncode}", file=sys.stderr)
                return 1

            async def reload() -> None:
                await reload_runner(listen.removeprefix("unix:"))

            yield _Runner(listen, ended, reload)


def _control_of(path: str) -> str:
    """The control socket beside a runner's; empty if there is none."""
    return f"{path}.control" if path and Path(f"{path}.control").exists() else ""


def _admin_api(options: DevOptions, found: Survey, routes: Path | None, target: Upstream) -> AdminApi:
    ours = {plugin["name"] for plugin in found.plugins}
    if routes is None:
        return AdminApi(options.admin_key, target, ours=ours)
    read_routes(found, routes, target)  # which says what is wrong with it
    return AdminApi(options.admin_key, target, yaml.safe_load(routes.read_text(encoding="utf-8")), ours=ours)


def _reload_of(here: RunnerHere) -> Callable[[], Awaitable[None]]:
    async def reload() -> None:
        here.reload()

    return reload


@dataclass(slots=True)
class _State:
    """What is found and routed now; takes the files as they are, or leaves all as it was."""

    options: DevOptions
    routes: Path | None
    upstream: Upstream
    runner: _Runner
    found: Survey
    admin: AdminApi | None
    lean: bool
    admin_port: int = 0
    gateway: DevGateway = field(init=False)
    told: set[str] = field(default_factory=set)
    changed: Callable[[], None] = lambda: None

    def table(self) -> Routes:
        """The routes; where somebody says where requests go, they go there whatever the routes say."""
        if self.admin is not None:
            said = self.admin.routes()
        elif self.routes is not None:
            said = read_routes(self.found, self.routes, self.upstream)
        else:
            return made_up_routes(self.found, self.options.confs, self.upstream, lean=self.lean)
        return said if self.options.upstream is None else said.to(self.upstream)

    def why_blocked(self) -> list[str]:
        """Why nothing may pass: where every plugin is to guard every path, and one of them isn't there."""
        if self.routes is not None or self.admin is not None:
            return []
        if self.found.errors:
            return [f"plugin not loaded: {error}" for error in self.found.errors]
        if self.found.kongs and not self.found.plugins:
            return [f"{', '.join(self.found.kongs)}: in kong-pdk's form, for Kong alone: gatewright dev --gateway kong"]
        if self.options.connect and not self.options.paths:
            named = self.options.confs or self.found.plugins
            how = "name some: --conf NAME='{...}', or --routes"
            return [] if named else [f"which plugins {self.options.connect} has can't be asked; {how}"]
        places = ", ".join(map(str, self.options.paths))
        return [] if self.found.plugins else [f"no plugins yet in {places}: save one, and it is loaded"]

    def hints(self, plugin: str) -> list[str]:
        """What was found out about a plugin that refuses requests, and how that's mended; for "", of no plugin."""
        if not plugin:
            return self.runner.says() if self.options.connect else []
        hints = self.found.hints(plugin)
        found = next((each for each in self.found.plugins if each["name"] == plugin), None)
        if hints or found is None or self.routes is not None or self.admin is not None or not found["needs"]:
            return hints
        return [f"-> give one: --conf {plugin}='{{...}}'; {found.get('model') or 'its model'} says what fits"]

    async def reload(self) -> str:
        """Reload; gives what to tell.

        Raises:
            GatewrightError: what is wrong with the files.
        """
        first = bool(self.why_blocked())
        try:
            await self.runner.reload()
        except GatewrightError:
            if not first:
                raise
        found = await self.runner.survey(self.options, self.routes)
        for error in found.errors:
            if error not in self.found.errors and not first:  # the file has changed again since the runner read it
                raise GatewrightError(error)
        self.found = found
        self.gateway.replace_routes(self.table())
        self.changed()
        self.tell_findings()
        if self.why_blocked():
            return "\n".join(self.why_blocked())
        return f"reloaded: {', '.join(plugin['name'] for plugin in found.plugins) or 'no plugins'}"

    def tell_findings(self) -> None:
        """Say what is wrong, each of it once."""
        for error in self.found.errors:
            if error not in self.told:
                print(f"plugin not loaded: {error}", file=sys.stderr, flush=True)
        for found in self.found.findings:
            if found["text"] not in self.told:
                cure = f"\n  -> {found['cure']}" if found["cure"] else ""
                print(f"{found['level']}: {found['text']}{cure}", file=sys.stderr, flush=True)
        self.told = {*self.found.errors, *(found["text"] for found in self.found.findings)}
