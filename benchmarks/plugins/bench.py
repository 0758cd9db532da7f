"""The plugins that are measured."""

from gatewright import Plugin, Request, Response, SyncRequest


class OneHeaderSync(Plugin):
    """Sets one header if another one is there: what most plugins do."""

    name = "one-header-sync"

    def on_request(self, request: SyncRequest) -> None:
        if "user-agent" in request.headers:
            request.headers["x-runner"] = "python"


class OneHeaderAsync(Plugin):
    name = "one-header-async"

    async def on_request(self, request: Request) -> None:
        if "user-agent" in request.headers:
            request.headers["x-runner"] = "python"


class Everything(Plugin):
    """Decodes all headers and arguments."""

    name = "everything"

    def on_request(self, request: SyncRequest) -> None:
        count = len(request.headers.multi_items()) + len(request.query.multi_items())
        request.headers["x-count"] = str(count)


class AskSync(Plugin):
    """One round trip to the gateway in mid-call."""

    name = "ask-sync"

    def on_request(self, request: SyncRequest) -> None:
        request.headers["x-address"] = request.var("remote_addr") or ""


class AskAsync(Plugin):
    name = "ask-async"

    async def on_request(self, request: Request) -> None:
        request.headers["x-address"] = await request.var("remote_addr") or ""


class Empty(Plugin):
    """Does nothing: what all else is measured over."""

    async def on_request(self, request: Request) -> None:
        """Look at nothing."""

    async def on_response(self, request: Request, response: Response) -> None:
        """Look at nothing."""
