"""One table of plugins and requests, one result: whichever gateway asks, and however."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict

import pytest

from gatewright import Plugin
from gatewright import Response as PluginResponse
from gatewright.testing import TestClient
from tests.lean.nginx import Nginx


class What(TypedDict):
    """What to do."""

    request: str


class Do(Plugin):
    """Does what its configuration says; the runner of these tests has one of the same name."""

    Config = What

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        space: dict[str, Any] = {"Response": PluginResponse}
        exec("def run(request):\n    " + self.config["request"], space)
        self._run = space["run"]

    def on_request(self, request: Any) -> Any:
        return self._run(request)


@dataclass
class Outcome:
    """What came of a request: what the client got, and what the upstream saw (nothing if it was not asked)."""

    status: int = 200
    got: dict[str, list[str]] = field(default_factory=dict)
    target: str = ""
    saw: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Case:
    """A plugin's code, a request, and what has to come of it."""

    name: str
    code: str
    outcome: Outcome
    target: str = "/x"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


CASES = (
    Case("nothing", "pass", Outcome(target="/x?a=%41&b=1"), target="/x?a=%41&b=1"),
    Case("a header is set", "request.headers['X-New'] = 'ü'", Outcome(target="/x", saw={"x-new": ["ü"]})),
    Case("a header is replaced", "request.headers['x-a'] = '2'", Outcome(target="/x", saw={"x-a": ["2"]}),
         headers=(("x-a", "1"),)),
    Case("a header is deleted", "del request.headers['x-a']", Outcome(target="/x", saw={"x-a": []}),
         headers=(("x-a", "1"),)),
    Case("what is not there is deleted", "request.headers.discard('x-a')", Outcome(target="/x", saw={"x-a": []})),
    Case("another path", "request.path = '/new path/ä'", Outcome(target="/new%20path/%C3%A4?a=1"), target="/x?a=1"),
    Case("an argument is set", "request.query['b'] = '2 3'", Outcome(target="/x?a=1&b=2%203"), target="/x?a=1"),
    Case("the only argument is deleted", "del request.query['a']", Outcome(target="/x"), target="/x?a=1"),
    Case("a body is read", "request.headers['x-size'] = str(len(request.body()))",
         Outcome(target="/x", saw={"x-size": ["5"]}, body=b"12345"), method="POST", body=b"12345"),
    Case("a body is replaced", "request.set_body(b'longer than it was')",
         Outcome(target="/x", saw={"content-length": ["18"]}, body=b"longer than it was"), method="PUT", body=b"short"),
    Case("the client is answered", "return Response(403, {'x-why': 'because'}, b'no')",
         Outcome(status=403, got={"x-why": ["because"]})),
    Case("a header for the client", "request.response_headers['x-more'] = '1'",
         Outcome(target="/x", got={"x-more": ["1"]})),
    Case("a variable is asked for", "request.headers['x-uri'] = request.var('request_method')",
         Outcome(target="/x", saw={"x-uri": ["DELETE"]}), method="DELETE"),
    Case("the plugin raises", "1/0", Outcome(status=503)),
)  # fmt: skip


def over_nginx(nginx: Nginx, way: str, case: Case) -> Outcome:
    answer = nginx.ask(
        f"/{way}{case.target}", ("do", {"request": case.code}), method=case.method, headers=list(case.headers),
        body=case.body or None,
    )  # fmt: skip
    asked = bool(answer.header("x-upstream"))
    return Outcome(
        status=answer.status,
        got={name: answer.header(name) for name in case.outcome.got},
        target=answer.line.split()[1].removeprefix(f"/{way}") if asked else "",
        saw={name: answer.saw(name) for name in case.outcome.saw},
        body=answer.seen_body,
    )


def over_test_client(gateway: Any, protocol: Any, case: Case) -> Outcome:
    client = TestClient(Do, {"request": case.code}, gateway=gateway, protocol=protocol, raise_errors=False)
    answer = client.request(case.method, case.target, headers=list(case.headers), body=case.body)
    seen = answer.upstream_requests[-1] if answer.upstream_requests else None
    return Outcome(
        # Kong's plugin servers refuse with a 500, APISIX and the lean path with a 503.
        status=503 if answer.status == 500 else answer.status,
        got={name: answer.headers.get_all(name) for name in case.outcome.got},
        target=seen.target if seen else "",
        saw={name: seen.headers.get_all(name) if seen else [] for name in case.outcome.saw},
        body=seen.body if seen else b"",
    )


WAYS = ("pool", "mux", "apisix", "apisix over lean", "kong over msgpack", "kong over protobuf")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_way_gives_the_same(nginx: Nginx, case: Case, way: str) -> None:
    if way in ("pool", "mux"):
        assert over_nginx(nginx, way, case) == case.outcome
    else:
        gateway, _, protocol = way.partition(" over ")
        assert over_test_client(gateway, protocol or "msgpack", case) == case.outcome
