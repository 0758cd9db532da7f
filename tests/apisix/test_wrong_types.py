"""What older plugins can't mean is refused: where their runners went on, the route would be open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import StartRunner

PLUGINS = """
from apisix.plugin.runner import Plugin
from apisix.runner.http.response import Response
from apisix.runner.plugin.base import Base
from apisix.runner.plugin.core import PluginBase

async def nobody_waits():
    return False
def yields(*_):
    yield
    raise PermissionError
async def ayields(*_):
    yield
    raise PermissionError

class Old(Base):
    def __init__(self):
        super().__init__("old")
    def filter(self, request, response):
        return WAYS["0.1.0"][request.path[1:]](self, request, response)
class OldAsync(Base):
    def __init__(self):
        super().__init__("oldasync")
    async def filter(self, request, response):
        self.stop()
class New(PluginBase):
    def name(self):
        return "new"
    def filter(self, conf, request, response):
        return WAYS["0.2.0"][request.get_uri()[1:]](self, request, response)
class Guide(Plugin):
    name = "guide"
    def filter(self, request, response):
        return WAYS["guide"][request.path[1:]](self, request, response)

def answer(**what):
    def do(self, request, response):
        self.stop() if hasattr(self, "stop") else None
        for name, value in what.items():
            setattr(response, name, value)
        return False if isinstance(self, Guide) else None
    return do

WAYS = {
    "0.1.0": {
        "status": answer(status_code="403"), "body": answer(body=12), "headers": answer(headers={"a": 5}),
        "no-headers": answer(headers=None),
        "path": lambda self, request, response: (setattr(response, "path", 5), self.rewrite()) and None,
        "awaitable": lambda *_: nobody_waits(), "no-status": answer(status_code=None),
        "yields": yields, "async-yields": ayields,
    },
    "0.2.0": {
        "status": lambda self, request, response: response.set_status_code("403"),
        "low-status": lambda self, request, response: response.set_status_code(99),
        "headers": lambda self, request, response: response.set_headers([("a", "b")]),
        "body": lambda self, request, response: response.set_body({"a": 1}),
        "request-headers": lambda self, request, response: request.set_headers([("a", "b")]),
        "arguments": lambda self, request, response: request.set_args("a=b"),
        "uri": lambda self, request, response: request.set_uri(5),
        "awaitable": lambda *_: nobody_waits(), "yields": yields, "async-yields": ayields,
    },
    "guide": {
        "response": lambda self, request, response: (setattr(response, "status_code", 403), response)[1],
        "zero": lambda *_: 0, "text": lambda *_: "no", "awaitable": lambda *_: nobody_waits(),
        "status": answer(status_code="403"), "body": answer(body=12),
    },
}
"""
WAYS = {
    "old": ("status", "no-status", "body", "headers", "no-headers", "path", "awaitable", "yields", "async-yields"),
    "oldasync": ("any",),
    "new": (
        "status",
        "low-status",
        "headers",
        "body",
        "request-headers",
        "arguments",
        "uri",
        "awaitable",
        "yields",
        "async-yields",
    ),
    "guide": ("response", "zero", "text", "awaitable", "status", "body"),
}


def test_what_can_not_be_meant_is_refused(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> None:
    runner = start_runner("-p", plugin_dir(p=PLUGINS))
    for plugin, ways in WAYS.items():
        for way in ways:
            with runner.peer() as peer:
                assert peer.refuses(peer.prepare((plugin, "{}")), f"/{way}"), (plugin, way)
    assert "unknown plugin" not in runner.log
    assert "internal error" not in runner.log


def test_nothing_that_is_no_value_is_no_error(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> None:
    source = PLUGINS + "WAYS['0.2.0']['none'] = lambda self, request, response: [response.set_status_code(0), " \
        "response.set_headers({}), request.set_args(None), request.set_uri('')]\n"  # fmt: skip
    runner = start_runner("-p", plugin_dir(p=source))
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("new", "{}")), "/none") is None
