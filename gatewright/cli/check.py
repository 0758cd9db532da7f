"""`gatewright check`: whether plugins load, before a gateway depends on them."""

from __future__ import annotations

import json
import sys

import click

from gatewright.config import config_schema, parse_config
from gatewright.errors import ConfigError
from gatewright.plugin import Plugin
from gatewright.runtime.discovery import discover

__all__ = ["check"]


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--installed", is_flag=True, help="also look at plugins that installed packages announce")
@click.option("--json", "as_json", is_flag=True, help="print JSON, with each configuration's schema")
def check(paths: tuple[str, ...], installed: bool, as_json: bool) -> None:
    """Load the plugins in PATHS (directories, files or modules) and list them. Exits with 1 if any can't be loaded."""
    discovery = discover(paths, installed=installed)
    errors = [str(error) for error in discovery.errors]
    schemas = {}
    for name, found in discovery.found.items():
        try:
            schemas[name] = config_schema(found.plugin.Config)
        except (ConfigError, TypeError) as error:
            errors.append(f"{found.source}: {name}: its Config can't be used: {error}")
        if not found.plugin.phases():
            errors.append(f"{found.source}: {name}: no handler; define on_request or on_response")
    if as_json:
        plugins = [
            {
                "name": name,
                "phases": found.plugin.phases(),
                "source": found.source,
                "version": found.version,
                "config": schemas.get(name),
                "needs": _needs(found.plugin),
            }
            for name, found in sorted(discovery.found.items())
        ]
        click.echo(json.dumps({"plugins": plugins, "errors": errors}, indent=2))
    else:
        width = max((len(name) for name in discovery.found), default=0)
        for name, found in sorted(discovery.found.items()):
            click.echo(f"{name:<{width}}  {', '.join(found.plugin.phases()) or '-':<23}  {found.source}")
        for message in errors:
            click.echo(f"error: {message}", err=True)
        if not discovery.found and not errors:
            click.echo("no plugins found", err=True)
    sys.exit(1 if errors or not discovery.found else 0)


def _needs(plugin: type[Plugin]) -> str | None:
    """Why an empty configuration won't do; `None` if it does."""
    try:
        parse_config(plugin.Config, "{}")
    except ConfigError as error:
        return str(error)
    return None
