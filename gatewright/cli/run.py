"""`gatewright run`: the runner."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import structlog

from gatewright.cli._failing import fail, in_parts
from gatewright.cli._options import settings_options
from gatewright.errors import GatewrightError
from gatewright.observe.logs import configure_logs
from gatewright.runtime.discovery import discover
from gatewright.server.drivers.runner import plan
from gatewright.server.run import run_runner, tell_ignored
from gatewright.server.worker.process import WorkerPlan
from gatewright.settings import Effective, load_settings

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

    def effective() -> Effective:
        return load_settings(flags=flags, environ=os.environ, file=config_file)

    def load() -> WorkerPlan:
        settings = effective().settings
        return plan(
            settings,
            lambda: discover(settings.plugins, installed=settings.installed_plugins),
        )

    try:
        settings = load().settings
        configure_logs(level=settings.log_level, format=settings.log_format, file=settings.log_file)
        tell_ignored(effective())
        code = run_runner(load)
    except GatewrightError as error:
        if "json" in (flags["log_format"], os.environ.get("GATEWRIGHT_LOG_FORMAT")):  # who reads that reads no words
            configure_logs(format="json")
            structlog.get_logger("gatewright").error("could not start", **in_parts(str(error)))
            sys.exit(2)
        fail(error)
    sys.exit(code)
