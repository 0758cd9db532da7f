"""The command group. A command's module is imported when it is named: `run` goes without the others' weight."""

from __future__ import annotations

from importlib import import_module

import click

from gatewright._version import __version__
from gatewright.cli._failing import JsonErrors
from gatewright.cli._output import Group

__all__ = ["main"]

# In the order in which --help lists them. A module holds the command under the command's own name.
_MODULES = {
    "new": "new",
    "dev": "dev",
    "inspect": "inspect",
    "run": "run",
    "check": "check",
    "call": "call",
    "schema": "schema",
    "plugins": "plugins",
    "config": "config",
    "status": "status",
    "reload": "status",
    "log-level": "status",
    "doctor": "doctor",
    "profile": "profile",
    "apisix": "lean",
    "kong": "kong",
    "nginx": "lean",
    "completion": "completion",
}


class _Commands(JsonErrors, Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _MODULES:
            return None
        command = getattr(import_module(f"gatewright.cli.{_MODULES[name]}"), name.replace("-", "_"))
        assert isinstance(command, click.Command)  # noqa: S101 - the table above is ours
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gatewright")
def main() -> None:
    """Run Python plugins inside API gateways.

    Start with `gatewright dev PATH`: it runs the plugins in PATH behind a gateway of its own.
    """
