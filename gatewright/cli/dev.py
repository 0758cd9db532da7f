"""`gatewright dev`: runner, gateway and upstream in one command."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from gatewright.cli._options import fail
from gatewright.errors import GatewrightError
from gatewright.gateways.kong.dump import PROTOCOLS

__all__ = ["dev"]


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--upstream", metavar="URL",
    help="where requests go; without it, where the routes say, or else to a built-in upstream that echoes them",
)  # fmt: skip
@click.option(
    "--routes", type=click.Path(path_type=Path),
    help="routes in APISIX's standalone format (apisix.yaml), or in Kong's declarative format (kong.yml)",
)  # fmt: skip
@click.option(
    "--gateway", type=click.Choice(["auto", "apisix", "kong"]), default="auto", show_default=True,
    help="whom to behave as; auto: Kong with routes in Kong's format or with --kong-conf, otherwise APISIX",
)  # fmt: skip
@click.option(
    "--apisix", "version", type=click.Choice(["3.9", "3.10", "3.16", "3.18"]), default="3.9", show_default=True,
    help="which APISIX to behave as: 3.10 reads 100 headers at most, 3.16 keeps the query, 3.18 reads HTTP/2 bodies",
)  # fmt: skip
@click.option(
    "--protocol", type=click.Choice(sorted(PROTOCOLS)), default="msgpack", show_default=True,
    help="what Kong and the plugin server speak",
)  # fmt: skip
@click.option(
    "--kong-conf", type=click.Path(path_type=Path),
    help="start the plugin servers of this kong.conf (pluginserver_*), instead of one for PATHS",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", type=click.IntRange(0, 65535), default=9080, show_default=True,
              help="port to listen on; 0 for any free one")  # fmt: skip
@click.option("--inspect-port", type=click.IntRange(0, 65535),
              help="port of the inspector's page  [default: 9081, or any that is free]")  # fmt: skip
@click.option("--no-inspect", is_flag=True, help="no inspector: nothing is kept of requests")
@click.option(
    "--record", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="write what becomes of each request to a file, for `gatewright inspect FILE`; secrets are blacked out",
)  # fmt: skip
def dev(
    paths: tuple[Path, ...],
    upstream: str | None,
    routes: Path | None,
    gateway: str,
    version: str,
    protocol: str,
    kong_conf: Path | None,
    host: str,
    port: int,
    inspect_port: int | None,
    no_inspect: bool,
    record: Path | None,
) -> None:
    """Run the plugins in PATHS behind a development gateway that behaves as APISIX or as Kong does.

    Without --routes every plugin found is applied to every path. This gateway is for development only.
    """
    try:
        from gatewright.dev.apisix.process import run_dev
        from gatewright.dev.inspector.session import InspectOptions
        from gatewright.dev.kong.process import is_declarative, run_kong_dev
    except ImportError as error:
        fail(f"the development gateway needs {error.name}: pip install 'gatewright[dev-gateway]'")
    places = list(paths) or [Path()]
    inspect = InspectOptions(page=not no_inspect, port=inspect_port, record=record)
    try:
        if gateway == "kong" or (gateway == "auto" and (kong_conf is not None or is_declarative(routes))):
            code = asyncio.run(
                run_kong_dev(
                    places, upstream=upstream, declarative=routes, conf=kong_conf, protocol=protocol,
                    host=host, port=port, inspect=inspect,
                )
            )  # fmt: skip
        else:
            code = asyncio.run(
                run_dev(
                    places, upstream=upstream, routes=routes, host=host, port=port, version=version, inspect=inspect,
                )
            )  # fmt: skip
    except GatewrightError as error:
        fail(error)
    sys.exit(code)
