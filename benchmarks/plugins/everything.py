"""The greedy plugin: has every header and argument decoded, sets one header."""

from __future__ import annotations

from gatewright import Plugin, SyncRequest


class Everything(Plugin):
    name = "bench-everything"

    def on_request(self, request: SyncRequest) -> None:
        seen = len(request.headers.multi_items()) + len(request.query.multi_items())
        request.headers["x-runner"] = f"python-{seen}"
