"""`gatewright check`: whether plugins load and can do what they are there for, before a gateway depends on them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import click

from gatewright.cli._failing import fail
from gatewright.cli._found import find, places_or_settings
from gatewright.cli._output import print_table, say
from gatewright.doctor.code import check_code, check_handlers, place_of, what_fits
from gatewright.doctor.findings import Finding, good, note, problem
from gatewright.doctor.routes import check_routes
from gatewright.errors import ConfigError, GatewrightError
from gatewright.field_docs import described_schema
from gatewright.plugin import KONG_PHASES, Plugin
from gatewright.runtime.discovery import Discovery, Found
from gatewright.runtime.fitting import check_config
from gatewright.runtime.kong_schema import faults
from gatewright.runtime.shipped import load_shipped, shipped_names

__all__ = ["check"]

_MEANT = frozenset(
    f"{prefix}{what}"
    for prefix in ("", "on", "handle", "handle_")
    for what in ("request", "response", "filter", "call")
)
"""What handlers are called elsewhere."""


@click.command()
@click.argument("paths", nargs=-1)
@click.option("--installed", is_flag=True, help="also look at plugins that installed packages announce")
@click.option(
    "--conf", "confs", multiple=True, metavar="NAME=JSON", help="try a configuration on a plugin (repeatable)"
)
@click.option("--routes", type=click.Path(path_type=Path), help="also look at a route file (apisix.yaml)")
@click.option("--strict", is_flag=True, help="warnings count as problems")
@click.option("--json", "as_json", is_flag=True, help="print JSON, with each configuration's schema")
def check(
    paths: tuple[str, ...], installed: bool, confs: tuple[str, ...], routes: Path | None, strict: bool, as_json: bool
) -> None:
    """Load the plugins in PATHS (directories, files or modules), look at their code, and list them.

    Without PATHS, those of gatewright.yaml. Looked at: whether files load, names that clash, handlers' names and
    parameters, configuration models, calls that block in an `async def`. Plugins in kong-pdk's form are looked at, too.

    Exit codes: 0 all is well, 1 there are problems or no plugins, 2 it can't be looked at.
    """
    try:
        places = places_or_settings(paths)
    except GatewrightError as error:
        fail(error)
    if not places and not installed:
        fail("name the directories, files or modules to look at (or say `plugins:` in gatewright.yaml)")
    discovery = find(places, installed=installed)
    errors = [str(error) for error in discovery.errors]
    schemas: dict[str, Any] = {}
    for name, found in discovery.found.items():
        errors += _errors_of(name, found, schemas)
    findings = list(_findings(discovery))
    tried = _tried(confs, discovery, findings)
    if routes is not None:
        others = {name: partial(load_shipped, name) for name in shipped_names()}
        findings += check_routes(routes, discovery.plugins, others, needs_end=False)
    failed = bool(errors) or any(each.level == "problem" or (strict and each.level == "warning") for each in findings)
    if as_json:
        plugins = [
            _entry(name, found, schemas.get(name), tried.get(name, "{}"))
            for name, found in sorted(discovery.found.items())
        ]
        told = [asdict(finding) for finding in findings]
        click.echo(json.dumps({"plugins": plugins, "errors": errors, "findings": told}, indent=2, default=str))
    else:
        _print(discovery, errors, findings)
    sys.exit(1 if failed or not discovery.found else 0)


def _errors_of(name: str, found: Found, schemas: dict[str, Any]) -> Iterator[str]:
    own = getattr(found.plugin, "kong_schema", None)
    try:
        schemas[name] = described_schema(found.plugin.Config) if own is None else list(own)
    except (ConfigError, TypeError) as error:
        yield f"{found.source}: {name}: its Config can't be used: {error}"
    if own is not None:
        yield from (f"{found.source}: {name}: Schema: {fault}" for fault in faults(own))
    if not found.plugin.phases() and not found.plugin.kong_phases():
        place = place_of(found.plugin) or found.source
        if own is not None:
            known = ", ".join(KONG_PHASES)
            yield f"{place}: {name}: no handler for any phase of Kong's: {known}{_misspelt_phase(found)}"
            return
        alike = [each for each in vars(found.plugin) if each.lower().lstrip("_") in _MEANT]
        meant = f" ({alike[0]} is none)" if alike else ""
        yield f"{place}: {name}: no handler; define on_request or on_response{meant}"


def _misspelt_phase(found: Found) -> str:
    names = [name for name in vars(getattr(found.plugin, "wrapped", object)) if not name.startswith("_")]
    meant = {name: get_close_matches(name, KONG_PHASES, 1) for name in names}
    return "".join(f"; {name} is none, did you mean {near[0]}?" for name, near in meant.items() if near)


def _findings(discovery: Discovery) -> Iterator[Finding]:
    files: dict[Path, None] = {}
    for name, found in sorted(discovery.found.items()):
        yield from check_handlers(found.plugin, found.source)
        if name in shipped_names():
            yield note(f"{found.source}: {name} is used in place of the plugin of this name that comes along")
        module = sys.modules.get(found.plugin.__module__)
        file = found.source if Path(found.source).is_file() else getattr(module, "__file__", None) or ""
        if Path(file).is_file():
            files[Path(file)] = None
    for path in files:
        yield from check_code(path)


def _tried(confs: tuple[str, ...], discovery: Discovery, findings: list[Finding]) -> dict[str, str]:
    """The configurations that were given, by plugin; whether they fit is among the findings."""
    tried: dict[str, str] = {}
    for each in confs:
        name, _, text = each.partition("=")
        tried[name] = text
        try:
            plugin = discovery.plugins[name] if name in discovery.plugins else load_shipped(name)
        except GatewrightError:
            known = ", ".join(sorted({*discovery.plugins, *shipped_names()}))
            close = get_close_matches(name, sorted({*discovery.plugins, *shipped_names()}), 1)
            cure = f"did you mean {close[0]}?" if close else f"there are: {known}"
            findings.append(problem(f"--conf {name}: there is no such plugin", cure, name))
            continue
        why = _needs(plugin, text)
        if why is None:
            findings.append(good(f"--conf {name}: it fits"))
        else:
            findings.append(problem(f"--conf {name}: it doesn't fit: {why}", what_fits(plugin), name))
    return tried


def _entry(name: str, found: Found, schema: Any, conf: str) -> dict[str, Any]:
    return {
        "name": name,
        "phases": found.plugin.phases(),
        "form": "kong" if hasattr(found.plugin, "kong_schema") else "native",
        "source": found.source,
        "version": found.version,
        "config": schema,
        "conf": conf,
        "needs": _needs(found.plugin, conf),
        "model": place_of(found.plugin.Config),
        "optional_phases": found.plugin.optional_phases,
    }


def _print(discovery: Discovery, errors: list[str], findings: list[Finding]) -> None:
    if discovery.found:
        print_table(
            ["plugin", "phases", "source"],
            [
                [name, ", ".join(found.plugin.phases()) or "-", found.source]
                for name, found in sorted(discovery.found.items())
            ],
        )
    for message in errors:
        click.echo(f"error: {message}", err=True)
    for finding in findings:
        say(f"{finding.level}: {finding.text}", finding.level)
        if finding.cure:
            say(f"  -> {finding.cure}")
    if not discovery.found and not errors:
        click.echo("no plugins found", err=True)


def _needs(plugin: type[Plugin], conf: str) -> str | None:
    """Why a configuration won't do; `None` if it does."""
    try:
        check_config(plugin, conf)
    except ConfigError as error:
        return str(error)
    return None
