"""Requests through plugins without a server: the real chain and the real session, as APISIX and as Kong."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest
import structlog

from gatewright import Plugin, Request, Response, SyncRequest
from gatewright.errors import ConfigError, GatewayClosedError, PluginError
from gatewright.server.drivers.kong.neighbours import address_of
from gatewright.testing import AsyncTestClient, TestClient, UpstreamRequest
from tests.testing.plugins import Boom, Counter, Greet, Shout

GATEWAYS = ("apisix", "kong")
pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_request_reaches_the_upstream_changed_and_the_answer_the_client(gateway: str) -> None:
    with TestClient(Greet, config={"greeting": "hi"}, gateway=gateway) as client:
        answer = client.get("/x?a=1", headers={"x-user": "ann"})

    assert answer.status == 200
    assert answer.text == "hello from the upstream\n"
    assert answer.headers["x-served-by"] == "gatewright"
    assert answer.upstream_request.path == "/x"
    assert answer.upstream_request.query == {"a": "1"}
    assert answer.upstream_request.headers["x-greeting"] == "hi"
    assert answer.by_plugin["greet"].request.changes.headers == {"x-greeting": ("hi",)}
    assert answer.by_plugin["greet"].response.changes.as_dict() == {"response_headers": {"x-served-by": ["gatewright"]}}


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_plugins_own_answer_ends_the_chain(gateway: str) -> None:
    with TestClient([(Greet, {}), Counter], gateway=gateway) as client:
        answer = client.get("/x")

    assert (answer.status, answer.text, answer.headers["x-why"]) == (401, "who are you?", "unknown")
    assert not answer.upstream_requests
    with pytest.raises(LookupError, match="did not reach the upstream: the client got 401"):
        _ = answer.upstream_request
    own = answer.by_plugin["greet"].request.answer
    assert own is not None
    assert own.status == 401


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_all_that_a_def_plugin_changes_shows(gateway: str) -> None:
    with TestClient(Shout, gateway=gateway, upstream=lambda request: request.body) as client:
        answer = client.post("/a b", body="hello", headers={"content-type": "text/plain"})

    sent = answer.upstream_request
    assert (sent.method, sent.target.partition("?")[0], sent.query, sent.body) == (
        "POST", "/loud/a%20b", {"loud": "1"}, b"HELLO",
    )  # fmt: skip
    assert (answer.status, answer.body, answer.headers["x-loud"]) == (202, b"HELLO", "yes")
    run = answer.by_plugin["shout"].request
    assert run.changes.as_dict() == {
        "path": "/loud/a b", "query": {"loud": ["1"]}, "body": "HELLO", "response_headers": {"x-loud": ["yes"]},
    }  # fmt: skip


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_what_a_handler_raises_is_raised_in_the_test(gateway: str) -> None:
    client = TestClient(Boom, gateway=gateway)
    with pytest.raises(RuntimeError, match="boom") as raised:
        client.get("/")
    shown = [frame for frame in raised.traceback if not frame.ishidden(raised)]
    assert [frame.name for frame in shown] == ["test_what_a_handler_raises_is_raised_in_the_test", "on_request"]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"body": {"a": 1}}, "a body is bytes or str, not dict"),
        ({"headers": {"a": 1}}, "the value of header 'a' must be str, not int"),
        ({"path": "x"}, "a path begins with /, and 'x' doesn't"),
    ],
)
def test_what_no_client_could_send_is_told(how: dict[str, Any], why: str) -> None:
    with pytest.raises((TypeError, ValueError), match=why) as raised:
        TestClient(Greet).post(**{"path": "/x", **how})
    assert len([frame for frame in raised.traceback if not frame.ishidden(raised)]) == 1


def test_a_failure_is_logged_in_a_few_lines_that_pytest_captures(caplog: pytest.LogCaptureFixture) -> None:
    structlog.reset_defaults()  # as in an author's tests, where nobody has set it up
    with TestClient(Boom, raise_errors=False) as client:
        client.get("/")
    structlog.reset_defaults()
    (told,) = [record.getMessage() for record in caplog.records if record.name == "gatewright.runtime"]
    assert told.startswith("plugin failed: request refused")
    assert "tests/testing/plugins.py:" in told
    assert "self =" not in told
    assert len(told.splitlines()) < 8


@pytest.mark.parametrize(("gateway", "status"), [("apisix", 503), ("kong", 500)])
def test_or_the_client_sees_what_the_gateway_makes_of_it(gateway: str, status: int) -> None:
    client = TestClient(Boom, gateway=gateway, raise_errors=False)
    answer = client.get("/")

    assert answer.status == status
    assert not answer.upstream_requests
    assert isinstance(answer.by_plugin["boom"].request.error, RuntimeError)
    assert str(answer.refused) == "plugin failed: boom"


def test_allow_degradation_lets_the_request_pass() -> None:
    answer = TestClient(Boom, allow_degradation=True, raise_errors=False).get("/")
    assert answer.status == 200


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_configuration_that_does_not_fit_is_an_error_in_the_test(gateway: str) -> None:
    client = TestClient(Greet, config={"greeting": 1}, gateway=gateway)
    with pytest.raises(ConfigError, match="greeting"):
        client.get("/")


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_plugin_lives_as_long_as_its_client(gateway: str) -> None:
    before = Counter.ended
    with TestClient(Counter, gateway=gateway) as client:
        assert [client.get("/").json()["calls"] for _ in range(3)] == [1, 2, 3]
        assert Counter.ended == before
    assert Counter.ended == before + 1


def test_a_client_that_is_left_alone_leaves_nothing_open() -> None:
    before = Counter.ended
    TestClient(Counter).get("/")
    gc.collect()
    assert Counter.ended == before + 1


async def test_a_client_that_could_not_start_is_collected_while_another_loop_runs() -> None:
    client = TestClient(Counter)
    client._runner.get_loop()  # as after a start that failed
    del client
    gc.collect()  # what can't be raised there is an error of this test


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_calls_at_once_are_told_apart(gateway: Any) -> None:
    class Waits(Plugin):
        async def on_request(self, request: Request) -> None:
            await asyncio.sleep(0.02 if request.headers["x-n"] == "0" else 0)
            request.headers["x-seen"] = request.headers["x-n"]

    async with AsyncTestClient(Waits, gateway=gateway) as client:
        answers = await asyncio.gather(*(client.get("/", headers={"x-n": str(n)}) for n in range(5)))

    for number, answer in enumerate(answers):
        assert answer.by_plugin["waits"].request.changes.headers == {"x-seen": (str(number),)}
        assert answer.upstream_request.headers["x-seen"] == str(number)


async def test_a_client_without_async_says_so_in_a_loop() -> None:
    with pytest.raises(RuntimeError, match="use AsyncTestClient"):
        TestClient(Greet).get("/")


class TestTheUpstream:
    def test_may_be_a_function_of_the_request(self) -> None:
        def upstream(request: UpstreamRequest) -> dict[str, Any]:
            return {"got": request.json()["n"] + 1}

        answer = TestClient(Greet, upstream=upstream).post("/", json={"n": 1}, headers={"x-user": "ann"})
        assert answer.json() == {"got": 2}

    def test_may_be_async_or_one_answer_for_all(self) -> None:
        async def upstream(_: UpstreamRequest) -> Response:
            return Response(404, {"x-up": "1"}, b"no")

        how = {"headers": {"x-user": "ann"}}
        assert TestClient(Greet, upstream=upstream).get("/", **how).status == 404
        assert TestClient(Greet, upstream=Response(204)).get("/", **how).status == 204

    def test_that_can_not_be_reached_is_a_502(self) -> None:
        def upstream(_: UpstreamRequest) -> None:
            raise ConnectionRefusedError("refused")

        assert TestClient(Greet, upstream=upstream).get("/", headers={"x-user": "ann"}).status == 502

    def test_that_fails_fails_the_test(self) -> None:
        def upstream(_: UpstreamRequest) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            TestClient(Greet, upstream=upstream).get("/", headers={"x-user": "ann"})


class TestWhatTheWireCannotCarry:
    def test_a_path_arrives_decoded_and_is_escaped_again(self) -> None:
        class Path(Plugin):
            def on_request(self, request: Any) -> Response:
                return Response.json([request.path, request.query.is_bare("z")])

        assert TestClient(Path).get("/a%20b/%C3%A4?z").json() == ["/a b/ä", True]

    def test_a_header_is_one_value_on_apisix(self) -> None:
        class Twice(Plugin):
            def on_request(self, request: Any) -> None:
                request.headers.set_all("x-n", ["1", "2"])

        told = TestClient(Twice, gateway="kong").get("/").upstream_request
        assert told.headers.get_all("x-n") == ["1", "2"]
        assert TestClient(Twice).get("/").upstream_request.headers.get_all("x-n") == ["1, 2"]

    def test_a_body_cannot_be_blanked_on_apisix(self) -> None:
        class Blank(Plugin):
            def on_request(self, request: Any) -> None:
                request.set_body(b"")

        assert TestClient(Blank, gateway="kong").post("/", body="x").upstream_request.body == b""
        with pytest.raises(PluginError, match="empty"):
            TestClient(Blank).post("/", body="x")

    def test_the_version_counts(self) -> None:
        class Move(Plugin):
            def on_request(self, request: Any) -> None:
                request.path = "/new"

        for version in ("3.9", "3.18"):
            assert TestClient(Move, version=version).get("/x?a=1").upstream_request.target == "/new?a=1"

    def test_an_answer_that_is_none(self) -> None:
        class Silent(Plugin):
            def on_request(self, request: Any) -> Response:
                return Response(408)

        with pytest.raises(GatewayClosedError, match="without an answer"):
            TestClient(Silent).get("/")

    def test_a_method_that_apisix_cannot_tell(self) -> None:
        assert TestClient(Greet).request("PURGE", "/").status == 500


class TestWhatMayBeTested:
    def test_a_plugin_of_an_older_runner(self, tmp_path: Path) -> None:
        file = tmp_path / "old.py"
        file.write_text(
            "from apisix.runner.plugin.core import PluginBase\n"
            "class Old(PluginBase):\n"
            "    def name(self): return 'old'\n"
            "    def config(self, conf): return conf\n"
            "    def filter(self, conf, request, response):\n"
            "        request.set_header('x-old', 'yes')\n"
        )
        assert TestClient(file).get("/").upstream_request.headers["x-old"] == "yes"

    @pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])
    def test_a_plugin_of_kongs(self, tmp_path: Path, protocol: str) -> None:
        file = tmp_path / "py-hello.py"
        file.write_text(
            "Schema = ({'message': {'type': 'string'}},)\nversion = '0.1.0'\npriority = 0\n"
            "class Plugin:\n"
            "    def __init__(self, config): self.config = config\n"
            "    def access(self, kong):\n"
            "        kong.service.request.set_header('x-hello', self.config['message'])\n"
            "    def log(self, kong): kong.log.notice('done')\n"
        )
        with TestClient(file, config={"message": "hi"}, gateway="kong", protocol=protocol) as client:
            answer = client.get("/")
        assert answer.upstream_request.headers["x-hello"] == "hi"
        calls = answer.by_plugin["py-hello"]["access"].pdk
        assert ("kong.service.request.set_header", ("x-hello", "hi")) in [(call.method, call.args) for call in calls]
        assert "log" in answer.by_plugin["py-hello"]

    def test_a_path_with_more_than_one_plugin_names_them(self) -> None:
        with pytest.raises(ConfigError, match="expected one plugin, found"):
            TestClient(Path(__file__).with_name("plugins.py"))

    @pytest.mark.parametrize(
        ("plugin", "how", "words"),
        [
            (Greet, {"gateway": "nginx"}, "apisix or kong"),
            (Greet, {"version": "2"}, "3.9, 3.10"),
            (Greet, {"protocol": "xml"}, "msgpack"),
            (Greet, {"config": 7}, "is a mapping, JSON text or an instance"),
            (Greet, {"settings": {"tiemout": 3}}, "tiemout"),
            ([], {}, "a chain of no plugins"),
            ([Greet], {"config": {}}, "give pairs"),
            (7, {}, "is no plugin"),
        ],
    )
    def test_a_mistake_in_the_test_is_told(self, plugin: Any, how: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            TestClient(plugin, **how)


def test_requests_are_what_a_client_can_send() -> None:
    client = TestClient(Counter)
    with pytest.raises(ValueError, match="say one"):
        client.post("/", body="x", json={})
    with pytest.raises(ValueError, match="can't send the header"):
        client.get("/", headers={"x": "a\r\nb"})
    with pytest.raises(ValueError, match="announced as longer"):
        client.post("/", body="x", headers={"content-length": "5"})


def test_a_chunked_body_and_repeated_headers_arrive() -> None:
    class Show(Plugin):
        async def on_request(self, request: Request) -> Response:
            return Response.json([(await request.body()).decode(), request.headers.get_all("x-n"), request.client_ip])

    answer = TestClient(Show).post(
        "/", body="abc", headers=[("transfer-encoding", "chunked"), ("x-n", "1"), ("x-n", "2")], client_ip="10.0.0.9"
    )
    assert json.loads(answer.text) == ["abc", ["1", "2"], "10.0.0.9"]


def test_clients_as_kong_have_a_process_to_themselves_and_leave_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Plain(Plugin):
        def on_request(self, request: SyncRequest) -> None: ...

    def listening() -> int:
        return Path("/proc/net/unix").read_text().count(f"@{address_of(os.getpid())[1:]}\n")

    before = listening()
    clients = [TestClient(Plain, gateway="kong") for _ in range(2)]
    assert [client.get("/").status for client in clients] == [200, 200]
    assert listening() == before
    for client in clients:
        client.close()
    assert "their way here is taken" not in caplog.text
