"""The `gatewright` command: one module a command."""

from gatewright.cli._main import main

__all__ = ["main"]
