"""`gatewright run`: the runner."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from gatewright.cli._options import effective_settings, fail, settings_options
from gatewright.errors import GatewrightError
from gatewright.gateways.apisix.session import ApisixSession
from gatewright.observe.logs import configure_logs
from gatewright.runtime.discovery import discover
from gatewright.server.worker import run_worker

__all__ = ["run"]


@click.command()
@settings_options
def run(config_file: Path | None, **flags: Any) -> None:
    """Run plugins for a gateway that connects to us.

    Exit codes: 0 after a clean stop, 1 if calls under way had to be cut off, 2 if it could not start.
    """
    settings = effective_settings(config_file, flags).settings
    try:
        configure_logs(level=settings.log_level, format=settings.log_format, file=settings.log_file)
        discovery = discover(settings.plugins, installed=settings.installed_plugins)
        code = run_worker(settings, discovery, lambda: ApisixSession(max_payload=settings.max_frame))
    except GatewrightError as error:
        fail(error)
    sys.exit(code)
