"""`gatewright config`: what the settings are, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from gatewright.cli._options import effective_settings, settings_options
from gatewright.cli._output import print_table
from gatewright.settings import describe_settings

__all__ = ["config"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@settings_options
def config(config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Show the effective settings and where each comes from.

    Flags win over the environment (GATEWRIGHT_NAME, APISIX_LISTEN_ADDRESS, APISIX_CONF_EXPIRE_TIME), the environment
    over the file, the file over the defaults.
    """
    rows = describe_settings(effective_settings(config_file, flags))
    if as_json:
        click.echo(json.dumps({name: {"value": value, "from": origin} for name, value, origin, _ in rows}, indent=2))
        return
    print_table(
        ["setting", "value", "from", "meaning"],
        [(name, _show(value), origin, text) for name, value, origin, text in rows],
    )


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return ":".join(value) or "-"
    if isinstance(value, dict):
        return json.dumps(value) if value else "-"
    return str(value) if value != "" else "-"
