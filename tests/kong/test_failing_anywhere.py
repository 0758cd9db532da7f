"""Whatever is raised, wherever in a plugin on Kong: the request is refused, and the server lives."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kong.conftest import Start
from tests.kong.peer import Exited
from tests.server.test_failing_anywhere import KINDS

WRAPPED = """
import asyncio
version, priority, Schema = "1.0.0", 1, ({"kind": {"type": "string"}},)
class Plugin:
    def __init__(self, config):
        self.kind = config["kind"]
        if WHERE == "init":
            fail(self.kind)
    def access(self, kong):
        if WHERE == "handler":
            fail(self.kind)
        if WHERE == "after":
            kong.request.get_method()
            fail(self.kind)
    def rewrite(self, kong):
        self.access(kong)
    def log(self, kong):
        self.access(kong)
"""
ASYNC = WRAPPED.replace("def access", "async def access").replace("kong.req", "await kong.req").replace(
    "        self.access(kong)", "        return self.access(kong)"
)  # fmt: skip
NATIVE = """
import msgspec
from gatewright import Plugin
class FORM(Plugin):
    class Config(msgspec.Struct):
        kind: str = ""
    def __init__(self, config=None):
        super().__init__(config)
        if WHERE == "init":
            fail(self.config.kind)
    def setup(self):
        if WHERE == "setup":
            fail(self.config.kind)
    def on_request(self, request):
        if WHERE == "handler":
            fail(self.config.kind)
        if WHERE == "after":
            request.method
            fail(self.config.kind)
"""
NAMES = ("KeyboardInterrupt", "SystemExit", "GreenletExit", "Own", "GatewayClosedError", "UntoldSystemExit")
PDK: dict[str, Any] = {"kong.request.get_method": lambda: "GET"}


def at(where: str, source: str) -> str:
    return f"WHERE = {where!r}\n{KINDS}{source}"


PLUGINS = {
    f"{form}_{where}": at(where, source)
    for form, source in (
        ("wrapped", WRAPPED),
        ("async", ASYNC),
        ("native", NATIVE.replace("class Native", "class FORM")),
    )
    for where in ("init", "handler", "after", *(("setup",) if form == "native" else ()))
}
PLUGINS["apart_handler"] = PLUGINS["async_handler"].replace("class Plugin:", "class Plugin:\n    blocking = True")
YIELDS = WRAPPED.replace('        if WHERE == "handler":\n', "        yield\n        if WHERE:\n").replace(
    "        self.access(kong)", "        return self.access(kong)"
)  # fmt: skip
PLUGINS["yields_handler"] = at("handler", YIELDS)
PLUGINS["async_yields_handler"] = at("handler", YIELDS.replace("def access", "async def access"))
PLUGINS = {
    name: source.replace("class FORM(Plugin):", f"class N(Plugin):\n    name = {name!r}")
    for name, source in PLUGINS.items()
}


@pytest.mark.parametrize(
    ("protocol", "more"),
    [("msgpack", ()), ("protobuf", ()), ("protobuf", ("-g",))],
    ids=["msgpack", "protobuf", "gevent"],
)
@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_request_is_refused_and_the_server_lives(
    serve: Start, protocol: str, plugin: str, more: tuple[str, ...]
) -> None:
    server = serve(protocol, *more, **PLUGINS)
    for kind in NAMES:
        with server.kong() as kong:
            instance = kong.start(plugin, {"kind": kind})
            for phase in ("access",) if plugin.startswith("native") else ("access", "rewrite"):
                with pytest.raises(Exited) as exited:
                    kong.event(instance, phase, PDK)
                assert exited.value.status == 500, kind
            kong.event(instance, "log", PDK)  # nobody to be refused
            kong.stop(instance)
    assert server.process.poll() is None
    assert "worker ended" not in server.log
    assert "internal error" not in server.log
