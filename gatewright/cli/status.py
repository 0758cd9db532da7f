"""`gatewright status`, `reload` and `log-level`: talking to a running runner."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from gatewright.cli._control import ask_runner, control_options, control_path
from gatewright.cli._output import print_table, say
from gatewright.settings import LOG_LEVELS

__all__ = ["log_level", "reload", "status"]


@click.command()
@control_options
@click.option("--json", "as_json", is_flag=True, help="print all of it as JSON")
def status(config_file: Path | None, listen: str | None, control: str | None, as_json: bool) -> None:
    """Show how a running runner is: workers, plugins, chains, last errors.

    Exit codes: 0 it's ready, 1 it's not ready, 2 it can't be asked.
    """
    _, content = ask_runner(control_path(config_file, listen, control), "/status")
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        _print(content)
    sys.exit(0 if content["ready"] else 1)


@click.command()
@control_options
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def reload(config_file: Path | None, listen: str | None, control: str | None, as_json: bool) -> None:
    """Let a running runner take its plugins and settings as they are now, without losing a request.

    If a plugin no longer loads, the runner goes on as it was. Exit codes: 0 reloaded, 1 not, 2 it can't be asked.
    """
    path = control_path(config_file, listen, control)
    code, result = ask_runner(path, "/reload", method="POST", timeout=120.0)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        sys.exit(0 if code == 200 else 1)
    if code != 200:
        click.echo(f"not reloaded, the runner goes on as it was: {result.get('reason') or result}", err=True)
        sys.exit(1)
    click.echo(f"reloaded (generation {result['generation']})")


@click.command()
@click.argument("level", type=click.Choice(LOG_LEVELS))
@control_options
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def log_level(level: str, config_file: Path | None, listen: str | None, control: str | None, as_json: bool) -> None:
    """Let a running runner log at another LEVEL, until it is reloaded.

    Exit codes: 0 it does, 2 it can't be asked.
    """
    ask_runner(control_path(config_file, listen, control), f"/log-level?level={level}", method="POST")
    click.echo(json.dumps({"level": level}) if as_json else f"log level: {level}")


def _print(content: dict[str, Any]) -> None:
    state = "ready" if content["ready"] else "not ready"
    first = f"gatewright {content['version']}, {content['address']}, {state}, up {_time(content['uptime'])}"
    say(first, "good" if content["ready"] else "problem")
    say("")
    print_table(
        ["worker", "pid", "stage", "up", "connections", "calls", "under way", "chains", "MiB", "lag ms"],
        [
            [
                *(w["number"], w["pid"], w["stage"], _time(w["uptime"]), w["connections"], w["calls"]),
                *(w["calls_under_way"], w["chains"], w["memory"] >> 20, f"{w['loop_lag'] * 1000:.1f}"),
            ]
            for w in content["workers"]
        ],
    )
    say("")
    print_table(
        ["plugin", "version", "phases", "source"],
        [[p["name"], p["version"] or "-", ", ".join(p["phases"]) or "-", p["source"]] for p in content["plugins"]],
    )
    for line in _lines(content):
        say(line)


def _lines(content: dict[str, Any]) -> list[str]:
    """What is below the tables."""
    lines: list[str] = []
    lines += [f"not loaded: {error}" for error in content["plugin_errors"]]
    lines += ["", f"{content['configurations']} configurations"]
    for chain in content["chains"]:
        if not chain["ready"]:
            lines.append(f"  {chain['key']}: not ready")
            lines += [f"    {p['name']}: {p['state']}: {p['error']}" for p in chain["plugins"] if p["error"]]
    if content["last_errors"]:
        lines += ["", "last errors"]
        lines += [
            "  " + " ".join(str(error[name]) for name in ("plugin", "route", "event", "error") if error.get(name))
            for error in content["last_errors"][-10:]
        ]
    if content["worker_exits"]:
        lines += ["", "workers that ended unexpectedly"]
        lines += [
            f"  worker {e['worker']}, pid {e['pid']}: {e['how']} after {e['lived']} s" for e in content["worker_exits"]
        ]
    last = content["last_reload"]
    if last:
        reason = f": {last['reason']}" if last["reason"] else ""
        lines += ["", f"last reload: {last['result']}, {last['at']}{reason}"]
    return lines


def _time(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return (
        f"{whole // 3600} h {whole % 3600 // 60} min"
        if whole < 86400
        else f"{whole // 86400} d {whole % 86400 // 3600} h"
    )
