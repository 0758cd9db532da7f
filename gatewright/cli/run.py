"""`gatewright run`: the runner."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from gatewright.cli._options import fail, settings_options
from gatewright.errors import GatewrightError
from gatewright.gateways.apisix.session import ApisixSession
from gatewright.observe.logs import configure_logs
from gatewright.runtime.discovery import discover
from gatewright.server.plan import Plan
from gatewright.server.run import run_runner
from gatewright.settings import load_settings

__all__ = ["run"]


@click.command()
@settings_options
def run(config_file: Path | None, **flags: Any) -> None:
    """Run plugins for a gateway that connects to us.

    SIGHUP (or `gatewright reload`) puts new workers with the code and settings of now in the place of the old ones and
    loses no request; SIGTERM stops; SIGUSR1 reopens the log file.

    Exit codes: 0 after a clean stop, 1 if calls under way had to be cut off, 2 if it could not start (settings,
    socket), 3 if workers ended again and again before one was ever ready.
    """

    def load() -> Plan:
        settings = load_settings(flags=flags, environ=os.environ, file=config_file).settings
        return Plan(
            settings,
            lambda: discover(settings.plugins, installed=settings.installed_plugins),
            lambda: ApisixSession(max_payload=settings.max_frame),
        )

    try:
        settings = load().settings
        configure_logs(level=settings.log_level, format=settings.log_format, file=settings.log_file)
        code = run_runner(load)
    except GatewrightError as error:
        fail(error)
    sys.exit(code)
