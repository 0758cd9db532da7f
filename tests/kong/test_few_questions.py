"""Native plugins on Kong cost what they ask for: nothing is asked that nobody looks at, and nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.errors import ProtocolError
from gatewright.gateways.kong.answers import fold_headers
from gatewright.gateways.kong.messages import STRUCT
from gatewright.gateways.kong.pdk import METHODS
from tests.kong.conftest import Start, wait_until
from tests.kong.peer import Exited
from tests.kong.test_native_on_kong import REQUEST, RESPONSE, both

PLUGINS = """
import asyncio
from gatewright import Plugin

class Writes(Plugin):
    {async_}def on_request(self, request):
        request.headers["x-runner"] = "python"
    {async_}def on_response(self, request, response):
        response.headers["x-runner"] = "python"

class Reads(Plugin):
    {async_}def on_request(self, request):
        seen = request.headers.get("x-user"), "x-none" in request.headers, request.headers.get_all("accept")
        request.headers["x-seen"] = repr((seen, request.method))
    {async_}def on_response(self, request, response):
        response.headers["x-seen"] = repr((response.status, response.headers["content-type"], request.path))

class Waits(Plugin):
    {async_}def on_request(self, request):
        seen = [request.path]
        {wait}
        seen += [request.method, request.client_ip]
        request.headers["x-seen"] = repr(seen)
"""
TASKS = """
import asyncio
from gatewright import Plugin

class Tasks(Plugin):
    async def on_request(self, request):
        async def look():
            return request.method, request.headers["x-user"]
        async def look_elsewhere():
            return request.query["n"], request.client_ip, request.path
        seen = await asyncio.gather(look(), look_elsewhere())
        request.headers["x-seen"] = repr(seen)
"""
HIDDEN = TASKS.replace("class Tasks", "class Hidden").replace(
    "await asyncio.gather(look(), look_elsewhere())",
    "[await getattr(asyncio, 'create' + '_task')(each()) for each in (look, look_elsewhere)]",
)
KINDS = {
    "def": PLUGINS.format(async_="", wait="pass"),
    "async def": PLUGINS.format(async_="async ", wait="await asyncio.sleep(0.01)"),
    "in threads": PLUGINS.format(async_="", wait="pass").replace("(Plugin):", "(Plugin):\n    blocking = True"),
}
kinds = pytest.mark.parametrize("kind", KINDS)
HEADERS = ("kong.request.get_headers", [1000])


def asked(serve: Start, protocol: str, plugins: Mapping[str, str], name: str, phase: str = "access") -> list[Any]:
    server = serve(protocol, **plugins)
    with server.kong() as kong:
        instance = kong.start(name, {})
        kong.calls.clear()
        kong.event(instance, phase, REQUEST if phase == "access" else RESPONSE)
        return list(kong.calls)


@both
@kinds
def test_a_change_asks_for_nothing(serve: Start, protocol: str, kind: str) -> None:
    plugins = {"few": KINDS[kind]}
    change = ["x-runner", "python"]  # alone, it's no table: that costs Kong more to read
    assert asked(serve, protocol, plugins, "writes") == [("kong.service.request.set_header", change)]
    assert asked(serve, protocol, plugins, "writes", "response") == [("kong.response.set_header", change)]


SEVERAL = """
from gatewright import Plugin

class Several(Plugin):
    def on_request(self, request):
        request.path = "/new"
        request.headers["x-a"] = "1"
        del request.headers["x-user"]
        request.set_body(b"body")
        request.ctx["seen"] = 1
"""
LAST = [
    ("kong.service.request.set_path", ["/new"]),
    ("kong.service.request.set_header", ["x-a", "1"]),
    ("kong.service.request.clear_header", ["x-user"]),
    ("kong.service.request.set_raw_body", ["body"]),
    ("kong.ctx.shared.set", ["gatewright.ctx", "koGkc2VlbgGA"]),
]


@both
def test_all_changes_are_said_after_the_handler_in_order(serve: Start, protocol: str) -> None:
    calls = asked(serve, protocol, {"several": SEVERAL}, "several")
    said = [(m, [a.decode() if isinstance(a, bytes) else a for a in args]) for m, args in calls if ".get" not in m]
    assert said == LAST


def refuses(*_: Any) -> Exception:
    return RuntimeError("that can't be")


@pytest.mark.parametrize("failing", ["set_path", "set_raw_body"])
def test_a_change_that_kong_refuses_refuses_the_request(serve: Start, failing: str) -> None:
    server = serve("msgpack", several=SEVERAL)
    with server.kong() as kong:
        instance = kong.start("several", {})
        kong.calls.clear()
        with pytest.raises(Exited) as exited:
            kong.event(instance, "access", {**REQUEST, f"kong.service.request.{failing}": refuses})
        assert exited.value.status == 500
        assert kong.calls[-2][0].endswith(failing), "and nothing more is said"
        assert "that can't be" in server.log


def test_a_server_that_is_to_end_waits_for_changes_to_be_said(start: Start) -> None:
    server = start("msgpack", several=SEVERAL)
    with server.kong() as kong:
        instance = kong.start("several", {})
        kong.calls.clear()

        def set_path(*_: Any) -> None:
            server.process.terminate()
            wait_until(lambda: not server.path.exists())

        kong.event(instance, "access", {**REQUEST, "kong.service.request.set_path": set_path})
        assert [method for method, _ in kong.calls if ".get" not in method] == [method for method, _ in LAST]


@both
@kinds
def test_what_is_looked_at_is_asked_for_once(serve: Start, protocol: str, kind: str) -> None:
    plugins = {"few": KINDS[kind]}
    seen = repr((("ada", False, ["a", "b"]), "POST"))
    assert asked(serve, protocol, plugins, "reads") == [
        HEADERS,
        ("kong.request.get_method", []),
        ("kong.service.request.set_header", ["x-seen", seen]),
    ]
    seen = repr((200, "text/plain", "/a b"))
    assert asked(serve, protocol, plugins, "reads", "response") == [
        ("kong.response.get_status", []),
        ("kong.response.get_headers", [1000]),
        ("kong.request.get_path", []),
        ("kong.response.set_header", ["x-seen", seen]),
    ]


@both
@kinds
def test_it_can_be_looked_at_after_waiting_for_something_else(serve: Start, protocol: str, kind: str) -> None:
    seen = repr(["/a b", "POST", "192.0.2.7"])
    calls = asked(serve, protocol, {"few": KINDS[kind]}, "waits")
    assert calls[-1] == ("kong.service.request.set_header", ["x-seen", seen])
    assert [method.rpartition(".")[2] for method, _ in calls[:-1]] == ["get_path", "get_method", "get_ip"]


SEEN = repr([("POST", "ada"), ("1", "192.0.2.7", "/a b")])


@both
def test_tasks_of_a_plugins_own_can_look_at_the_request(serve: Start, protocol: str) -> None:
    calls = asked(serve, protocol, {"tasks": TASKS}, "tasks")
    assert calls[-1] == ("kong.service.request.set_header", ["x-seen", SEEN])


def test_tasks_that_the_source_does_not_show_are_refused_once(serve: Start) -> None:
    server = serve("protobuf", hidden=HIDDEN)
    with server.kong() as kong:
        instance = kong.start("hidden", {})
        with pytest.raises(Exited) as exited:
            kong.event(instance, "access", REQUEST)
        assert exited.value.status == 500
        assert "look at it in the handler" in server.log
        kong.event(instance, "access", REQUEST)
        assert kong.calls[-1] == ("kong.service.request.set_header", ["x-seen", SEEN])


@both
def test_in_geventized_servers_async_handlers_see_all(start: Start, protocol: str) -> None:
    pytest.importorskip("gevent")
    looks = "request.ctx['a'] = 1; request.headers['x-seen'] = repr((request.method, dict(request.ctx)))"
    handler = f"    async def on_request(self, request):\n        {looks}"
    source = f"from gatewright import Plugin\nclass Looks(Plugin):\n{handler}"
    server = start(protocol, "-g", looks=source)
    shared: dict[str, Any] = {}
    pdk = {**REQUEST, "kong.ctx.shared.get": shared.get, "kong.ctx.shared.set": lambda k, v: shared.update({k: v})}
    with server.kong() as kong:
        kong.event(kong.start("looks", {}), "access", pdk)
        seen = repr(("POST", {"a": 1}))
        assert ("kong.service.request.set_header", ["x-seen", seen]) in kong.calls
    assert shared


texts = st.text(max_size=200)
values = st.one_of(texts, st.booleans(), st.lists(texts, max_size=3))


@given(st.dictionaries(texts, values, max_size=6), st.data())
@settings(max_examples=300, deadline=None)
@pytest.mark.long
def test_headers_are_read_quickly_as_the_tables_read_them(headers: dict[str, Any], data: st.DataObject) -> None:
    decode = METHODS["kong.request.get_headers"].decode
    raw = STRUCT.encode({"fields": headers})
    assert decode(raw) == fold_headers(STRUCT.decode(raw).get("fields", {}))
    at = data.draw(st.integers(0, len(raw)))
    cut = bytearray(raw[:at])
    if cut:
        cut[data.draw(st.integers(0, at - 1))] = data.draw(st.integers(0, 255))
    try:
        expected = fold_headers(STRUCT.decode(bytes(cut)).get("fields", {}))
    except ProtocolError:
        with pytest.raises(ProtocolError):
            decode(bytes(cut))
    else:
        assert decode(bytes(cut)) == expected
