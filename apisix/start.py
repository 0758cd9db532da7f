"""What all the old ways of starting a runner come to: settings in their terms, their plugin directories, one runner."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from gatewright import __version__
from gatewright.errors import ConfigError, GatewrightError
from gatewright.observe.logs import configure_logs
from gatewright.runtime.discovery import Discovery, discover
from gatewright.server.drivers.runner import plan
from gatewright.server.run import run_runner
from gatewright.server.worker.process import WorkerPlan
from gatewright.settings import load_settings

__all__ = ["main", "read_legacy_config", "start_runner"]

HERE = Path(__file__).resolve().parent
DEFAULT_SOCKET = "unix:/tmp/runner.sock"


def plugin_directories() -> list[str]:
    """The directories that are loaded by themselves: those of the checkout, and `apisix/plugins` of the working one."""
    places = [HERE / "plugins", HERE / "plugin", Path("apisix/plugins").resolve(), Path("apisix/plugin").resolve()]
    return [str(place) for place in dict.fromkeys(places) if place.is_dir()]


def read_legacy_config(file: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Settings in the format of 0.1.0: `socket.file`, `logging.level`; a value `$env.NAME` is taken from there.

    Raises:
        ConfigError: the file is not of that form.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    # The published example has a comment that broke into a second line; such a lone word is no setting.
    lines = [line for line in text.splitlines() if not re.fullmatch(r"[A-Za-z]+\s*", line)]
    try:
        content = yaml.safe_load("\n".join(lines)) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from None
    settings: dict[str, Any] = {}
    for section, name, setting in (("socket", "file", "listen"), ("logging", "level", "log_level")):
        values = content.get(section) if isinstance(content, dict) else None
        if values is not None and not isinstance(values, dict):
            raise ConfigError(f"{file}: {section} holds settings by name, such as {section}.{name}")
        value = (values or {}).get(name)
        if isinstance(value, str) and value.startswith("$env."):
            value = environ.get(value.removeprefix("$env."))
        if value:
            settings[setting] = value
    return settings


def start_runner(
    *,
    flags: Mapping[str, Any],
    discovery: Discovery | None = None,
    config: Path | None = None,
    default_socket: str = DEFAULT_SOCKET,
    loop: Any = None,
) -> int:
    """Run until told to stop.

    Args:
        flags: settings by name that win over all others.
        discovery: plugins; by default those of the plugin directories and of the settings.
        config: a configuration file in the format of 0.1.0.
        default_socket: where to listen if nobody says.
        loop: a loop that plugins were already bound to.

    Returns:
        The exit code: 0, 1 if calls were cut off, 2 if the runner could not start, 3 if its workers could not.
    """

    def load() -> WorkerPlan:
        settings = load_settings(
            flags=flags,
            environ=os.environ,
            defaults={"listen": default_socket},
            file=config,
            file_values=None if config is None else read_legacy_config(config, os.environ),
        ).settings
        places = [*plugin_directories(), *settings.plugins]
        return plan(
            settings,
            lambda: discover(places, installed=settings.installed_plugins) if discovery is None else discovery,
        )

    try:
        settings = load().settings
        configure_logs(level=settings.log_level, format=settings.log_format, file=settings.log_file)
        return run_runner(load, loop=loop)
    except GatewrightError as error:
        click.echo(f"apisix: {error}", err=True)
        return 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Run Python plugins for Apache APISIX, started as Apache's Python runner 0.1.0 was."""


@main.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=HERE / "config.yaml",
    help="configuration file in the format of 0.1.0  [default: apisix/config.yaml]",
)
def start(config: Path) -> None:
    """Start the runner with the plugins in apisix/plugins and apisix/plugin."""
    sys.exit(start_runner(flags={}, config=config))
