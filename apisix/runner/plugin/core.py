"""`PluginBase` of Apache's Python runner 0.2.0, and its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apisix.runner.http.request import Request
from apisix.runner.http.response import Response
from apisix.runner.plugin.waiting import refuse_to_wait
from gatewright import Plugin, SyncRequest
from gatewright import http as native

__all__ = ["PluginBase"]


class PluginBase:
    """A 0.2.0 plugin: `name()`, `config(conf)` and `filter(conf, request, response)`."""

    def name(self) -> str:
        """What routes call the plugin."""
        raise NotImplementedError(f"{type(self).__name__} must implement name()")

    def config(self, conf: Any) -> Any:
        """Parse the configuration's text; what it gives is handed to `filter`."""
        return conf

    def filter(self, conf: Any, request: Request, response: Response) -> Any:
        """The plugin's work. A changed `response` answers the client."""
        raise NotImplementedError(f"{type(self).__name__} must implement filter(conf, request, response)")

    @classmethod
    def __gatewright_plugin__(cls) -> Sequence[type[Plugin]]:
        if cls is PluginBase:
            return ()
        return [type(cls.__name__, (_Adapter,), {"name": cls().name(), "wrapped": cls})]


class _Adapter(Plugin):
    abstract = True
    wrapped: type[PluginBase]

    def __init__(self, config: object = None) -> None:
        super().__init__({})
        self.config = config
        self.wrapped().config(config)  # what it can't take is known before the first request

    def on_request(self, native_request: SyncRequest) -> native.Response | None:
        response = Response()
        response.set_req_id(native_request.id)
        # An object for each request, as there: what a plugin keeps on `self` is of that request.
        plugin = self.wrapped()
        refuse_to_wait(plugin.filter(plugin.config(self.config), Request(native_request), response))
        return response.as_answer() if response.changed() else None
