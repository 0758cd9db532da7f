"""The built-in upstream: answers every request with a description of what it received, as JSON."""

from __future__ import annotations

import base64
import json

from aiohttp import web

__all__ = ["ECHO", "EchoUpstream"]

ECHO = "echo"
"""What it is called on the command line."""


class EchoUpstream:
    """An HTTP server on loopback."""

    def __init__(self) -> None:
        self._server = web.Server(self._handle, access_log=None)
        self._runner = web.ServerRunner(self._server)
        self.port = 0

    async def start(self) -> None:
        """Listen on any free port."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    @staticmethod
    async def _handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        try:
            shown: object = body.decode()
        except UnicodeDecodeError:
            shown = {"base64": base64.b64encode(body).decode()}
        description = {
            "method": request.method,
            "path": request.path,
            "query": [list(pair) for pair in request.query.items()],
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers],
            "body": shown,
        }
        return web.Response(
            text=json.dumps(description, indent=2, ensure_ascii=False) + "\n",
            content_type="application/json",
            headers={"x-upstream": "gatewright-echo"},
        )
