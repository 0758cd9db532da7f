"""The command group."""

from __future__ import annotations

import click

from gatewright._version import __version__
from gatewright.cli.check import check
from gatewright.cli.completion import completion
from gatewright.cli.config import config
from gatewright.cli.dev import dev
from gatewright.cli.doctor import doctor
from gatewright.cli.kong import kong
from gatewright.cli.lean import apisix, nginx
from gatewright.cli.plugins import plugins
from gatewright.cli.profile import profile
from gatewright.cli.run import run
from gatewright.cli.status import log_level, reload, status

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gatewright")
def main() -> None:
    """Run Python plugins inside API gateways.

    Start with `gatewright dev PATH`: it runs the plugins in PATH behind a gateway of its own.
    """


for command in (
    dev,
    run,
    check,
    config,
    status,
    reload,
    log_level,
    doctor,
    profile,
    apisix,
    kong,
    nginx,
    plugins,
    completion,
):
    main.add_command(command)
