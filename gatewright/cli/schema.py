"""`gatewright schema`: what a plugin's configuration may hold, for a gateway, an editor or a form."""

from __future__ import annotations

import json
from typing import Any

import click
import yaml

from gatewright.cli._failing import fail
from gatewright.cli._found import plugin_named
from gatewright.cli._names import PluginName
from gatewright.errors import GatewrightError
from gatewright.field_docs import described_schema
from gatewright.gateways.kong.dump import plugin_info
from gatewright.plugin import Plugin
from gatewright.runtime.kong_schema import example

__all__ = ["schema"]

_PHASES = {"on_request": "ext-plugin-pre-req", "on_response": "ext-plugin-post-resp"}


@click.command()
@click.argument("plugin", type=PluginName())
@click.option("--plugins", "-p", "places", multiple=True, metavar="PATH", help="where to look for it (repeatable)")
@click.option(
    "--as", "form", type=click.Choice(["json-schema", "kong", "route"]), default="json-schema", show_default=True,
    help="json-schema: of the configuration; kong: as Kong is told; route: a piece of an APISIX route to start from",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="print JSON: a route, too, and why there is none")
def schema(plugin: str, places: tuple[str, ...], form: str, as_json: bool) -> None:
    """Print what the configuration of PLUGIN may hold; PLUGIN is a name, or a file that holds one.

    Exit codes: 0 it's printed, 2 it isn't.
    """
    try:
        found = plugin_named(plugin, places).plugin
        text = _text(found, form, as_json=as_json)
    except GatewrightError as error:
        fail(error)
    click.echo(text)


def _text(plugin: type[Plugin], form: str, *, as_json: bool) -> str:
    if form == "kong":
        return json.dumps(plugin_info(plugin)["Schema"], indent=2, ensure_ascii=False)
    if form == "route":
        routes = _routes(plugin)
        if as_json:
            return json.dumps(routes, indent=2, ensure_ascii=False)
        return yaml.safe_dump(routes, sort_keys=False, allow_unicode=True) + "#END"
    own: Any = getattr(plugin, "kong_schema", None)
    if own is not None:
        raise GatewrightError(f"{plugin.name} says its schema in Kong's form: --as kong")
    described = described_schema(plugin.Config)
    return json.dumps({"title": plugin.name, **described}, indent=2, ensure_ascii=False)


def _routes(plugin: type[Plugin]) -> dict[str, Any]:
    """A route that uses the plugin, with the fields that have to be there."""
    phases = [_PHASES[phase] for phase in plugin.phases() if phase in _PHASES]
    if not phases:
        raise GatewrightError(f"{plugin.name} has no handler that APISIX calls")
    fields = plugin_info(plugin)["Schema"]["fields"][0]["config"]["fields"]
    value = json.dumps(example(fields), ensure_ascii=False)
    plugins = {phase: {"conf": [{"name": plugin.name, "value": value}]} for phase in phases}
    route = {
        "uri": "/*",
        "plugins": plugins,
        "upstream": {"type": "roundrobin", "nodes": {"127.0.0.1:8000": 1}},
    }
    return {"routes": [route]}
