"""On APISIX, `on_log` tells of requests that a plugin answered; of others the runner never learns the end."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from gatewright import NotAvailableError, Plugin, Response
from gatewright.testing import TestClient


class Notes(Plugin):
    """Notes how requests end."""

    ends: ClassVar[list[tuple[Any, ...]]] = []

    async def on_request(self, request: Any) -> None:
        request.ctx["began"] = True

    def on_log(self, request: Any, response: Any) -> None:
        with pytest.raises(NotAvailableError, match="has its answer"):
            request.var("uri")
        with pytest.raises(NotAvailableError, match="has its answer"):
            request.body()
        end = request.method, request.path, request.query["a"], request.headers["x-a"]
        self.ends.append((*end, response.status, response.headers["x-why"], dict(request.ctx)))


class Refuses(Plugin):
    """Refuses what is under `/refused`."""

    async def on_request(self, request: Any) -> Response | None:
        return Response(403, {"x-why": "so"}, b"no") if request.path.startswith("/refused") else None


class Breaks(Plugin):
    """Fails when it's told."""

    async def on_log(self, request: Any, response: Any) -> None:
        raise ValueError("broken on_log")

    async def on_request(self, request: Any) -> None:
        pass


def test_whoever_wants_to_know_is_told_of_answers_of_plugins() -> None:
    Notes.ends.clear()
    with TestClient([Breaks, Notes, Refuses], upstream=lambda _: Response(200, {"x-why": "upstream"})) as client:
        for number in range(3):
            assert client.get(f"/refused/{number}?a={number}", headers={"x-a": "1"}).status == 403
        assert client.get("/?a=1", headers={"x-a": "1"}).status == 200
        client.get("/refused/3?a=3", headers={"x-a": "1"})
    assert Notes.ends == [
        ("GET", f"/refused/{number}", str(number), "1", 403, "so", {"began": True}) for number in range(4)
    ]
