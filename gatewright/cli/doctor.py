"""`gatewright doctor`: why the gateway answers 503."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import click

from gatewright.cli._output import say
from gatewright.doctor.apisix import (
    check_apisix_config,
    check_timeouts,
    check_version,
    installed_version,
    places_of_plugins,
    starts_runner,
)
from gatewright.doctor.findings import Finding, note, problem
from gatewright.doctor.kong import check_kong
from gatewright.doctor.lean import check_lean_on_apisix
from gatewright.doctor.plugins import check_environment, check_plugin_settings, check_plugins
from gatewright.doctor.routes import check_routes
from gatewright.doctor.sockets import check_control, check_socket
from gatewright.errors import GatewrightError
from gatewright.gateways.kong.dump import own_stdout
from gatewright.runtime.discovery import discover
from gatewright.runtime.shipped import PREFIX, load_shipped, shipped_names
from gatewright.settings import Address, Settings, control_address, load_settings, parse_address

__all__ = ["doctor"]

_MARKS = {"good": "ok      ", "note": "note    ", "warning": "warning ", "problem": "PROBLEM "}


@click.command()
@click.option("--listen", default=None, help="where the runner should listen")
@click.option("--plugins", "-p", multiple=True, metavar="PATH", help="where its plugins are (repeatable)")
@click.option("--config", "-c", "config_file", type=click.Path(path_type=Path), help="its YAML file of settings")
@click.option("--apisix-config", type=click.Path(path_type=Path), help="APISIX's config.yaml")
@click.option("--routes", type=click.Path(path_type=Path), help="APISIX's apisix.yaml (standalone mode)")
@click.option(
    "--kong-conf", type=click.Path(path_type=Path), help="Kong's kong.conf: look at its plugin servers instead"
)
@click.option("--gateway-user", default="", help="who the gateway's workers run as  [default: found by itself]")
@click.option("--gateway-version", default="", help="APISIX's or Kong's version  [default: found if installed here]")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def doctor(
    listen: str | None,
    plugins: tuple[str, ...],
    config_file: Path | None,
    apisix_config: Path | None,
    routes: Path | None,
    kong_conf: Path | None,
    gateway_user: str,
    gateway_version: str,
    as_json: bool,
) -> None:
    """Find out why a gateway answers 503: settings, plugins, socket, rights, the runner, the gateway's configuration.

    Give the settings that `gatewright run` gets, or Kong's file. Exits with 1 if there is a problem.
    """
    findings = []
    all_findings = (
        itertools.chain(check_environment(), check_kong(kong_conf, gateway_user, gateway_version))
        if kong_conf is not None
        else _all(
            {"listen": listen, "plugins": plugins},
            config_file,
            apisix_config=apisix_config,
            routes=routes,
            gateway_user=gateway_user,
            gateway_version=gateway_version,
        )
    )
    for finding in all_findings:
        findings.append(finding)
        if not as_json:
            say(_MARKS[finding.level] + finding.text, finding.level)
            if finding.cure:
                click.echo(" " * len(_MARKS["good"]) + f"-> {finding.cure}")
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        click.echo(f"\n{problems or 'no'} problem{'' if problems == 1 else 's'} found")
    sys.exit(1 if problems else 0)


def _all(
    flags: dict[str, object],
    config_file: Path | None,
    *,
    apisix_config: Path | None,
    routes: Path | None,
    gateway_user: str,
    gateway_version: str,
) -> Iterator[Finding]:
    yield from check_environment()
    try:
        effective = load_settings(flags=flags, environ=os.environ, file=config_file)
    except GatewrightError as error:
        yield problem(f"the settings are invalid: {error}", "mend them; `gatewright config` shows them all")
        return
    settings = effective.settings
    if effective.ignored:
        yield note(f"no settings, and ignored: {', '.join(effective.ignored)} in the environment")
    named = places_of_plugins(apisix_config) if apisix_config is not None else []
    with own_stdout(), redirect_stdout(sys.stderr):  # plugins may print, and the output may be a machine's to read
        discovery = discover([*settings.plugins, *named], installed=settings.installed_plugins)
    yield from check_plugins(discovery, [*settings.plugins, *named])
    yield from check_plugin_settings(settings.plugin_settings, discovery)
    managed = flags["listen"] is None and apisix_config is not None and starts_runner(apisix_config)
    yield from _runner(settings, gateway_user, apisix_config if managed else None)
    yield from check_timeouts(settings)
    if apisix_config is not None:
        yield from check_apisix_config(apisix_config, settings)
        yield from check_lean_on_apisix(apisix_config, routes, settings)
    if routes is not None:
        others = {name: partial(load_shipped, name) for own in shipped_names() for name in (own, f"{PREFIX}{own}")}
        yield from check_routes(routes, discovery.plugins, others)
    version = gateway_version or installed_version()
    if version:
        yield from check_version(version)


def _runner(settings: Settings, gateway_user: str, managed_by: Path | None) -> Iterable[Finding]:
    address = parse_address(settings.listen)
    if managed_by is not None:  # APISIX says where to listen: beside its configuration, with its master's number
        sockets = sorted(managed_by.resolve().parent.glob("apisix-*.sock"))
        if not sockets:
            yield note("APISIX starts the runner, and doesn't seem to run: there is no conf/apisix-*.sock")
            return
        address = Address(path=str(sockets[-1]))
    yield from check_socket(address, gateway_user)
    control = control_address(replace(settings, listen=str(address)))
    if control is not None and Path(control.path).exists():
        yield from check_control(control.path)
