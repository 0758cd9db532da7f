"""`gatewright dev` as Kong: plugin servers, the gateway before them and an upstream behind, in one command."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from gatewright.dev.echo import EchoUpstream
from gatewright.dev.explaining import explaining
from gatewright.dev.front import Front, listening
from gatewright.dev.here import leave_at_once
from gatewright.dev.inspector.facts import Facts
from gatewright.dev.inspector.session import inspecting
from gatewright.dev.kong.admin import KongAdmin
from gatewright.dev.kong.answering import NAME
from gatewright.dev.kong.banner import ECHO, print_banner
from gatewright.dev.kong.configuring import configuration, shipped_in
from gatewright.dev.kong.declarative import Declared, load_content
from gatewright.dev.kong.facts import facts_of
from gatewright.dev.kong.findings import Findings
from gatewright.dev.kong.gateway import KongGateway
from gatewright.dev.kong.plugins import KnownPlugin, Plugins
from gatewright.dev.kong.server_here import server_here
from gatewright.dev.kong.servers import ConfiguredServers, OwnServers, PluginServers
from gatewright.dev.kong.survey import sources_of
from gatewright.dev.messages import Answer
from gatewright.dev.options import DevOptions
from gatewright.dev.processes import end, until_listening, until_stopped
from gatewright.dev.reload import watch
from gatewright.dev.target import upstream_of
from gatewright.errors import GatewrightError

__all__ = ["run_kong_dev"]

_ADMIN_PORT = 8001


async def run_kong_dev(
    options: DevOptions,
    *,
    declarative: Path | None = None,
    conf: Path | None = None,
    protocol: str = "msgpack",
) -> int:
    """Run plugins behind a gateway that acts as Kong, until SIGINT or SIGTERM.

    Args:
        options: what is wanted: a plugin server for each of its paths; its upstream, or `echo` for the built-in one,
            stands in for every service's.
        declarative: a `kong.yml`; without it every plugin is applied to every path.
        conf: a `kong.conf` whose plugin servers are started, instead of any for `paths`.
        protocol: a key of `PROTOCOLS`, for plugin servers of our own.

    Returns:
        The exit code: 0 after a stop that was asked for, 1 if a plugin server ended by itself.

    Raises:
        GatewrightError: it could not be started; the message says why and what to do.
    """
    return await until_stopped(_run(options, declarative, conf, protocol), log_level=options.log_level)


async def _run(options: DevOptions, declarative: Path | None, conf: Path | None, protocol: str) -> int:
    upstream, host, port = options.upstream, options.host, options.port
    async with AsyncExitStack() as stack:
        prefix = tempfile.mkdtemp(prefix="gatewright-")
        if options.debug:
            leave_at_once(prefix)
        stack.callback(shutil.rmtree, prefix, ignore_errors=True)
        echo = EchoUpstream()
        await echo.start()
        stack.push_async_callback(echo.stop)
        shipped = shipped_in(declarative) if conf is None else []
        inspection = await stack.enter_async_context(
            inspecting(options.inspect, prefix, {"name": "kong", "version": ""}, server_header=NAME, charset=False)
        )
        environ = inspection.environ
        servers: PluginServers
        if conf is not None:
            servers = ConfiguredServers(conf, environ)
        elif options.debug:
            servers = await stack.enter_async_context(server_here(options, prefix, protocol, shipped, environ))
        else:
            servers = OwnServers(options.paths, prefix, protocol, shipped, environ, options.log_level)
        known = await servers.known()
        target: tuple[str, int] | None = ("127.0.0.1", echo.port)
        if upstream and upstream != ECHO:
            parsed = upstream_of(upstream)
            target = parsed.host, parsed.port
        elif declarative is not None and upstream is None:
            target = None  # where the services say
        current: Sequence[KnownPlugin] = known
        if options.admin and declarative is None:
            declared, plugins = Declared(), Plugins(known, Declared())
        else:
            declared, plugins = configuration(declarative, known, options.confs)
        processes = [await start() for start in servers.starts]
        for process in processes:
            stack.push_async_callback(end, process)
        for plugin in known:
            await until_listening(processes[0] if processes else None, plugin.socket)

        blocked = [] if declarative is not None or options.admin else list(servers.errors)

        def why_blocked() -> list[str]:
            return blocked

        findings = Findings()
        await findings.look(servers.places)
        gateway = KongGateway(
            declared, plugins, default_upstream=target,
            watch=lambda handler: explaining(
                inspection.watch(handler), inspection.inspector, why_blocked, findings.hints, inspection.url_of,
            ),
        )  # fmt: skip
        with listening(f"{host}:{port}", "--port"):
            await gateway.start(host, port)
        stack.push_async_callback(gateway.stop)

        def facts(known: Sequence[KnownPlugin]) -> Facts:
            return facts_of(known, gateway.declared, sources, host, gateway.port)

        sources = await sources_of(servers.places) if inspection.options.page else {}
        page = await inspection.show(facts(known))

        admin_port = 0
        if options.admin:
            content = load_content(declarative) if declarative is not None else {}

            def apply(new: Declared) -> None:
                nonlocal declared
                gateway.replace(new, Plugins(list(current), new))
                declared = new

            current = known
            admin = Front(
                KongAdmin(content, apply).handle, server_header=NAME, charset=False,
                refusal=lambda status: Answer(status, page=True),
            )  # fmt: skip
            with listening(f"{host}:{options.admin_port}", "--admin-port"):
                await admin.start_near(host, _ADMIN_PORT, options.admin_port)
            stack.push_async_callback(admin.stop)
            admin_port = admin.port

        async def reload() -> str:
            nonlocal current
            nonlocal blocked  # until the gateway has the plugins
            if blocked:
                await servers.known()
                if servers.errors:
                    blocked = list(servers.errors)
                    return "\n".join(blocked)
            await servers.reload()
            known = await servers.known()
            if declarative is None and servers.errors:
                raise GatewrightError(servers.errors[0])
            current = known
            if options.admin:
                gateway.replace(declared, Plugins(known, declared))
            else:
                gateway.replace(*configuration(declarative, known, options.confs))
            blocked = []
            await findings.look(servers.places)
            if inspection.options.page:
                sources.update(await sources_of(servers.places))
                inspection.changed(facts(known))
            return f"reloaded: {', '.join(plugin.name for plugin in known)}"

        watching = asyncio.create_task(
            watch([*servers.watched, *([declarative] if declarative else [])], reload, whole=options.watched)
        )
        stack.callback(watching.cancel)
        print_banner(known, plugins, gateway, host, declarative, upstream, protocol if conf is None else "", page)
        if admin_port:
            print(
                f"  admin     http://{host}:{admin_port}/  (services, routes, plugins, consumers, config)\n", flush=True
            )
        for line in why_blocked():
            print(line, file=sys.stderr, flush=True)
        if not processes:  # they are here, or
            await asyncio.Event().wait()  # somebody else looks after the plugin servers
        await asyncio.wait([asyncio.create_task(p.wait()) for p in processes], return_when=asyncio.FIRST_COMPLETED)
        print("a plugin server ended; its log above says why", file=sys.stderr)
        return 1
