"""One request header set on Kong, by a plugin in kong-pdk's form and by native ones."""

from __future__ import annotations

from typing import Any

from gatewright import Plugin, Request, SyncRequest

__all__ = ["Module", "Native", "NativeAsync"]


class Module:
    """`class Plugin` of a module for kong-pdk."""

    def __init__(self, _: Any) -> None:
        """Nothing is configured."""

    def access(self, kong: Any) -> None:
        """Set it."""
        kong.service.request.set_header("x-runner", "python")


class Native(Plugin):
    """A `def` handler."""

    def on_request(self, request: SyncRequest) -> None:
        """Set it."""
        request.headers["x-runner"] = "python"


class NativeAsync(Plugin):
    """An `async def` handler."""

    async def on_request(self, request: Request) -> None:
        """Set it."""
        request.headers["x-runner"] = "python"
