"""`gatewright dev` as Kong: plugin servers, the gateway before them and an upstream behind, in one command."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from gatewright.dev.echo import ECHO, EchoUpstream
from gatewright.dev.explaining import explaining
from gatewright.dev.front import Front, listening
from gatewright.dev.here import leave_at_once
from gatewright.dev.inspector.session import inspecting
from gatewright.dev.kong.admin import KongAdmin
from gatewright.dev.kong.answering import NAME
from gatewright.dev.kong.banner import print_banner
from gatewright.dev.kong.configuring import shipped_in
from gatewright.dev.kong.declarative import load_content
from gatewright.dev.kong.gateway import KongGateway
from gatewright.dev.kong.lean import LeanPlugins
from gatewright.dev.kong.lean_runner import LeanRunner, LeanServers
from gatewright.dev.kong.server_here import server_here
from gatewright.dev.kong.servers import ConfiguredServers, OwnServers, PluginServers
from gatewright.dev.kong.serving import Serving
from gatewright.dev.messages import Answer
from gatewright.dev.options import DevOptions
from gatewright.dev.processes import end, until_listening, until_stopped
from gatewright.dev.reload import watch
from gatewright.dev.target import upstream_of

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
        protocol: a key of `PROTOCOLS`, for plugin servers of our own; `lean`, without a file: the lean path.

    Returns:
        The exit code: 0 after a stop that was asked for, 1 if a plugin server ended by itself.

    Raises:
        GatewrightError: it could not be started; the message says why and what to do.
    """
    return await until_stopped(_run(options, declarative, conf, protocol), log_level=options.log_level)


async def _run(options: DevOptions, declarative: Path | None, conf: Path | None, protocol: str) -> int:
    host = options.host
    async with AsyncExitStack() as stack:
        prefix = tempfile.mkdtemp(prefix="gatewright-")
        if options.debug:
            leave_at_once(prefix)
        stack.callback(shutil.rmtree, prefix, ignore_errors=True)
        echo = EchoUpstream()
        await echo.start()
        stack.push_async_callback(echo.stop)
        inspection = await stack.enter_async_context(
            inspecting(options.inspect, prefix, {"name": "kong", "version": ""}, server_header=NAME, charset=False)
        )
        lean = LeanRunner(options, prefix, inspection.environ, stack)
        is_lean = protocol == "lean"
        shipped = shipped_in(declarative) if conf is None else []
        servers: PluginServers
        if conf is not None:
            servers = ConfiguredServers(conf, inspection.environ)
        elif is_lean:
            servers = LeanServers(lean)
        elif options.debug:
            servers = await stack.enter_async_context(
                server_here(options, prefix, protocol, shipped, inspection.environ)
            )
        else:
            servers = OwnServers(options.paths, prefix, protocol, shipped, inspection.environ, options.log_level)
        serving = Serving(options, servers, lean, declarative, is_lean)
        await serving.begin()
        processes = [await start() for start in servers.starts]
        for process in processes:
            stack.push_async_callback(end, process)
        for plugin in serving.known:
            await until_listening(processes[0] if processes else None, plugin.socket)
        await serving.look_at_code()
        gateway = serving.gateway = KongGateway(
            serving.declared, serving.plugins, default_upstream=_upstream(options, declarative, echo),
            watch=lambda handler: explaining(
                inspection.watch(handler), inspection.inspector, serving.why_blocked, serving.hints, inspection.url_of,
            ),
            lean=LeanPlugins(lambda: lean.client),
        )  # fmt: skip
        with listening(f"{host}:{options.port}", "--port"):
            await gateway.start(host, options.port)
        stack.push_async_callback(gateway.stop)
        page = await inspection.show(serving.facts())
        serving.changed = inspection.changed
        admin_port = await _admin(serving, stack) if options.admin else 0
        watching = asyncio.create_task(
            watch([*servers.watched, *([declarative] if declarative else [])], serving.reload, whole=options.watched)
        )
        stack.callback(watching.cancel)
        print_banner(serving, protocol if conf is None else "", page, admin_port)
        await asyncio.wait(
            [asyncio.create_task(process.wait()) for process in processes] + [asyncio.create_task(lean.ended())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        print("a plugin server ended; its log above says why", file=sys.stderr)
        return 1


def _upstream(options: DevOptions, declarative: Path | None, echo: EchoUpstream) -> tuple[str, int] | None:
    """What stands in for every service; `None`: they are where they say."""
    if options.upstream and options.upstream != ECHO:
        parsed = upstream_of(options.upstream)
        return parsed.host, parsed.port
    if declarative is not None and options.upstream is None:
        return None
    return "127.0.0.1", echo.port


async def _admin(serving: Serving, stack: AsyncExitStack) -> int:
    """Serve the Admin API; gives its port."""
    options, file = serving.options, serving.file
    content = load_content(file) if file is not None else {}
    admin = Front(
        KongAdmin(content, serving.apply).handle, server_header=NAME, charset=False,
        refusal=lambda status: Answer(status, page=True),
    )  # fmt: skip
    with listening(f"{options.host}:{options.admin_port}", "--admin-port"):
        await admin.start_near(options.host, _ADMIN_PORT, options.admin_port)
    stack.push_async_callback(admin.stop)
    return admin.port
