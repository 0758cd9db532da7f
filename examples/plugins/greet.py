"""The first plugin: greets whoever says who they are, and refuses everybody else."""

import msgspec

from gatewright import Plugin, Request, Response


class Greet(Plugin):
    class Config(msgspec.Struct):
        greeting: str = "hello"

    async def on_request(self, request: Request) -> Response | None:
        user = request.headers.get("x-user") or request.query.get("user")
        if user is None:
            return Response(401, body="who are you? try again with ?user=ada\n")  # answers the client
        request.headers["x-greeting"] = f"{self.config.greeting} {user}"  # reaches the upstream
        return None

    async def on_response(self, request: Request, response: Response) -> None:
        response.headers.add("x-served-by", "gatewright")
