"""Plugins that tests of the test kit send requests through."""

from __future__ import annotations

import msgspec

from gatewright import Plugin, Request, Response, SyncRequest, SyncResponse


class Greet(Plugin):
    priority = 10  # Kong runs it before the others, wherever it stands

    class Config(msgspec.Struct):
        greeting: str = "hello"

    async def on_request(self, request: Request) -> Response | None:
        if "x-user" not in request.headers:
            return Response(401, {"x-why": "unknown"}, "who are you?")
        request.headers["x-greeting"] = self.config.greeting
        return None

    async def on_response(self, request: Request, response: Response) -> None:
        response.headers.add("x-served-by", "gatewright")


class Shout(Plugin):
    """A `def` plugin that changes all there is."""

    def on_request(self, request: SyncRequest) -> None:
        request.path = "/loud" + request.path
        request.query["loud"] = "1"
        request.set_body(request.body().upper())
        request.response_headers["x-loud"] = "yes"

    def on_response(self, request: SyncRequest, response: SyncResponse) -> None:
        response.status = 202
        response.set_body(response.body().upper())


class Boom(Plugin):
    async def on_request(self, request: Request) -> None:
        raise RuntimeError("boom")


class Counter(Plugin):
    """Has a state, a `setup` and a `teardown`."""

    ended = 0

    async def setup(self) -> None:
        self.calls = 0

    async def teardown(self) -> None:
        Counter.ended += 1

    def on_request(self, request: SyncRequest) -> Response:
        self.calls += 1
        return Response.json({"calls": self.calls})
