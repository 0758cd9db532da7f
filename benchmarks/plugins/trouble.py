"""Plugins that do what hurts: for endurance, not for speed."""

import asyncio

from gatewright import Plugin, Request, SyncRequest


class ReadBody(Plugin):
    """Reads the client's body, which is asked for over the wire."""

    name = "read-body"

    async def on_request(self, request: Request) -> None:
        request.headers["x-length"] = str(len(await request.body()))


class Fail(Plugin):
    """Fails in all ways, in turn."""

    name = "fail"
    timeout = 0.05
    turn = 0

    async def on_request(self, request: Request) -> None:
        type(self).turn += 1
        if self.turn % 3 == 0:
            await asyncio.sleep(1)
        if self.turn % 3 == 1:
            raise RuntimeError("as meant")
        request.headers["x y"] = "not a header's name"


class Block(Plugin):
    """Sleeps in a thread."""

    name = "block"
    blocking = True

    def on_request(self, request: SyncRequest) -> None:
        request.headers["x-length"] = str(len(request.body()))
