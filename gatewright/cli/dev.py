"""`gatewright dev`: runner, gateway and upstream in one command."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from gatewright.cli._options import fail
from gatewright.errors import GatewrightError

__all__ = ["dev"]


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--upstream", metavar="URL", help="where requests go; without it a built-in upstream echoes them")
@click.option("--routes", type=click.Path(path_type=Path), help="routes in APISIX's standalone format (apisix.yaml)")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=9080, show_default=True, help="port to listen on; 0 for any free one")
def dev(paths: tuple[Path, ...], upstream: str | None, routes: Path | None, host: str, port: int) -> None:
    """Run the plugins in PATHS behind a development gateway that behaves as APISIX does.

    Without --routes every plugin found is applied to every path. This gateway is for development only.
    """
    try:
        from gatewright.dev.process import run_dev
    except ImportError as error:
        fail(f"the development gateway needs {error.name}: pip install 'gatewright[dev-gateway]'")
    try:
        code = asyncio.run(run_dev(list(paths) or [Path()], upstream=upstream, routes=routes, host=host, port=port))
    except GatewrightError as error:
        fail(error)
    sys.exit(code)
