"""The usual plugin: looks at one header, sets one."""

from __future__ import annotations

from gatewright import Plugin, SyncRequest


class QuietSync(Plugin):
    name = "bench-quiet-sync"

    def on_request(self, request: SyncRequest) -> None:
        if "user-agent" in request.headers:
            request.headers["x-runner"] = "python"
