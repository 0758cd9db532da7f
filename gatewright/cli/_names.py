"""Names of plugins as arguments of commands: the shell completes them."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem

from gatewright.cli._found import find, places_or_settings
from gatewright.errors import GatewrightError
from gatewright.runtime.shipped import shipped_names

__all__ = ["PluginName"]


class PluginName(click.types.StringParamType):
    """A plugin's name, or a file that holds one."""

    name = "plugin"

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The plugins of the places that are named or set, and those that come along; files, if it looks like one."""
        if "/" in incomplete or incomplete.endswith(".py"):
            return [CompletionItem(incomplete, type="file")]
        places = ctx.params.get("places") or ()
        silence, said = os.open(os.devnull, os.O_WRONLY), os.dup(2)
        os.dup2(silence, 2)  # what plugins print, and what is wrong with them, would stand in the line that is typed
        try:
            own = list(find(places_or_settings(tuple(map(str, places)))).found)
        except GatewrightError:
            own = []
        finally:
            os.dup2(said, 2)
            os.close(said)
            os.close(silence)
        return [CompletionItem(name) for name in sorted({*own, *shipped_names()}) if name.startswith(incomplete)]
