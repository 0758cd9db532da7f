"""`Base` of Apache's Python runner 0.1.0, and its adapter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec

from apisix.runner.http.request import Request
from apisix.runner.http.response import PLUGIN_ACTION_REWRITE, PLUGIN_ACTION_STOP, Response
from apisix.runner.plugin.waiting import refuse_to_wait
from gatewright import Plugin, SyncRequest
from gatewright import http as native

__all__ = ["Base"]

# An instance serves many calls at once, so what stop() and rewrite() say belongs to the call, not to the instance.
_action: ContextVar[int] = ContextVar("action", default=PLUGIN_ACTION_REWRITE)


class Base:
    """A 0.1.0 plugin: fill in `response` in `filter(request, response)`, then `stop()` or `rewrite()` (the default)."""

    def __init__(self, name: str = "") -> None:
        self.name = name or type(self).__name__
        self.config: Any = {}

    @property
    def action(self) -> int:
        """What this call's plugin asked for so far: `PLUGIN_ACTION_STOP` or `PLUGIN_ACTION_REWRITE`."""
        return _action.get()

    def stop(self) -> None:
        """Answer the client with `response`."""
        _action.set(PLUGIN_ACTION_STOP)

    def rewrite(self) -> None:
        """Go on with the request as `response` says."""
        _action.set(PLUGIN_ACTION_REWRITE)

    def filter(self, request: Request, response: Response) -> Any:
        """The plugin's work."""
        raise NotImplementedError(f"{type(self).__name__} must implement filter(request, response)")

    @classmethod
    def __gatewright_plugin__(cls) -> Sequence[type[Plugin]]:
        if cls is Base:
            return ()
        # A 0.1.0 route names the plugin's file; the class ought to be called alike, but the guide's own is not.
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        names = dict.fromkeys([*([Path(file).stem.lower()] if file else []), cls.__name__.lower()])
        return [type(cls.__name__, (_Adapter,), {"name": name, "wrapped": cls}) for name in names]


class _Adapter(Plugin):
    abstract = True
    wrapped: type[Base]

    def __init__(self, config: object = None) -> None:
        super().__init__({})
        self.inner: Base = self.wrapped()  # type: ignore[call-arg, unused-ignore]  # subclasses name themselves
        self.inner.config = _as_dict(config)

    def on_request(self, native_request: SyncRequest) -> native.Response | None:
        request, response = Request(native_request), Response()
        before = dict(request.headers), dict(request.args)
        _action.set(PLUGIN_ACTION_REWRITE)
        refuse_to_wait(self.inner.filter(request, response))
        if _action.get() == PLUGIN_ACTION_STOP:
            return response.as_answer()
        # 0.1.0 plugins hand back all they got: what did not change is left as it came.
        _set_changed(native_request.headers, before[0], response.headers)
        _set_changed(native_request.query, before[1], response.args)
        if response.path and response.path != native_request.path:
            native_request.path = response.path
        return None


def _set_changed(target: Any, before: dict[str, str], after: dict[str, str]) -> None:
    for name, value in after.items():
        if before.get(name) != value:
            target[name] = value


def _as_dict(config: object) -> Any:
    if not isinstance(config, str):
        return config or {}
    try:
        parsed = msgspec.json.decode(config.encode("utf-8", "surrogateescape"))
    except msgspec.DecodeError:
        return {}  # as 0.1.0: only a JSON object is a configuration
    return parsed if isinstance(parsed, dict) else {}
