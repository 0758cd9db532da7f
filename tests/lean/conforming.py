"""Plugins of the shared conformance table: each does what its configuration says, whichever gateway asks."""

from __future__ import annotations

from typing import Any, TypedDict

from gatewright import Plugin, Response


class What(TypedDict):
    """What to do."""

    code: str


def compiled(arguments: str, code: str) -> Any:
    space: dict[str, Any] = {"Response": Response}
    exec(f"def run({arguments}):\n    {code}", space)
    return space["run"]


class Conform(Plugin):
    """With requests."""

    Config = What

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self._run = compiled("request", self.config["code"])

    def on_request(self, request: Any) -> Any:
        return self._run(request)


class ConformResponse(Plugin):
    """With responses."""

    Config = What

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self._run = compiled("request, response", self.config["code"])

    def on_response(self, request: Any, response: Any) -> Any:
        return self._run(request, response)
