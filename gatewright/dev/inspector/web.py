"""The inspector's page, and what it asks for. All is under `/_gatewright/`; what comes from elsewhere is refused."""

from __future__ import annotations

import asyncio
import json
import mimetypes
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, Final

from aiohttp import web

from gatewright._version import __version__
from gatewright.dev.inspector.exports import curl_of, test_of
from gatewright.dev.inspector.facts import Facts, plugins_view
from gatewright.dev.inspector.guard import guarded
from gatewright.dev.inspector.inspector import Inspector
from gatewright.dev.inspector.records import redacted
from gatewright.dev.inspector.replaying import ReplayError, replay
from gatewright.dev.inspector.trying import try_on
from gatewright.errors import ConfigError

__all__ = ["DEFAULT_PORT", "PATH", "Page"]

PATH: Final = "/_gatewright/"
DEFAULT_PORT: Final = 9081
_HOST: Final = "127.0.0.1"
_PING_SECONDS: Final = 10.0
_TOGETHER_SECONDS: Final = 0.1
"""How long what is new waits for more: a list that is told of each call of a load test would do nothing else."""
_LONGEST_BODY: Final = 1 << 24


class Page:
    """An HTTP server on loopback, whatever the gateway listens on.

    Attributes:
        facts: what there is to know of plugins and routes; to be replaced when it changes.
        port: where it listens.
    """

    def __init__(self, inspector: Inspector, facts: Facts) -> None:
        self._inspector = inspector
        self._facts = facts
        inspector.schemas.tell(facts.plugins)
        self._facts_number = 0
        self.port = 0
        app = web.Application(middlewares=[guarded(lambda: self.port)], client_max_size=_LONGEST_BODY)
        app.router.add_get("/", self._to_page)
        for method, path, handler in (
            ("GET", "", self._asset),
            ("GET", "assets/{path:.+}", self._asset),
            ("GET", "api/about", self._about),
            ("GET", "api/calls", self._calls),
            ("GET", "api/events", self._events),
            ("GET", "api/calls/{number:[0-9]+}", self._call),
            ("POST", "api/calls/{number:[0-9]+}/reveal", self._reveal),
            ("POST", "api/calls/{number:[0-9]+}/curl", self._curl),
            ("POST", "api/calls/{number:[0-9]+}/test", self._test),
            ("POST", "api/calls/{number:[0-9]+}/replay", self._replay),
            ("POST", "api/clear", self._clear),
            ("GET", "api/plugins", self._plugins),
            ("POST", "api/plugins/{name}/try", self._try),
        ):
            app.router.add_route(method, PATH + path, handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{_HOST}:{self.port}{PATH}"

    @property
    def facts(self) -> Facts:
        """What there is to know of plugins and routes."""
        return self._facts

    @facts.setter
    def facts(self, facts: Facts) -> None:
        self._facts = facts
        self._inspector.schemas.tell(facts.plugins)
        self._facts_number += 1
        self._inspector.book.wake()

    async def start(self, port: int | None = None) -> None:
        """Listen.

        Args:
            port: where; `None` for the usual port or, if that is taken, any.

        Raises:
            OSError: the port is taken.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, _HOST, DEFAULT_PORT if port is None else port).start()
        except OSError:
            if port is not None:
                raise
            await web.TCPSite(self._runner, _HOST, 0).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening, and end what is streamed."""
        await self._runner.cleanup()

    # --- the page

    async def _to_page(self, _: web.Request) -> web.StreamResponse:
        raise web.HTTPNotFound(text=f"the inspector is at {PATH}\n")

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        path = PurePosixPath(request.match_info.get("path", "index.html"))
        if ".." in path.parts or path.is_absolute():
            raise web.HTTPNotFound(text="no such file\n")
        file = resources.files("gatewright.dev.inspector") / "assets" / str(path)
        if not file.is_file():
            raise web.HTTPNotFound(text="no such file\n")
        kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0] or "text/plain"
        return web.Response(body=file.read_bytes(), content_type=kind, charset="utf-8")

    # --- calls

    async def _about(self, _: web.Request) -> web.StreamResponse:
        facts = self._facts
        return _json({
            "gateway": self._inspector.gateway, "url": facts.url, "live": facts.live, "version": __version__,
            "errors": list(facts.errors), "facts": self._facts_number,
        })  # fmt: skip

    async def _calls(self, _: web.Request) -> web.StreamResponse:
        book = self._inspector.book
        return _json({"calls": book.summaries(), "dropped": book.dropped, "lost": self._inspector.receiver.lost})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        facts = self._facts_number
        with self._inspector.book.listening() as listener:  # before the page knows that it is told of all
            await response.prepare(request)
            await response.write(b": here\n\n")
            while True:
                anew, calls, gone = await listener.next(_PING_SECONDS)
                told = b""
                if facts != self._facts_number:
                    facts = self._facts_number
                    told += b"event: facts\ndata: %d\n\n" % facts
                if anew or calls:
                    content = json.dumps({"anew": anew, "calls": calls, "gone": gone}, separators=(",", ":"))
                    told += f"event: calls\ndata: {content}\n\n".encode()
                try:
                    await response.write(told or b": still here\n\n")
                except ConnectionError:
                    return response
                await asyncio.sleep(_TOGETHER_SECONDS)

    def _record(self, request: web.Request) -> dict[str, Any]:
        record = self._inspector.book.get(int(request.match_info["number"]))
        if record is None:
            raise web.HTTPNotFound(text="this call is no longer kept\n")
        return record

    def _redacted(self, shown: Any) -> Any:
        return redacted(self._inspector.schemas.shown(shown))

    async def _call(self, request: web.Request) -> web.StreamResponse:
        return _json(self._redacted(self._record(request)))

    async def _reveal(self, request: web.Request) -> web.StreamResponse:
        return _json(self._record(request))

    async def _curl(self, request: web.Request) -> web.StreamResponse:
        return await self._exported(request, lambda record: curl_of(record, self._facts.url or "http://127.0.0.1:9080"))

    async def _test(self, request: web.Request) -> web.StreamResponse:
        return await self._exported(request, lambda record: test_of(record, self._facts.sources))

    async def _exported(self, request: web.Request, export: Callable[[dict[str, Any]], str]) -> web.StreamResponse:
        record = self._record(request)
        wanted = await _body(request)
        if wanted.get("revealed") is not True:
            record = self._redacted(record)
        try:
            return _json({"text": export(record)})
        except LookupError as error:
            return _json({"error": str(error.args[0])})  # an answer like others: browsers complain of a 409

    async def _replay(self, request: web.Request) -> web.StreamResponse:
        facts = self._facts
        if not facts.live:
            return _json({"error": "there is no gateway here, only a file"}, status=409)
        number = int(request.match_info["number"])
        try:
            new = await replay(self._inspector, facts.host, facts.port, number, await _body(request))
        except ReplayError as error:
            return _json({"error": str(error)})
        return _json({"id": new})

    async def _clear(self, _: web.Request) -> web.StreamResponse:
        self._inspector.book.clear()
        return _json({})

    # --- plugins

    async def _plugins(self, _: web.Request) -> web.StreamResponse:
        view = plugins_view(self._facts, self._inspector.outcomes)
        return _json({"plugins": self._redacted(view), "errors": list(self._facts.errors)})

    async def _try(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        source = self._facts.sources.get(name)
        config = (await _body(request)).get("config")
        if source is None or not isinstance(config, str):
            return _json({"error": f"there is no plugin {name!r}"}, status=404)
        try:
            values = json.loads(config)
            if isinstance(values, dict):  # what else it may be is the plugin's to say
                config = json.dumps(self._facts.filled(name, values))
        except ValueError as error:
            return _json({"error": f"it is not JSON: {error}"})
        except ConfigError as error:
            return _json({"error": str(error)})
        return _json(await try_on(source, name, config, is_kongs=name in self._facts.read_as_kongs))


async def _body(request: web.Request) -> Mapping[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is a JSON object\n")
    return body


def _json(content: Any, status: int = 200) -> web.Response:
    return web.json_response(content, status=status, dumps=lambda value: json.dumps(value, separators=(",", ":")))
