"""Command line options for settings: one each, made from `Settings` itself, so that they can't drift apart."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click

from gatewright.cli._failing import fail
from gatewright.errors import GatewrightError
from gatewright.settings import DEFAULT_FILE, Effective, Settings, load_settings

__all__ = ["effective_settings", "settings_options"]

F = TypeVar("F", bound=Callable[..., Any])

_TYPES = {int: int, float: float, str: str}


def settings_options(function: F) -> F:
    """Add an option for every setting, and `--config` for the file."""
    types = get_type_hints(Settings)
    for item in reversed(fields(Settings)):
        if item.name == "plugin_settings":
            continue
        flag = "--" + item.name.replace("_", "-")
        default = "" if item.default in ((), "", MISSING) else f"  [default: {item.default}]"
        text = item.metadata["text"] + default
        if types[item.name] is bool:
            option = click.option(f"{flag}/--no-{flag[2:]}", item.name, default=None, help=text)
        elif item.name == "plugins":
            option = click.option(flag, "-p", item.name, multiple=True, metavar="PATH", help=text + " (repeatable)")
        else:
            option = click.option(flag, item.name, type=_TYPES[types[item.name]], default=None, help=text)
        function = option(function)
    return click.option(
        "--config",
        "-c",
        "config_file",
        type=click.Path(path_type=Path),
        help=f"YAML file of settings by name.  [default: {DEFAULT_FILE} if it exists]",
    )(function)


def effective_settings(config_file: Path | None, flags: dict[str, Any]) -> Effective:
    """The settings of flags, environment and file; ends the command with a clear message if they are invalid."""
    try:
        return load_settings(flags=flags, environ=os.environ, file=config_file)
    except GatewrightError as error:
        fail(error)
