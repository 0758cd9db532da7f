"""What commands print for people: aligned, coloured on a terminal only, and plain for whoever reads it otherwise.

Rich is used where it's installed; without it, and with `NO_COLOR`, words and alignment are the same.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

import click

__all__ = ["Group", "print_table", "say"]

_STYLES: Final = {"good": "green", "note": "cyan", "warning": "yellow", "problem": "red", "head": "bold"}


def _is_terminal() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def say(text: str, style: str = "") -> None:
    """Print a line, in the colour of what it means.

    Args:
        text: the line.
        style: `good`, `note`, `warning`, `problem`, `head`, or nothing.
    """
    colour = _STYLES.get(style)
    if colour is None or not _is_terminal():
        click.echo(text)
    elif style == "head":
        click.secho(text, bold=True)
    else:
        click.secho(text, fg=colour)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; on a terminal, cells are wrapped rather than cut."""
    cells = [[str(cell) for cell in row] for row in rows]
    if _is_terminal() and _print_rich(head, cells):
        return
    widths = [max(len(row[at]) for row in (head, *cells)) for at in range(len(head))]
    for row in (head, *cells):
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_rich(head: Sequence[str], cells: Sequence[Sequence[str]]) -> bool:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(head):
        table.add_column(name, no_wrap=at == 0, overflow="fold")
    for row in cells:
        table.add_row(*(_plain(cell) for cell in row))
    Console(highlight=False).print(table)
    return True


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)  # brackets in it are no markup


class Group(click.Group):
    """A group of commands whose help says each command's whole first sentence; click cuts it at 45 characters.

    A command that there isn't is met with the one that may be meant.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is named first."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = get_close_matches(args[0], self.list_commands(ctx), 1)
            if not close:
                raise
            raise click.UsageError(f"{error.message} Did you mean {close[0]}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        formatter.width = max(formatter.width, min(shutil.get_terminal_size().columns - 2, 110))
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, found.get_short_help_str(limit=1000)) for name, found in named if found and not found.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
