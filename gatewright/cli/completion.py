"""`gatewright completion`: completion for the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: `eval "$(gatewright completion bash)"`."""
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - the choices are click's own
    root = context.find_root().command
    click.echo(found(root, {}, "gatewright", "_GATEWRIGHT_COMPLETE").source())
