"""`gatewright inspect`: a file of records, shown on the inspector's page."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from gatewright.cli._failing import fail
from gatewright.errors import GatewrightError

__all__ = ["inspect"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--port", type=click.IntRange(0, 65535), help="port of the page  [default: 9081, or any that is free]")
@click.option("--json", "as_json", is_flag=True, help="print JSON when it listens: one line")
def inspect(file: Path, port: int | None, as_json: bool) -> None:
    """Show the requests in FILE, which `gatewright dev --record FILE` has written, on a page.

    Exit codes: 0 it was stopped, 2 there is nothing to show.
    """
    try:
        from gatewright.dev.inspector.looking import look_at
    except ImportError as error:
        fail(f"the inspector needs {error.name}: pip install 'gatewright[dev-gateway]'")
    try:
        asyncio.run(look_at(file, port, as_json=as_json))
    except GatewrightError as error:
        fail(error)
    except KeyboardInterrupt:
        pass
