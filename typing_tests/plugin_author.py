"""What a type checker says to a plugin's author. `make lint` checks this file; it is never run.

An expected error is one that is ignored by its code: where it doesn't come, the unused comment is an error itself.
"""

from __future__ import annotations

from typing import Any, assert_type

import msgspec

from gatewright import Headers, Plugin, Request, Response, SyncRequest, SyncResponse, override
from gatewright.testing import Answer, TestClient
from gatewright.testing import Request as MadeRequest


class GreetConfig(msgspec.Struct):
    greeting: str = "hello"


class Greet(Plugin[GreetConfig]):
    """The configuration has a type, and handlers have those that they say."""

    @override
    async def on_request(self, request: Request) -> Response | None:
        assert_type(self.config, GreetConfig)
        assert_type(self.config.greeting, str)
        self.config.greting  # type: ignore[attr-defined]
        assert_type(request.headers, Headers)
        assert_type(await request.body(), bytes)
        assert_type(await request.json(), Any)
        return Response.json({"a": 1}, 201)

    @override
    async def on_respnse(self, request: Request, response: Response) -> None:  # type: ignore[misc]
        """A name that no handler has."""

    @override
    async def on_response(self, request: Request, response: Response) -> None:
        assert_type(await response.json(), Any)
        response.status = "200"  # type: ignore[assignment]


class Plain(Plugin):
    """Without a model the configuration is anything, also under `--strict`."""

    @override
    def on_request(self, request: SyncRequest) -> None:
        assert_type(self.config, Any)
        assert_type(request.body(), bytes)
        assert_type(request.json(), Any)

    @override
    def on_response(self, request: SyncRequest, response: SyncResponse) -> None:
        assert_type(response.json(), Any)

    @override
    def on_log(self, kong: Any) -> None:
        """One of Kong's."""


class Logs(Plugin):
    @override
    def on_log(self, request: SyncRequest, response: SyncResponse) -> None:
        """The other form."""


class TooMany(Plugin):
    @override
    def on_request(self, request: Request, response: Response) -> None:  # type: ignore[override]
        """A handler with a parameter too many."""


class NoAnswer(Plugin):
    async def on_request(self, request: Request) -> str:  # type: ignore[override]
        """A handler returns a `Response` or nothing."""
        return "denied"

    def on_response(self, request: SyncRequest, response: SyncResponse) -> bool:  # type: ignore[override]
        return True


async def tests() -> None:
    """The test kit."""
    plugin = Greet(GreetConfig("hi"))
    assert_type(await plugin.on_request(MadeRequest()), Response | None)
    answer = TestClient(Greet, config={"greeting": "hi"}).get("/")
    assert_type(answer, Answer)
    assert_type(answer.headers, Headers)
    Response(status="200")  # type: ignore[arg-type]
