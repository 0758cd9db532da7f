"""APISIX's Admin API on the development gateway, as far as guides use it: routes and the like, kept in memory.

It is there only where a key was asked for. Every request has to show it in X-API-KEY, which no page of another site can
send without being asked first, and nobody answers that.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

from gatewright.dev.apisix.routes import Routes, build_routes
from gatewright.dev.front import Handler
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.dev.target import Upstream
from gatewright.errors import ConfigError

__all__ = ["PREFIX", "AdminApi"]

PREFIX: Final = "/apisix/admin/"
_KINDS: Final = (
    "routes", "services", "upstreams", "consumers", "consumer_groups", "global_rules", "plugin_configs"
)  # fmt: skip
_METHODS: Final = ("GET", "PUT", "POST", "PATCH", "DELETE")


class _RefusedError(Exception):
    def __init__(self, status: int, words: Mapping[str, Any]) -> None:
        super().__init__(str(words))
        self.status, self.words = status, words


class AdminApi:
    """What was configured through it."""

    def __init__(
        self, key: str, upstream: Upstream, content: Mapping[str, Any] | None = None, *, ours: Container[str] = ()
    ) -> None:
        """Begin with what a route file holds, or with nothing.

        Args:
            key: what X-API-KEY has to be.
            upstream: where requests go whose route doesn't say.
            content: of a route file.
            ours: names of the runner's plugins, which are no plugins of APISIX's.
        """
        self._key = key
        self._upstream = upstream
        self._ours = ours
        self._kept: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in _KINDS}
        self._version = 0
        self.on_change: Callable[[], None] = lambda: None
        for kind in _KINDS:
            for number, item in enumerate((content or {}).get(kind) or [], 1):
                own = str(item.get("username") if kind == "consumers" else item.get("id", number))
                self._kept[kind][own] = {**item, **({} if kind == "consumers" else {"id": own})}

    def routes(self) -> Routes:
        """All of it, as routes.

        Raises:
            ConfigError: it can't be done here.
        """
        content = {kind: list(items.values()) for kind, items in self._kept.items()}
        return build_routes(
            content, source="Admin API", version=str(self._version), default_upstream=self._upstream, ours=self._ours
        )  # fmt: skip

    def before(self, handler: Handler) -> Handler:
        """A gateway's handler, with the Admin API at its own paths."""

        async def handle(request: ClientRequest) -> Answer:
            if request.target.startswith(PREFIX):
                return await self.handle(request)
            return await handler(request)

        return handle

    async def handle(self, request: ClientRequest) -> Answer:
        """Answer one request."""
        try:
            status, words = self._answer(request)
        except _RefusedError as refused:
            status, words = refused.status, refused.words
        body = json.dumps(words).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        return Answer(status, headers, body, framing="content-length")

    def _answer(self, request: ClientRequest) -> tuple[int, Mapping[str, Any]]:
        shown = next((value for name, value in request.headers if name.lower() == "x-api-key"), "")
        if not hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), self._key.encode()):
            raise _RefusedError(401, {"error_msg": "failed to check token", "description": "wrong apikey"})
        path = request.target.partition("?")[0].removeprefix(PREFIX).strip("/")
        kind, _, own = path.partition("/")
        if kind not in _KINDS or "/" in own:
            raise _RefusedError(404, {"error_msg": f"the development gateway has {', '.join(_KINDS)}, not {path!r}"})
        if request.method not in _METHODS:
            raise _RefusedError(405, {"error_msg": f"{request.method} is not allowed here"})
        kept = self._kept[kind]
        if request.method == "GET":
            if not own:
                return 200, {"total": len(kept), "list": [self._shown(kind, name) for name in kept]}
            self._must_be_there(kind, own)
            return 200, self._shown(kind, own)
        if request.method == "DELETE":
            self._must_be_there(kind, own)
            self._change(kind, own, None)
            return 200, {"deleted": "1", "key": f"/apisix/{kind}/{own}"}
        item = self._item(request)
        if request.method == "PATCH":
            self._must_be_there(kind, own)
            item = _merged(kept[own], item)
        elif kind == "consumers":
            own = own or str(item.get("username", ""))
        elif request.method == "POST" and not own:
            own = str(item.get("id") or f"{time.time_ns():020d}")
        if not own:
            raise _RefusedError(400, {"error_msg": "missing id"})
        is_new = own not in kept
        now = int(time.time())
        item = {"create_time": now, **item, "update_time": now, **({} if kind == "consumers" else {"id": own})}
        self._change(kind, own, item)
        return 201 if is_new else 200, self._shown(kind, own)

    def _shown(self, kind: str, own: str) -> dict[str, Any]:
        return {"key": f"/apisix/{kind}/{own}", "value": self._kept[kind][own]}

    def _must_be_there(self, kind: str, own: str) -> None:
        if own not in self._kept[kind]:
            raise _RefusedError(404, {"message": "Key not found"})

    @staticmethod
    def _item(request: ClientRequest) -> dict[str, Any]:
        try:
            item = json.loads(request.body)
        except ValueError as error:
            raise _RefusedError(400, {"error_msg": f"invalid request body: {error}"}) from None
        if not isinstance(item, dict):
            raise _RefusedError(400, {"error_msg": "invalid request body: expected an object"})
        return item

    def _change(self, kind: str, own: str, item: dict[str, Any] | None) -> None:
        """Keep something, or `None` to drop it, unless the whole would not be valid any more."""
        before = self._kept[kind]
        self._kept[kind] = {name: value for name, value in before.items() if name != own}
        if item is not None:
            self._kept[kind] = {**before, own: item}
        self._version += 1
        try:
            self.routes()
        except ConfigError as error:
            self._kept[kind] = before
            raise _RefusedError(400, {"error_msg": str(error)}) from None
        self.on_change()


def _merged(old: Any, new: Any) -> Any:
    """As PATCH merges: objects field by field, `null` takes away, all else is replaced."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    merged = dict(old)
    for name, value in new.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged
