"""`gatewright plugins`: the plugins that come along, and what their configurations mean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from gatewright.cli._failing import fail
from gatewright.cli._found import find, places_or_settings, plugin_named
from gatewright.cli._names import PluginName
from gatewright.cli._output import print_table
from gatewright.errors import GatewrightError
from gatewright.field_docs import described_schema
from gatewright.plugin import Plugin
from gatewright.runtime.shipped import load_shipped, shipped_names

__all__ = ["plugins"]


@click.command()
@click.argument("name", required=False, type=PluginName())
@click.option("--markdown", is_flag=True, help="print a table in Markdown")
@click.option("--plugins", "-p", "places", multiple=True, metavar="PATH", help="where to look for others (repeatable)")
@click.option("--json", "as_json", is_flag=True, help="print JSON: the list, or the configuration's JSON Schema")
def plugins(name: str | None, markdown: bool, places: tuple[str, ...], as_json: bool) -> None:
    """List the plugins that there are and where they are from, or tell what the configuration of NAME means.

    There are those of gatewright.yaml (or of --plugins), those that installed packages announce, and those that come
    along.

    Any route may name the last ones: they need no --plugins. On Kong, name those that it is to know with --plugin
    (`gatewright kong conf`).
    """
    if name is None:
        _list(places, as_json=as_json)
        return
    try:
        plugin = plugin_named(name, places).plugin
    except GatewrightError as error:
        fail(error)
    schema = described_schema(plugin.Config)
    if as_json:
        click.echo(json.dumps(schema, indent=2))
    elif markdown:
        click.echo("\n".join(_table(schema)))
    else:
        fields = [
            f"  {place}  ({kind}; {f'default {default}' if default else 'required'})"
            + (f"\n      {meaning}" if meaning else "")
            for place, kind, default, meaning in _fields(schema)
        ]
        click.echo("\n\n".join([_summary(plugin) or plugin.name, *fields]))


def _list(places: tuple[str, ...], *, as_json: bool) -> None:
    try:
        discovery = find(places_or_settings(places), installed=True)
    except GatewrightError as error:
        fail(error)
    shipped = [name for name in sorted(shipped_names()) if name not in discovery.found]
    if as_json:
        listed = [
            {"name": name, "phases": found.plugin.phases(), "version": found.version, "source": found.source}
            for name, found in sorted(discovery.found.items())
        ]
        told = {"plugins": listed, "shipped": shipped, "errors": [str(error) for error in discovery.errors]}
        click.echo(json.dumps(told, indent=2))
        return
    if discovery.found:
        rows = [
            [name, ", ".join(found.plugin.phases()) or "-", found.version or "-", found.source]
            for name, found in sorted(discovery.found.items())
        ]
        print_table(["plugin", "phases", "version", "source"], rows)
        click.echo("\nand these come along:\n")
    for fault in discovery.errors:
        click.echo(f"not loaded: {fault}", err=True)
    for each in shipped:
        click.echo(_line(each))


def _line(name: str) -> str:
    try:
        return f"{name:<20} {_summary(load_shipped(name))}"
    except GatewrightError as error:
        return f"{name:<20} can't be used: {error}"


def _summary(plugin: type[Plugin]) -> str:
    return (plugin.__doc__ or "").strip().partition("\n")[0]


def _table(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "| Field | | Default | Meaning |"
    yield "|---|---|---|---|"
    for place, kind, default, meaning in _fields(schema):
        yield f"| `{place}` | {kind} | {f'`{default}`' if default else 'required'} | {_cell(meaning)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _fields(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Each field's place, kind, default (empty: required) and meaning; those of parts below them."""
    definitions = schema.get("$defs", {})
    yield from _fields_of(_resolved(schema, definitions), definitions, "", ())


def _fields_of(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], before: str, above: tuple[str, ...]
) -> Iterator[tuple[str, str, str, str]]:
    required = schema.get("required", ())
    for name, item in schema.get("properties", {}).items():
        place = f"{before}{name}"
        default = "" if name in required else json.dumps(item.get("default"), ensure_ascii=False)
        yield place, _kind(item, definitions), default, item.get("description", "")
        for part, suffix in _parts(item, definitions):
            title = str(part.get("title", ""))
            if title not in above:
                yield from _fields_of(part, definitions, f"{place}{suffix}.", (*above, title))


def _parts(item: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    for each in _alternatives(item, definitions):
        if "properties" in each:
            yield each, ""
        elif isinstance(each.get("items"), Mapping):
            yield from ((part, f"[]{suffix}") for part, suffix in _parts(each["items"], definitions))
        elif isinstance(each.get("additionalProperties"), Mapping):
            yield from ((part, f".*{suffix}") for part, suffix in _parts(each["additionalProperties"], definitions))


def _alternatives(item: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    item = _resolved(item, definitions)
    for word in ("anyOf", "oneOf"):
        if word in item:
            return [found for each in item[word] for found in _alternatives(each, definitions)]
    return [item]


def _kind(item: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    kinds = [_one_kind(each, definitions) for each in _alternatives(item, definitions)]
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null" or len(kinds) == 1))


def _one_kind(item: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "enum" in item:
        return ", ".join(f"`{json.dumps(value)}`" for value in item["enum"])
    if item.get("format") == "password":
        return "secret"
    kind = str(item.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(item['items'], definitions)}" if isinstance(item.get("items"), Mapping) else "list"
    limits = [f"{sign} {item[word]}" for word, sign in _LIMITS.items() if word in item]
    return f"{kind} {', '.join(limits)}".strip()


_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        found = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**found, **{word: value for word, value in schema.items() if word == "default"}}
    return schema
