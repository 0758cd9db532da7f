"""A round trip: asks the gateway for a variable before it answers."""

from __future__ import annotations

from gatewright import Plugin, SyncRequest


class AskVarSync(Plugin):
    name = "bench-ask-var-sync"

    def on_request(self, request: SyncRequest) -> None:
        request.headers["x-runner"] = request.var("remote_addr") or "unknown"
