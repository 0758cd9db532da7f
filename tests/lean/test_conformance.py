"""One table of plugins and requests, one result: whichever gateway asks, and however."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gatewright import Response
from gatewright.testing import TestClient
from tests.conftest import RunnerProcess
from tests.lean.conformance import CASES, Case, Outcome
from tests.lean.conforming import Conform, ConformResponse
from tests.lean.nginx import Nginx
from tests.lean.standins import with_standins

PLUGINS = {"conform": Conform, "conform-response": ConformResponse}


def over_nginx(nginx: Nginx, way: str, case: Case, answers: str = "answer") -> Outcome:
    name, code = case.plugin
    way = answers if case.response else way
    answer = nginx.ask(
        f"/{way}{case.target}", (name, {"code": code}), method=case.method, headers=list(case.headers),
        body=case.body or None,
    )  # fmt: skip
    asked = bool(answer.header("x-upstream"))
    return Outcome(
        status=answer.status,
        got={name: answer.header(name) for name in case.outcome.got},
        target=answer.line.split()[1].removeprefix(f"/{way}") if answer.line else case.outcome.target if asked else "",
        saw={name: answer.saw(name) for name in case.outcome.saw},
        body=answer.seen_body,
        answer=answer.body if case.outcome.answer is not None else None,
    )


def upstream(_: Any) -> Response:
    return Response(200, {"x-upstream": "echo", "x-gone": "1"}, b"an upstream's body")


def over_test_client(gateway: Any, protocol: Any, case: Case) -> Outcome:
    name, code = case.plugin
    client = TestClient(
        PLUGINS[name], {"code": code}, gateway=gateway, protocol=protocol, raise_errors=False, upstream=upstream
    )
    answer = client.request(case.method, case.target, headers=list(case.headers), body=case.body)
    seen = answer.upstream_requests[-1] if answer.upstream_requests else None
    return Outcome(
        # Kong's plugin servers refuse with a 500, APISIX and the lean path with a 503.
        status=503 if answer.status == 500 else answer.status,
        got={name: answer.headers.get_all(name) for name in case.outcome.got},
        target=seen.target if seen else "",
        saw={name: seen.headers.get_all(name) if seen else [] for name in case.outcome.saw},
        body=seen.body if seen else b"",
        answer=answer.body if case.outcome.answer is not None else None,
    )


@pytest.fixture(scope="module")
def standins(runner: RunnerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    started = with_standins(tmp_path_factory.mktemp("standins"), runner.socket)
    yield started
    started.stop()


LUA_PLUGINS = [
    (way, case)
    for way in ("apisix", "apisix-after", "kong")
    for case in CASES
    if way == "kong" or not case.response  # APISIX's needs lua-resty-http for answers
]


@pytest.mark.parametrize(("way", "case"), LUA_PLUGINS, ids=lambda each: getattr(each, "name", each))
def test_the_lua_plugins_for_gateways_give_the_same(standins: Nginx, case: Case, way: str) -> None:
    got = over_nginx(standins, way, case, answers="kong-response")
    if case.response:
        got.target = case.outcome.target
    assert got == case.outcome


def test_a_decision_made_before_the_upstream_was_asked_holds_for_another_node_of_it(standins: Nginx) -> None:
    answer = standins.ask("/apisix-early/x", ("early", {"code": "response.headers['x-early'] = '1'"}))
    assert (answer.status, answer.header("x-early"), answer.header("x-upstream")) == (200, ["1"], ["echo"])


WAYS = ("pool", "mux", "apisix", "apisix over lean", "kong over msgpack", "kong over protobuf", "kong over lean")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_way_gives_the_same(nginx: Nginx, case: Case, way: str) -> None:
    expected = case.outcome
    if way in ("pool", "mux"):
        got = over_nginx(nginx, way, case)
        if case.response:  # of what the upstream saw, the answer that the client gets says nothing then
            got.target = expected.target
        assert got == expected
    else:
        gateway, _, protocol = way.partition(" over ")
        assert over_test_client(gateway, protocol or "msgpack", case) == expected
