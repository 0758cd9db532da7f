"""Routes for the lean path with the development gateway: it is the Lua plugins' stand-in at the runner."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from gatewright import Plugin, Response
from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.apisix.routes import build_routes
from gatewright.dev.messages import ClientRequest
from gatewright.dev.target import Upstream
from gatewright.dev.upstream_reader import UpstreamAnswer
from gatewright.errors import ConfigError
from gatewright.testing import TestClient
from tests.conftest import StartRunner
from tests.lean.plugins import SOURCE


def plugins_of(**plugins: object) -> dict[str, list[tuple[str, str]] | None]:
    named = {name.replace("_", "-"): conf for name, conf in plugins.items()}
    routes = build_routes({"routes": [{"id": 1, "uri": "/*", "plugins": named}]})
    return {name: conf.entries for name, conf in routes.routes[0].plugins.items()}


def test_values_are_objects_or_json_text() -> None:
    assert plugins_of(
        gatewright={"conf": [{"name": "one", "value": {"a": "ü"}}, {"name": "two"}]},
        gatewright_after={"conf": [{"name": "three", "value": '{"b": 1}'}]},
    ) == {"gatewright": [("one", '{"a": "\\u00fc"}'), ("two", "{}")], "gatewright-after": [("three", '{"b": 1}')]}


@pytest.mark.parametrize(
    "conf",
    [
        {}, {"conf": []}, {"conf": "x"}, {"conf": [{}]}, {"conf": [{"name": "a", "config": {}}]},
        {"conf": [{"name": "a"}], "allow_degradation": True}, {"conf": [{"name": "a", "value": 1}]},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_plugins_schema_refuses_is_refused(conf: object) -> None:
    with pytest.raises(ConfigError, match="route 1: gatewright"):
        plugins_of(gatewright=conf)


class Both(Plugin):
    def on_request(self, request: Any) -> Response | None:
        if request.method == "DELETE":
            return Response(403, {"x-why": "1"}, "no")
        request.ctx["seen"] = ["ä"]
        request.headers["x-a"] = "1"
        request.headers.add("x-many", "2")
        request.set_body(request.body() + b"!")
        return None

    def on_response(self, request: Any, response: Any) -> None:
        response.headers["x-seen"] = request.ctx["seen"][0]
        response.set_body(response.body()[::-1])


class Early(Plugin):
    early_response = True

    async def on_response(self, request: Any, response: Any) -> None:
        response.headers.add("x-more", "2")
        response.headers["x-early"] = request.path


class Ends(Plugin):
    ended: list[tuple[str, int, bool]] = []

    def on_log(self, request: Any, response: Any) -> None:
        self.ended.append((request.path, response.status, float(request.var("request_time")) >= 0))


def test_all_phases_in_a_test_client() -> None:
    with TestClient(
        [Both, Early, Ends], protocol="lean", upstream=lambda _: Response(201, {"x-more": "1"}, b"body")
    ) as client:
        answer = client.post("/x", body=b"sent", headers=[("x-many", "1")])
        assert (answer.status, answer.body) == (201, b"ydob")
        assert answer.headers.get_all("x-more") == ["1", "2"]
        assert (answer.headers["x-seen"], answer.headers["x-early"]) == ("ä", "/x")
        assert answer.upstream_request.headers.get_all("x-many") == ["1", "2"]
        assert answer.upstream_request.body == b"sent!"
        assert Ends.ended.pop() == ("/x", 201, True)
        refused = client.delete("/y")
        assert (refused.status, refused.body, refused.headers["x-why"]) == (403, b"no", "1")
        assert not refused.upstream_requests
        assert Ends.ended.pop() == ("/y", 403, True)


def test_an_answer_is_decided_before_the_upstream_is_asked() -> None:
    with TestClient(Early, protocol="lean", upstream=lambda _: Response(200, {"x-more": "1"}, b"body")) as client:
        answer = client.get("/x")
        assert answer.headers.get_all("x-more") == ["1", "2"]
        assert (answer.headers["x-early"], answer.body) == ("/x", b"body")


def test_what_is_not_brought_is_asked_for() -> None:
    class Asks(Plugin):
        def on_request(self, request: Any) -> None:
            if request.path == "/late":
                request.headers["x-facts"] = f"{request.headers['x-a']} {len(request.body())} {request.var('uri')}"

    with TestClient(Asks, protocol="lean") as client:
        for _ in range(60):  # so that nothing but the path is brought
            client.get("/")
        answer = client.post("/late", headers={"x-a": "1"}, body=b"x" * 200_000)
        assert answer.upstream_request.headers["x-facts"] == "1 200000 /late"


@pytest.mark.parametrize("failure", ["raises", "late", "unknown consumer", "upstream gone"])
def test_whatever_fails_is_refused(failure: str) -> None:
    class Fails(Plugin):
        timeout = 0.1

        async def on_request(self, request: Any) -> None:
            if failure == "raises":
                raise ValueError
            if failure == "late":
                await asyncio.sleep(5)
            if failure == "unknown consumer":
                request.set_consumer("nobody")

        def on_response(self, request: Any, response: Any) -> None:
            response.headers["x-a"] = "1"

    def upstream(_: Any) -> bytes:
        raise OSError

    client = TestClient(Fails, protocol="lean", raise_errors=False, upstream=upstream)
    answer = client.get("/")
    assert answer.status == (502 if failure == "upstream gone" else 503)
    assert not (failure != "upstream gone" and answer.upstream_requests)


def test_the_record_tells_of_calls_over_the_lean_path(tmp_path: Path) -> None:
    file = tmp_path / "records"
    with TestClient([Both, Early], protocol="lean", record=file, upstream=lambda _: b"body") as client:
        client.post("/x?a=1", body=b"sent")
    record = json.loads(file.read_text().splitlines()[0])
    request, response = record["phases"]
    assert (request["stage"], response["stage"]) == ("gatewright", "gatewright-response")
    assert [plugin["outcome"] for plugin in request["plugins"] + response["plugins"]] == ["went on"] * 3
    assert {(change["of"], change["name"]) for change in request["plugins"][0]["changes"]} == {
        ("header", "x-a"), ("header", "x-many"), ("body", ""),
    }  # fmt: skip
    assert {change["name"] for change in request["made"]} >= {"x-a", "x-many", "content-length"}
    assert request["came"]["query"] == [["a", "1"]]
    assert request["reply"]["kind"] == "rewrite"
    assert [asked["what"] for asked in response["plugins"][0]["asked"]] == ["response_body"]


def test_a_consumer_that_a_plugin_names_brings_its_plugins(start_runner: StartRunner, tmp_path: Path) -> None:
    (tmp_path / "phases.py").write_text(SOURCE)
    (tmp_path / "more.py").write_text(
        "from gatewright import Plugin\n"
        "class Of(Plugin):\n    def on_request(self, request):\n        request.headers['x-of'] = request.consumer\n"
    )
    runner = start_runner("-p", tmp_path, "--no-installed-plugins")
    named = {"gatewright-after": {"conf": [{"name": "of"}]}}
    content = {
        "routes": [{"id": 1, "uri": "/*", "plugins": {"gatewright": {"conf": [{"name": "who"}]}}}],
        "consumers": [{"username": "ada", "plugins": named}],
    }
    sent: list[dict[str, str]] = []

    async def send(*_: Any, headers: Any, **__: Any) -> UpstreamAnswer:
        sent.append({name.lower(): value for name, value in headers})
        return UpstreamAnswer(200, "OK", [], b"ok", "content-length")

    async def visit() -> int:
        routes = build_routes(content, default_upstream=Upstream("127.0.0.1", 1))
        gateway = DevGateway(routes, f"unix:{runner.socket}", send=send)
        answer = await gateway.handle(ClientRequest("GET", "/", [("Host", "h")], "127.0.0.1"))
        pids = {worker["pid"] for worker in runner.workers()}
        runner.process.send_signal(signal.SIGHUP)  # new workers: the gateway leaves its connection
        await asyncio.to_thread(runner.wait_for, lambda: not pids & {worker["pid"] for worker in runner.workers()})
        again = await gateway.handle(ClientRequest("GET", "/", [("Host", "h")], "127.0.0.1"))
        await gateway.stop()
        return max(answer.status, again.status)

    assert asyncio.run(visit()) == 200
    assert [each["x-of"] for each in sent] == ["ada", "ada"]
