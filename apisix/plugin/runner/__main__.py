"""`python -m apisix.plugin.runner start`."""

from __future__ import annotations

import sys

import click

from apisix.plugin.runner import DEFAULT_SOCKET
from apisix.start import start_runner
from gatewright import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Run Python plugins for Apache APISIX, started as the plugin guide does."""


@main.command()
@click.option("--workers", metavar="N", help="worker processes, or auto for one a core  [default: 1]")
@click.option("--debug", is_flag=True, help="log at level debug")
@click.option("--plugins", "-p", multiple=True, metavar="PATH", help="more plugins (repeatable)")
@click.option("--listen", default=None, help=f"where to listen  [default: {DEFAULT_SOCKET}]")
def start(workers: str | None, debug: bool, plugins: tuple[str, ...], listen: str | None) -> None:
    """Start the runner with the plugins in apisix/plugins."""
    flags = {"workers": workers, "log_level": "debug" if debug else None, "plugins": plugins, "listen": listen}
    sys.exit(start_runner(flags=flags, default_socket=DEFAULT_SOCKET))


if __name__ == "__main__":
    main(prog_name="python -m apisix.plugin.runner")
