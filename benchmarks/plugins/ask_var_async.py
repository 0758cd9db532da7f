"""A round trip: asks the gateway for a variable before it answers."""

from __future__ import annotations

from gatewright import Plugin, Request


class AskVarAsync(Plugin):
    name = "bench-ask-var-async"

    async def on_request(self, request: Request) -> None:
        request.headers["x-runner"] = (await request.var("remote_addr")) or "unknown"
