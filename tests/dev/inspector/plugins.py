"""Plugins of which a record has much to tell."""

import asyncio

import msgspec

from gatewright import Plugin, Request, Response, SyncRequest, SyncResponse


class Greet(Plugin):
    class Config(msgspec.Struct):
        greeting: str = "hello"

    async def on_request(self, request: Request) -> Response | None:
        if "x-stop" in request.headers:
            return Response(403) if request.headers["x-stop"] == "silently" else Response(401, body="who are you?")
        if "x-secretly" in request.headers:
            request.headers["authorization"] = "Bearer abcdefghijkl"
        self.log.warning("greeting %s", request.headers.get("x-user", "nobody"), extra={"how": "kindly"})
        print("said", 2, "words", flush=True)
        request.headers["x-greeting"] = self.config.greeting
        request.headers["x-uri"] = await request.var("request_uri") or ""
        request.query["added"] = "1"
        if "x-user" in request.headers:
            request.headers.set_all("x-user", ("one", "two"))
        return None

    async def on_response(self, request: Request, response: Response) -> None:
        response.headers.add("x-served-by", "gatewright")
        if response.headers.get("x-upstream"):
            response.status = 299
            response.headers.discard("server")


class Keep(Plugin):
    def on_request(self, request: SyncRequest) -> None:
        if "x-break" in request.headers:
            self._help(request)
        request.set_body(b"kept: " + request.body())

    def _help(self, request: SyncRequest) -> None:
        raise ValueError(f"no help for {request.headers['x-break']}, password=hunter2")


class Slow(Plugin):
    timeout = 0.2
    on_error = "skip"

    async def on_request(self, request: Request) -> None:
        request.headers["x-slow"] = "begun"
        if "x-slow-down" in request.headers:
            await asyncio.sleep(30)

    def on_response(self, request: SyncRequest, response: SyncResponse) -> None:
        self.log.warning("seen in a %s", type(response).__name__)
