"""The files that `gatewright new` makes; `@NAME@`, `@MODULE@` and `@CLASS@` stand for the plugin's names."""

from __future__ import annotations

from typing import Final

__all__ = ["KONG_FILES", "NATIVE_FILES"]

_PLUGIN: Final = '''"""@NAME@: tells the upstream who asks, and turns strangers away."""

from __future__ import annotations

import msgspec

from gatewright import Plugin, Request, Response, override


class @CLASS@Config(msgspec.Struct):
    """What a route may say."""

    header: str = "x-user"
    """The header that names the user."""
    greeting: str = "hello"


class @CLASS@(Plugin[@CLASS@Config]):
    """Routes call it `@NAME@`."""

    @override
    async def on_request(self, request: Request) -> Response | None:
        """Before the upstream is asked: change the request, or answer the client with a Response."""
        user = request.headers.get(self.config.header)
        if user is None:
            return Response(401, body=f"who are you? say so in {self.config.header}\\n")
        request.headers["x-greeting"] = f"{self.config.greeting} {user}"
        return None

    @override
    async def on_response(self, request: Request, response: Response) -> None:
        """With the upstream's answer at hand."""
        response.headers["x-seen-by"] = self.name
'''

_TEST: Final = '''"""Tests of @NAME@; run them with `pytest`."""

from pathlib import Path

from gatewright.testing import TestClient

PLUGIN = Path(__file__).parent.parent / "plugins" / "@MODULE@.py"


def test_the_upstream_is_told_who_asks():
    answer = TestClient(PLUGIN, config={"greeting": "hi"}).get("/x", headers={"x-user": "ada"})
    assert answer.status == 200
    assert answer.upstream_request.headers["x-greeting"] == "hi ada"
    assert answer.headers["x-seen-by"] == "@NAME@"


def test_strangers_are_turned_away():
    answer = TestClient(PLUGIN).get("/x")
    assert answer.status == 401
    assert not answer.upstream_requests


def test_it_is_the_same_on_kong():
    answer = TestClient(PLUGIN, gateway="kong").get("/x", headers={"x-user": "ada"})
    assert answer.upstream_request.headers["x-greeting"] == "hello ada"
'''

_SETTINGS: Final = """# Settings of the runner: `gatewright config` shows all, and where each comes from.
plugins:
  - plugins
plugin_settings:
  @NAME@:
    timeout: 5      # seconds that a handler may take
    on_error: fail  # a failure refuses the request; skip: it goes on as if the plugin were not there
"""

_README: Final = """# @NAME@

    gatewright dev                 # runs it behind a development gateway, and reloads what you edit
    gatewright check               # does it load, are its handlers right, does anything block?
    gatewright call @NAME@ /x -H 'x-user: ada'      # one request through it, and what it changed
    pytest                         # its tests

On a route of APISIX (`gatewright schema @NAME@ --as route`) or in Kong (`gatewright kong conf -d plugins`).
"""

_KONG_PLUGIN: Final = '''"""@NAME@, in kong-pdk's form: tells the upstream who asks, and turns strangers away."""

Schema = (
    {"header": {"type": "string", "default": "x-user"}},
    {"greeting": {"type": "string", "default": "hello"}},
)
version = "0.1.0"
priority = 100


class Plugin:
    """One for each configuration."""

    def __init__(self, config):
        """Take the configuration, checked by Kong and with its defaults in place."""
        self.config = config

    def access(self, kong):
        """Before the service is asked."""
        user, _ = kong.request.get_header(self.config["header"])
        if user is None:
            kong.response.exit(401, '{"message": "who are you?"}', {"content-type": "application/json"})
        kong.service.request.set_header("x-greeting", f"{self.config['greeting']} {user}")

    def response(self, kong):
        """With the service's answer at hand."""
        kong.response.set_header("x-seen-by", "@NAME@")
'''

_KONG_TEST: Final = '''"""Tests of @NAME@; run them with `pytest`."""

from pathlib import Path

from gatewright.testing import TestClient

PLUGIN = Path(__file__).parent.parent / "plugins" / "@MODULE@.py"


def client(**config):
    return TestClient(PLUGIN, config=config, gateway="kong", lua_style=True)


def test_the_service_is_told_who_asks():
    answer = client(greeting="hi").get("/x", headers={"x-user": "ada"})
    assert answer.status == 200
    assert answer.upstream_request.headers["x-greeting"] == "hi ada"
    assert answer.headers["x-seen-by"] == "@NAME@"


def test_strangers_are_turned_away():
    answer = client().get("/x")
    assert answer.status == 401
    assert not answer.upstream_requests
'''

_KONG_SETTINGS: Final = """# Where `gatewright dev`, `check` and the like look; Kong's plugin server is told with -d.
plugins:
  - plugins
"""

_KONG_README: Final = """# @NAME@

    gatewright dev --gateway kong    # runs it behind a development gateway, and reloads what you edit
    gatewright check                 # does it load, would Kong start with its Schema?
    gatewright call @NAME@ /x -H 'x-user: ada'      # one request through it, and what it changed
    pytest                           # its tests
    gatewright kong conf -d plugins  # the lines for kong.conf
"""

NATIVE_FILES: Final = {
    "plugins/@MODULE@.py": _PLUGIN,
    "tests/test_@MODULE@.py": _TEST,
    "gatewright.yaml": _SETTINGS,
    "README.md": _README,
}
KONG_FILES: Final = {
    "plugins/@MODULE@.py": _KONG_PLUGIN,
    "tests/test_@NAME@.py": _KONG_TEST,
    "gatewright.yaml": _KONG_SETTINGS,
    "README.md": _KONG_README,
}
