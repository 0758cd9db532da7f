"""Plugins of the native API on Kong, unchanged, over both protocols."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec
import pytest

from gatewright import Response
from gatewright.config import config_schema
from gatewright.gateways.kong.dump import kong_fields, plugin_info
from gatewright.plugin import Plugin
from gatewright.runtime.kong_schema import example, faults, filled
from gatewright.testing import TestClient
from tests.kong.conftest import Start
from tests.kong.peer import Exited

NATIVE = """
import msgspec
from gatewright import Plugin, Response

class Greet(Plugin):
    version = "2.0.1"
    priority = 900
    class Config(msgspec.Struct):
        greeting: str = "hello"
    {async_}def on_request(self, request):
        if "x-user" not in request.headers:
            return Response(401, {{"x-why": "unknown"}}, body="who are you?")
        assert request.method == "POST"
        assert request.path == "/a b"
        assert request.client_ip == "192.0.2.7"
        assert request.query.get_all("n") == ["1", "2"]
        assert request.headers.get_all("accept") == ["a", "b"]
        body = {await_}request.body()
        request.headers["x-greeting"] = self.config.greeting + " " + body.decode()
        request.headers.add("accept", "c")
        del request.headers["x-secret"]
        request.query["n"] = "3"
        request.path = "/new path"
        request.set_body(b"new")
        request.response_headers["x-seen"] = "1"
    {async_}def on_response(self, request, response):
        assert response.status == 200
        response.headers["x-served"] = ({await_}request.var("host")) or ""
        del response.headers["x-powered-by"]
        if response.headers["content-type"] == "text/plain":
            response.set_body(({await_}response.body()).upper())
            response.status = 201
    def on_log(self, kong):
        kong.log.info("logged", kong.request.get_header("x-user"))

class Fails(Plugin):
    {async_}def on_request(self, request):
        raise RuntimeError("as meant")
class Skips(Fails):
    on_error = "skip"
"""

LIMITED = NATIVE.replace("    priority = 900\n", "    priority = 900\n    max_concurrent = 5\n")
both = pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])
ASYNC = {"async_": "async ", "await_": "await "}
SOURCES = [NATIVE.format(async_="", await_=""), NATIVE.format(**ASYNC), LIMITED.format(**ASYNC)]
kinds = pytest.mark.parametrize("source", SOURCES, ids=["def", "async def", "async def, max_concurrent"])

REQUEST: dict[str, Any] = {
    "kong.request.get_method": lambda: "POST",
    "kong.request.get_path": lambda: "/a%20b",
    "kong.request.get_raw_query": lambda: "n=1&flag&n=2",
    "kong.client.get_ip": lambda: "192.0.2.7",
    "kong.request.get_headers": lambda _: {"x-user": ["ada"], "accept": ["a", "b"], "x-secret": ["s"]},
    "kong.request.get_header": {"x-user": "ada"}.get,
    "kong.request.get_raw_body": lambda: b"body",
    "kong.nginx.get_var": lambda name: f"the {name}",
}
RESPONSE = {
    **REQUEST,
    "kong.response.get_status": lambda: 200,
    "kong.response.get_headers": lambda _: {"content-type": ["text/plain"], "x-powered-by": ["php"]},
    "kong.service.response.get_raw_body": lambda: b"answer",
}


@both
@kinds
def test_changes_are_written_back_in_few_calls(serve: Start, protocol: str, source: str) -> None:
    server = serve(protocol, native=source)
    with server.kong() as kong:
        added = {"__seq__": 5, "__key__": "k", "__plugin_id": "p", "__ws_id": "w", "route_id": "r", "service_id": "s",
                 "consumer_id": "c", "plugin_instance_name": "n"}  # fmt: skip
        instance = kong.start("greet", {"greeting": "hi", **added})
        kong.event(instance, "access", REQUEST)
    changes = [(method, args) for method, args in kong.calls if ".get_" not in method]
    headers = {"x-greeting": ["hi body"], "accept": ["a", "b", "c"]}
    assert changes == [
        ("kong.service.request.set_path", ["/new%20path"]),
        ("kong.service.request.set_raw_query", ["n=3&flag"]),
        ("kong.service.request.set_headers", [headers]),
        ("kong.service.request.clear_header", ["x-secret"]),
        ("kong.service.request.set_raw_body", [b"new"]),
        ("kong.response.set_header", ["x-seen", "1"]),
    ]
    asked = [method for method, _ in kong.calls if ".get_" in method]
    assert len(asked) == len(set(asked)), "each fact is asked for once"


@both
@kinds
def test_an_answer_of_the_plugins_own(serve: Start, protocol: str, source: str) -> None:
    server = serve(protocol, native=source)
    with server.kong() as kong:
        instance = kong.start("greet", {})
        with pytest.raises(Exited) as exited:
            kong.event(instance, "access", {**REQUEST, "kong.request.get_headers": lambda _: {"accept": "*/*"}})
    assert exited.value.status == 401
    assert exited.value.body == b"who are you?"
    assert exited.value.headers == {"x-why": ["unknown"], "content-type": ["text/plain; charset=utf-8"]}


@both
@kinds
def test_the_response_phase(serve: Start, protocol: str, source: str) -> None:
    server = serve(protocol, native=source)
    with server.kong() as kong:
        instance = kong.start("greet", {})
        headers = {"content-type": ["a/b"], "x-powered-by": ["php"]}
        kong.event(instance, "response", {**RESPONSE, "kong.response.get_headers": lambda _: headers})
        assert [call for call in kong.calls if ".get_" not in call[0]] == [
            ("kong.response.set_header", ["x-served", "the host"]),
            ("kong.response.clear_header", ["x-powered-by"]),
        ]
        with pytest.raises(Exited) as exited:
            kong.event(instance, "response", RESPONSE)
    assert (exited.value.status, exited.value.body) == (201, b"ANSWER")
    assert exited.value.headers == {"x-served": ["the host"]}
    assert ("kong.response.clear_header", ["x-powered-by"]) in kong.calls


@both
@kinds
def test_other_phases_and_failures(serve: Start, protocol: str, source: str) -> None:
    server = serve(protocol, native=source)
    with server.kong() as kong:
        kong.event(kong.start("greet", {}), "log", REQUEST)
        assert kong.calls[-1] == ("kong.log.info", ["logged", "ada"])
        with pytest.raises(Exited) as exited:
            kong.event(kong.start("fails", {}), "access", REQUEST)
        assert exited.value.status == 500
        kong.event(kong.start("skips", {}), "access", REQUEST)
        with pytest.raises(Exited):
            kong.event(kong.start("greet", {"greeting": 5}), "access", REQUEST)
    assert "Expected `str`, got `int`" in server.log


class Limit(msgspec.Struct):
    rate: Annotated[int, msgspec.Meta(ge=1, le=100)]
    window: float = 60.0


class Config(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, description="whose")]
    limits: list[Limit]
    mode: Literal["soft", "hard"] = "soft"
    on: bool = True
    labels: dict[str, int] = {}
    note: str | None = None


@pytest.mark.parametrize(
    ("kind", "bounds", "there"),
    [
        pytest.param(float, {"gt": 0, "le": 1}, {"gt": 0, "between": [0, 1]}, id="number-above-to"),
        pytest.param(float, {"ge": 0, "lt": 1}, {"between": [0, 1]}, id="number-from-below"),
        pytest.param(float, {"gt": 0.5}, {"gt": 0.5}, id="number-above"),
        pytest.param(float, {"ge": 0.5}, {}, id="number-from"),
        pytest.param(float, {"le": 1}, {}, id="number-to"),
        pytest.param(int, {"gt": 0, "lt": 10}, {"between": [1, 9]}, id="integer-above-below"),
        pytest.param(int, {"ge": 1}, {"gt": 0}, id="integer-from"),
        pytest.param(int, {"gt": 1}, {"gt": 1}, id="integer-above"),
        pytest.param(int, {"lt": 1}, {}, id="integer-below"),
    ],
)
def test_bounds_of_a_model_are_kongs(kind: type, bounds: dict[str, Any], there: dict[str, Any]) -> None:
    model = msgspec.defstruct("Model", [("x", Annotated[kind, msgspec.Meta(**bounds)])])
    fields = kong_fields(config_schema(model))
    (field,) = (each["x"] for each in fields)
    assert {name: field[name] for name in ("gt", "between") if name in field} == there
    assert not faults(fields)
    made = example(fields)
    assert filled(fields, made, "x") == made
    if there:
        msgspec.convert(made, model, strict=True)


def test_a_configuration_model_becomes_a_kong_schema() -> None:
    assert kong_fields(config_schema(Config)) == [
        {"name": {"type": "string", "len_min": 1, "required": True}},
        {
            "limits": {
                "type": "array",
                "elements": {
                    "type": "record",
                    "fields": [
                        {"rate": {"type": "integer", "between": [1, 100], "required": True}},
                        {"window": {"type": "number", "default": 60.0}},
                    ],
                },
                "required": True,
            }
        },
        {"mode": {"type": "string", "one_of": ["hard", "soft"], "len_min": 0, "default": "soft"}},
        {"on": {"type": "boolean", "default": True}},
        {"labels": {"type": "map", "keys": {"type": "string", "len_min": 0}, "values": {"type": "integer"}}},
        {"note": {"type": "string", "len_min": 0}},
    ]


def test_phases_of_a_native_plugin() -> None:
    class Both(Plugin):
        def on_request(self, request: object) -> None: ...
        def on_response(self, request: object, response: object) -> None: ...
        def on_certificate(self, kong: object) -> None: ...

    assert plugin_info(Both)["Phases"] == ["certificate", "access", "response"]


LATE = """
import asyncio
from gatewright import Plugin, Response
class Late(Plugin):
    timeout = 0.2
    def on_request(self, request):
        request.headers.get("x")
class LateSkips(Late):
    on_error = "skip"
class Answers(Plugin):
    async def on_rewrite(self, kong):
        await asyncio.sleep(0.01)
        try:
            await kong.response.exit(403, b"no")
        except Exception:
            await kong.log.err("not an error")
class Swallows(Plugin):
    def on_rewrite(self, kong):
        try:
            kong.response.exit(403, b"no")
        except BaseException:
            pass
"""


def slow_headers(_: int) -> dict[str, list[str]]:
    time.sleep(0.6)
    return {"x": ["1"]}


@both
def test_a_deadline_while_kong_is_at_work(serve: Start, protocol: str) -> None:
    server = serve(protocol, late=LATE)
    pdk = {**REQUEST, "kong.request.get_headers": slow_headers}
    with server.kong() as kong:
        for _ in range(2):
            with pytest.raises(Exited) as exited:
                kong.event(kong.start("late", {}), "access", pdk)
            assert exited.value.status == 500
        kong.event(kong.start("late-skips", {}), "access", pdk)
    assert "missed its deadline" in server.log


@both
@pytest.mark.parametrize("name", ["answers", "swallows"])
def test_an_exit_is_final(serve: Start, protocol: str, name: str) -> None:
    server = serve(protocol, late=LATE)
    with server.kong() as kong:
        instance = kong.start(name, {})
        for _ in range(3):
            with pytest.raises(Exited) as exited:
                kong.event(instance, "rewrite", {})
            assert exited.value.status == 403
    assert [method for method, _ in kong.calls] == ["kong.response.exit"] * 3


def test_a_step_of_an_event_that_is_gone_does_not_let_the_request_pass(serve: Start) -> None:
    server = serve("msgpack", late=LATE)
    with server.kong(connections=1) as kong:
        instance = kong.start("answers", {})
        step = kong.rpc("plugin.HandleEvent", {"InstanceId": instance, "EventName": "rewrite"})
        for _ in range(2):
            step = kong.rpc("plugin.Step", {"EventId": step["EventId"]})
            assert (step["Data"]["Method"], step["Data"]["Args"][0]) == ("kong.response.exit", 500)


CTX = """
import asyncio
from gatewright import Plugin

class First(Plugin):
    {async_}def on_request(self, request):
        {sleep}
        request.ctx["by"] = ["first", b"\\xff"]
    {async_}def on_response(self, request, response):
        {sleep}
        response.headers["x-ctx"] = repr(dict(request.ctx))

class Second(Plugin):
    {async_}def on_request(self, request):
        {sleep}
        request.ctx["by"].append("second")
"""
WAYS = [
    CTX.format(async_="", sleep="pass"),
    CTX.format(async_="async ", sleep="pass"),
    CTX.format(async_="async ", sleep="await asyncio.sleep(0.01)"),
    CTX.format(async_="", sleep="pass").replace("(Plugin):", "(Plugin):\n    blocking = True"),
]


@both
@pytest.mark.parametrize("source", WAYS, ids=["def", "async def", "async def that waits", "in a thread"])
def test_what_is_put_into_ctx_reaches_later_plugins_and_phases(start: Start, protocol: str, source: str) -> None:
    server = start(protocol, native=source)
    shared: dict[str, Any] = {}
    answers: dict[str, Any] = {
        **RESPONSE,
        "kong.ctx.shared.get": shared.get,
        "kong.ctx.shared.set": lambda name, value: shared.update({name: value}),
    }
    with server.kong() as kong:
        for name, phase in (("first", "access"), ("second", "access"), ("first", "response")):
            kong.event(kong.start(name, {}), phase, answers)
        changes = [call for call in kong.calls if ".get" not in call[0]]
    assert changes[-1] == ("kong.response.set_header", ["x-ctx", repr({"by": ["first", b"\xff", "second"]})])
    assert list(shared) == ["gatewright.ctx"]


HIDDEN = """
from gatewright import Plugin

class Looks(Plugin):
    {async_}def on_request(self, request):
        assert not request.headers.complete
        request.headers["x-found"] = request.headers["x-internal"]
        del request.headers["x-other"]

class All(Plugin):
    {async_}def on_request(self, request):
        list(request.headers)
"""
both_kinds = pytest.mark.parametrize(
    "source", [HIDDEN.format(async_="", await_=""), HIDDEN.format(**ASYNC)], ids=["def", "async def"]
)


@both
@both_kinds
def test_beyond_kongs_thousand_headers_names_are_asked_for(serve: Start, protocol: str, source: str) -> None:
    server = serve(protocol, hidden=source)
    many = {f"x-{number}": "v" for number in range(1000)}
    pdk = {**REQUEST, "kong.request.get_headers": lambda _: many}
    with server.kong() as kong:
        kong.event(kong.start("looks", {}), "access", pdk)
        assert ("kong.service.request.set_header", ["x-found", "the http_x_internal"]) in kong.calls
        assert ("kong.service.request.clear_header", ["x-other"]) in kong.calls
        with pytest.raises(Exited):
            kong.event(kong.start("all", {}), "access", pdk)
    assert "handed over 1000 of the request's headers" in server.log


@both
@pytest.mark.parametrize("is_async", [False, True])
def test_a_plugin_is_told_how_a_request_ended(protocol: Any, is_async: bool) -> None:
    told: list[object] = []

    def tell(request: Any, response: Any) -> None:
        told.append((request.path, request.ctx["seen"], response.status, response.headers["x-up"]))

    class Tells(Plugin):
        def on_request(self, request: Any) -> None:
            request.ctx["seen"] = "in the request"

        def on_log(self, request: Any, response: Any) -> None:
            tell(request, response)

    class TellsAsync(Tells):
        async def on_log(self, request: Any, response: Any) -> None:
            tell(request, response)

    plugin = TellsAsync if is_async else Tells
    assert plugin.kong_phases() == ("access", "log")
    client = TestClient(plugin, gateway="kong", protocol=protocol, upstream=Response(203, {"x-up": "1"}, b"body"))
    assert client.get("/a%20b").status == 203
    assert told == [("/a b", "in the request", 203, "1")]
