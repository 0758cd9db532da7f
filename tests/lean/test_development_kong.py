"""The lean path's plugins in the development Kong: it is the Lua files' stand-in at the runner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gatewright import Plugin, Response
from gatewright.dev.inspector.exports import test_of as exported
from gatewright.dev.kong.declarative import parse_declarative
from gatewright.dev.kong.facts import facts_of
from gatewright.dev.kong.gateway import KongGateway
from gatewright.dev.kong.lean import LeanPlugins
from gatewright.dev.kong.lean_schema import LEAN_PLUGINS
from gatewright.dev.kong.plugins import KnownPlugin, Plugins
from gatewright.dev.lean.client import LeanClient
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.dev.upstream_reader import UpstreamAnswer
from gatewright.errors import ConfigError
from gatewright.settings import parse_address
from gatewright.testing import TestClient
from tests.conftest import RunnerProcess


def lean(name: str, *chain: tuple[str, str], **more: Any) -> dict[str, Any]:
    """One of Kong's two plugins, with plugins of the runner's that do what their code says."""
    entries = [{"name": plugin, "config": json.dumps({"code": code})} for plugin, code in chain]
    return {"name": name, "config": {"chain": entries, **more}}


def visits(
    runner: RunnerProcess | Path, plugins: Sequence[Mapping[str, Any]], *requests: ClientRequest, **more: Any
) -> tuple[list[Answer], list[dict[str, str]]]:
    """What came of requests, and what the service saw of them."""
    service = {"name": "s", "url": "http://service.test", "routes": [{"name": "r", "paths": ["/a"]}]}
    declared = parse_declarative({"_format_version": "3.0", "services": [service], "plugins": plugins, **more})
    sent: list[dict[str, str]] = []

    async def send(*_: Any, headers: Any, target: str, **__: Any) -> UpstreamAnswer:
        sent.append({"": target, **{name.lower(): value for name, value in headers}})
        return UpstreamAnswer(200, "OK", [("X-More", "1"), ("Set-Cookie", "s=1")], b"secret", "content-length")

    async def run() -> list[Answer]:
        socket = runner if isinstance(runner, Path) else runner.socket
        client = LeanClient(parse_address(f"unix:{socket}"))
        gateway = KongGateway(
            declared, Plugins((), declared, others=LEAN_PLUGINS), send=send, lean=LeanPlugins(lambda: client)
        )
        answers = [await gateway.handle(request) for request in requests]
        await gateway.stop()
        client.close()
        return answers

    return asyncio.run(run()), sent


def get(target: str, **headers: str) -> ClientRequest:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return ClientRequest("GET", target, [("Host", "h"), *named], "127.0.0.1")


def values(answer: Answer, name: str) -> list[str]:
    return [value for present, value in answer.headers if present.lower() == name]


NAMED = ("conform", "request.set_consumer(request.headers['x-user'])")
TOLD = ("conform", "request.headers['x-of'] = f'{request.consumer} {request.route}'")
LOOKS = ("answers", "response.headers['x-was'] = str(response.status)")
EARLY = ("early", "response.headers.add('x-more', '2'); response.headers['x-path'] = request.path")
REFUSAL = b'{"message":"The service is unavailable"}'


def test_a_consumer_that_a_plugin_names_brings_its_plugins(runner: RunnerProcess) -> None:
    consumers = [{"username": "ada", "plugins": [lean("gatewright-response", LOOKS)]}]
    plugins = [lean("gatewright", NAMED, TOLD)]
    (known, unknown), sent = visits(
        runner, plugins, get("/a/b", x_user="ada"), get("/a/b", x_user="bob"), consumers=consumers
    )
    assert (known.status, values(known, "x-was")) == (200, ["200"])
    assert [each["x-of"] for each in sent] == ["ada global"]
    assert (unknown.status, unknown.body) == (503, REFUSAL)


def test_an_answer_is_decided_before_the_service_is_asked(runner: RunnerProcess) -> None:
    (answer, nowhere), sent = visits(
        runner, [lean("gatewright", EARLY, early_response=True)], get("/a/b"), get("/nowhere")
    )
    assert (answer.status, values(answer, "x-more"), values(answer, "x-path")) == (200, ["1", "2"], ["/a/b"])
    assert answer.body == b"secret"
    assert nowhere.status == 404
    assert len(sent) == 1


def test_nothing_of_the_services_is_in_a_refusal(runner: RunnerProcess) -> None:
    refused = []
    for plugins in (
        [lean("gatewright", LOOKS, early_response=True)],
        [lean("gatewright-response", ("answers", "1/0"))],
        [lean("gatewright", EARLY)],  # no handler for the phases that are asked for
    ):
        (answer,), sent = visits(runner, plugins, get("/a"))
        refused.append((answer.status, answer.body, values(answer, "set-cookie"), len(sent)))
    assert refused == [(503, REFUSAL, [], 0), (503, REFUSAL, [], 1), (503, REFUSAL, [], 0)]


def test_a_runner_that_is_gone(tmp_path: Path) -> None:
    (answer,), sent = visits(tmp_path / "none.sock", [lean("gatewright", TOLD)], get("/a"))
    assert (answer.status, sent) == (503, [])


def test_on_log_is_told_how_a_request_ended(runner: RunnerProcess) -> None:
    visits(runner, [lean("gatewright", ("logs", "")), lean("gatewright-response", ("logs", ""))], get("/a/b?c=1"))
    told = "ended: GET /a/b 200 in the request None global"
    runner.wait_for(lambda: runner.log.count(told) == 2)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "config.chain: required field missing"), ({"chain": []}, "length must be at least 1"),
        ({"chain": [{}]}, "required field missing"), ({"chain": [{"name": "a", "config": {}}]}, "expected a string"),
        ({"chain": [{"name": "a"}], "threshold": -1}, "between 0 and 10000"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_plugins_schema_refuses_is_refused(config: dict[str, Any], words: str) -> None:
    declared = parse_declarative({"_format_version": "3.0", "plugins": [{"name": "gatewright", "config": config}]})
    with pytest.raises(ConfigError, match=words):
        Plugins((), declared, others=LEAN_PLUGINS)


def test_the_inspector_is_told_of_the_runners_plugins() -> None:
    service = {"name": "s", "url": "http://h", "routes": [{"name": "r", "paths": ["/a"]}]}
    declared = parse_declarative({"_format_version": "3.0", "services": [service],
                                  "plugins": [lean("gatewright", NAMED), {"name": "plain"}]})  # fmt: skip
    known = [KnownPlugin(name, 1, "1", ("access",), [{"n": {"type": "integer", "default": 3}}], "", "")
             for name in ("conform", "plain")]  # fmt: skip
    found = {"name": "conform", "phases": ["on_request"], "source": "conform.py", "needs": None, "config": None}
    facts = facts_of(known, declared, {}, "127.0.0.1", 1, [found])
    assert {plugin["name"]: plugin["phases"] for plugin in facts.plugins} == {
        "plain": ["access"], "conform": ["on_request"],
    }  # fmt: skip
    code = json.dumps({"code": NAMED[1]})
    assert facts.routes[0]["plugins"] == [("gatewright", "conform", code), ("everywhere", "plain", "{}")]
    assert (facts.filled("plain", {}), facts.filled("conform", {"code": ""})) == ({"n": 3}, {"code": ""})
    assert set(facts.read_as_kongs) == {"plain"}


class Both(Plugin):
    def on_request(self, request: Any) -> Response | None:
        if request.method == "DELETE":
            return Response(403, {"x-why": "1"}, "no")
        request.ctx["seen"] = ["ä"]
        request.headers["x-a"] = request.query["a"]
        request.path = "/new"
        return None

    def on_response(self, request: Any, response: Any) -> None:
        response.headers["x-seen"] = request.ctx["seen"][0]
        response.set_body(response.body()[::-1])


def test_all_phases_in_a_test_client_and_its_record(tmp_path: Path) -> None:
    file = tmp_path / "records"
    with TestClient(
        Both, gateway="kong", protocol="lean", record=file, upstream=lambda _: Response(201, {"x-more": "1"}, b"body")
    ) as client:
        answer = client.post("/x?a=1", body=b"sent")
        assert (answer.status, answer.body, answer.headers["x-seen"]) == (201, b"ydob", "ä")
        assert answer.upstream_request.target == "/new?a=1"
        refused = client.delete("/y")
        assert (refused.status, refused.body, refused.headers["x-why"]) == (403, b"no", "1")
        assert not refused.upstream_requests
    record, stopped = map(json.loads, file.read_text().splitlines())
    request, response = record["phases"]
    assert (request["stage"], response["stage"]) == ("gatewright", "gatewright-response")
    assert [plugin["outcome"] for plugin in request["plugins"] + response["plugins"]] == ["went on"] * 2
    assert {(change["of"], change["name"]) for change in request["plugins"][0]["changes"]} == {
        ("header", "x-a"), ("path", ""),
    }  # fmt: skip
    assert (request["came"]["query"], request["reply"]["kind"]) == ([["a", "1"]], "rewrite")
    assert [asked["what"] for asked in response["plugins"][0]["asked"]] == ["response_body"]
    assert stopped["phases"][0]["reply"]["status"] == 403
    assert 'TestClient(CHAIN, gateway="kong", protocol="lean",' in exported(record, {"both": "both.py"})
