"""Options and errors shared by the commands that talk to a running runner."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gatewright.cli._failing import fail
from gatewright.errors import GatewrightError
from gatewright.observe.control import ask_json
from gatewright.settings import DEFAULT_FILE, control_address, load_settings

__all__ = ["ask_runner", "control_options", "control_path"]

F = TypeVar("F", bound=Callable[..., Any])


def control_options(function: F) -> F:
    """Add the options that say which runner is meant."""
    function = click.option("--listen", default=None, help="where the runner listens, as given to `gatewright run`")(
        function
    )
    function = click.option("--control", default=None, help="its control socket, if that was set")(function)
    return click.option(
        "--config",
        "-c",
        "config_file",
        type=click.Path(path_type=Path),
        help=f"its YAML file of settings  [default: {DEFAULT_FILE} if it exists]",
    )(function)


def control_path(config_file: Path | None, listen: str | None, control: str | None) -> str:
    """The path of the control socket that is meant; ends the command if there is none."""
    try:
        flags = {"listen": listen, "control": control}
        settings = load_settings(flags=flags, environ=os.environ, file=config_file).settings
    except GatewrightError as error:
        fail(error)
    address = control_address(settings)
    if address is None:
        fail("this runner has no control socket: set one with --control unix:/path (here and for the runner)")
    return address.path


def ask_runner(path: str, target: str, *, method: str = "GET", timeout: float = 10.0) -> tuple[int, dict[str, Any]]:
    """Ask the runner; ends the command with a clear message if it can't be asked."""
    try:
        return ask_json(path, target, method=method, timeout=timeout)
    except GatewrightError as error:
        fail(error)
