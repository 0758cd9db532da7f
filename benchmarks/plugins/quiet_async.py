"""The usual plugin: looks at one header, sets one."""

from __future__ import annotations

from gatewright import Plugin, Request


class QuietAsync(Plugin):
    name = "bench-quiet-async"

    async def on_request(self, request: Request) -> None:
        if "user-agent" in request.headers:
            request.headers["x-runner"] = "python"
