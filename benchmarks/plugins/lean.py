"""What the lean path's benchmark runs."""

import asyncio

from gatewright import Plugin


class OneHeader(Plugin):
    name = "lean-one-header"

    def on_request(self, request):
        if "user-agent" in request.headers:
            request.headers["x-runner"] = "python"


class AllHeaders(Plugin):
    name = "lean-all-headers"

    def on_request(self, request):
        request.headers["x-count"] = str(len(request.headers.multi_items()))


class Waits(Plugin):
    name = "lean-waits"

    async def on_request(self, request):
        await asyncio.sleep(0.001)
        request.headers["x-runner"] = "python"


class Body(Plugin):
    name = "lean-body"

    def on_request(self, request):
        request.headers["x-size"] = str(len(request.body()))


class Early(Plugin):
    name = "lean-early"
    early_response = True

    def on_response(self, request, response):
        response.headers["x-runner"] = "python"


class Answer(Plugin):
    name = "lean-answer"

    def on_response(self, request, response):
        response.headers["x-status"] = str(response.status)
