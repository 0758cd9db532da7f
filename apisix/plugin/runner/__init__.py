"""`Plugin` and `PluginRunner` of the plugin guide, and their adapter."""

from __future__ import annotations

import ast
import asyncio
import copy
import inspect
import sys
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

import msgspec

from apisix.plugin.request import Request
from apisix.plugin.response import Response
from apisix.start import start_runner
from gatewright import Plugin as NativePlugin
from gatewright import http
from gatewright.errors import PluginError
from gatewright.plugin import kebab_case
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.shared_loop import new_shared_loop

__all__ = ["DEFAULT_SOCKET", "Plugin", "PluginRunner"]

DEFAULT_SOCKET = "unix:/tmp/apisix-plugin-runner.sock"


class _InLoop(type):
    """Lets `__init__` make things that want a running loop (an aiohttp session), even where none runs yet."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        make = super().__call__
        try:
            return make(*args, **kwargs)
        except RuntimeError as error:
            if "no running event loop" not in str(error):
                raise

        async def make_in_loop() -> Any:
            return make(*args, **kwargs)

        return _loop_of_thread(create=True).run_until_complete(make_in_loop())


def _loop_of_thread(*, create: bool) -> Any:
    """The loop that this thread's plugins are bound to, if any."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return asyncio.get_event_loop()
        except (RuntimeError, DeprecationWarning):
            if not create:
                return None
    loop = new_shared_loop()
    asyncio.set_event_loop(loop)
    return loop


class Plugin(metaclass=_InLoop):
    """A guide plugin: `set_config(conf)`, and `filter` or `filter_async`, given `request` and `response`.

    `False`, or `None` with a status or a body set, answers the client. `True`, or `None` otherwise, goes on; response
    headers set meanwhile reach the client.
    """

    name: str = ""
    config: Any = None

    def set_config(self, conf: str) -> None:
        """Take the route's configuration, JSON text."""
        self.config = msgspec.json.decode(conf) if conf else {}

    @classmethod
    def __gatewright_plugin__(cls) -> Sequence[type[NativePlugin]]:
        return () if cls is Plugin else [_adapter(cls, _name_of(cls), None)]


def _name_of(cls: type[Plugin]) -> str:
    """The name that `__init__` gives, read from its source: making an instance may open connections."""
    if cls.name:
        return cls.name
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.__init__)))
    except (OSError, TypeError, SyntaxError):
        tree = ast.Module(body=[], type_ignores=[])
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr == "name":
                    return node.value.value
    return cls().name or kebab_case(cls.__name__.removesuffix("Plugin"))


def _adapter(cls: type[Plugin], name: str, registered: Plugin | None) -> type[NativePlugin]:
    is_async = inspect.iscoroutinefunction(getattr(cls, "filter_async", None))
    if not is_async and not callable(getattr(cls, "filter", None)):
        raise TypeError(f"plugin {name!r} has neither filter(request, response) nor filter_async(request, response)")
    base = _AsyncAdapter if is_async else _SyncAdapter
    return type(cls.__name__, (base,), {"name": name, "wrapped": cls, "registered": registered})


class _Adapter(NativePlugin):
    abstract = True
    wrapped: type[Plugin]
    registered: Plugin | None

    def __init__(self, config: object = None) -> None:
        super().__init__({})
        # Each configuration has an instance of its own; a registered one is the pattern, and shares what it opened.
        self.inner: Any = self.wrapped() if self.registered is None else copy.copy(self.registered)
        self.inner.set_config(config if isinstance(config, str) and config else "{}")

    @staticmethod
    def verdict(result: Any, request: http.Request | http.SyncRequest, response: Response) -> http.Response | None:
        if result is not None and not isinstance(result, bool):
            raise PluginError(
                f"a filter returns True to go on, or False (or nothing, with a status or body set) to answer, "
                f"not {type(result).__name__}"
            )
        if result is False or (result is None and response.answered):
            return response.as_answer()
        for name in response.headers:
            request.response_headers.set_all(name, response.headers.get_all(name))
        return None


class _SyncAdapter(_Adapter):
    abstract = True

    def on_request(self, request: http.SyncRequest) -> http.Response | None:
        response = Response()
        return self.verdict(self.inner.filter(Request(request), response), request, response)


class _AsyncAdapter(_Adapter):
    abstract = True

    async def on_request(self, request: http.Request) -> http.Response | None:
        wrapped, response = Request(request), Response()
        if "body" in self.inner.filter_async.__code__.co_names:
            await wrapped.read_body()  # so that `request.body`, which can't be awaited, is there
        return self.verdict(await self.inner.filter_async(wrapped, response), request, response)


class PluginRunner:
    """`PluginRunner().register(plugin).run()`: a runner for the plugins given."""

    def __init__(self) -> None:
        self._discovery = Discovery()

    def register(self, plugin: Plugin) -> PluginRunner:
        """Add a plugin; it's called by its `name`."""
        name = plugin.name or kebab_case(type(plugin).__name__.removesuffix("Plugin"))
        self._discovery.add(_adapter(type(plugin), name, plugin), f"registered by {sys.argv[0]}")
        return self

    def run(self) -> None:
        """Serve until told to stop; ends the process with an error code if that isn't possible."""
        loop = _loop_of_thread(create=False)
        code = start_runner(flags={}, discovery=self._discovery, default_socket=DEFAULT_SOCKET, loop=loop)
        if code:
            sys.exit(code)
