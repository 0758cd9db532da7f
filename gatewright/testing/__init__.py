"""Testing plugins: call a handler with a request made by hand, or send requests through plugins as a gateway does.

    from gatewright.testing import Request, TestClient

    async def test_the_handler():
        request = Request(headers={"x-user": "ann"})
        assert await Greet({"greeting": "hi"}).on_request(request) is None
        assert request.changes.headers == {"x-greeting": ("hi",)}

    def test_behind_a_gateway():
        client = TestClient(Greet, config={"greeting": "hi"})
        answer = client.get("/x", headers={"x-user": "ann"})
        assert answer.upstream_request.headers["x-greeting"] == "hi"

The client runs the chain, the session and the frames of production; `gateway="kong"` does so as Kong.
"""

try:
    from gatewright.testing.changes import Changes
    from gatewright.testing.client import Answer, AsyncTestClient, TestClient
    from gatewright.testing.handmade import Request, Response, SyncRequest, SyncResponse
    from gatewright.testing.messages import UpstreamRequest
    from gatewright.testing.runs import PdkCall, PluginRuns, Run
except ModuleNotFoundError as error:
    if (error.name or "gatewright").startswith("gatewright"):
        raise
    raise ModuleNotFoundError(
        f"gatewright.testing needs {error.name}, which is not installed: pip install 'gatewright[testing]'",
        name=error.name,
    ) from None

__all__ = [
    "Answer",
    "AsyncTestClient",
    "Changes",
    "PdkCall",
    "PluginRuns",
    "Request",
    "Response",
    "Run",
    "SyncRequest",
    "SyncResponse",
    "TestClient",
    "UpstreamRequest",
]
