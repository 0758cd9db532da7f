"""The older runners' plugin APIs beyond what their documents print: 0.2.0's accessors, bare objects, verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apisix.plugin.request import Request as GuideRequest
from apisix.plugin.response import Response as GuideResponse
from apisix.plugin.runner import Plugin as GuidePlugin
from apisix.runner.http.request import Request
from apisix.runner.http.response import Response
from apisix.runner.plugin.base import Base
from apisix.start import read_legacy_config
from gatewright import ConfigError
from gatewright.gateways.apisix.replies import Rewrite, Stop
from tests.conftest import StartRunner

V020 = """
import json
from apisix.runner.http.request import Request
from apisix.runner.http.response import Response
from apisix.runner.plugin.core import PluginBase


class Accessors(PluginBase):
    def name(self):
        return "accessors"

    def config(self, conf):
        return json.loads(conf)

    def filter(self, conf, request: Request, response: Response):
        if request.get_header("X-Stop"):
            response.set_header("X-Resp-A6-Runner", "Python")
            response.set_body(request.get_body() + request.get_var("host") + request.get_method())
            response.set_status_code(conf["status"])
            return
        request.set_header("X-Addr", request.get_remote_addr())
        request.set_arg("a6_runner", request.get_arg("q"))
        request.set_uri("/a6/python/runner")
        assert request.set_body("new") and not request.set_uri("relative") and not request.set_header("x", "")
"""


def test_0_2_0_plugins_run_unchanged(start_runner: StartRunner, tmp_path: Path) -> None:
    (tmp_path / "accessors.py").write_text(V020)
    runner = start_runner("-p", tmp_path / "accessors.py")
    with runner.peer() as peer:
        token = peer.prepare(("accessors", json.dumps({"status": 418})))
        answers = {"REQ_BODY": b"body ", "host": b"h "}
        stopped = peer.request(token, headers=[("x-stop", "1")], method="PUT", answers=answers)
        assert stopped == Stop(418, [("x-resp-a6-runner", "Python")], b"body h PUT")
        gone_on = peer.request(token, "/x", args=[("q", "1"), ("z", None)], answers=answers)
        assert gone_on == Rewrite(
            path="/a6/python/runner", headers=[("x-addr", "127.0.0.1"), ("content-length", "3")],
            args=[("a6_runner", "1")], body=b"new",
        )  # fmt: skip


TABLE = """
import json
from apisix.runner.plugin.core import PluginBase

class Owner(PluginBase):
    made = 0
    def __init__(self):
        Owner.made += 1
        self.number = Owner.made
    def name(self):
        return "owner"
    def config(self, conf):
        self.conf = conf
        return json.loads(conf)
    def filter(self, conf, request, response):
        self.user = request.get_header("x-user")
        request.get_body()  # others' turn
        request.set_header("x-authenticated", self.user)
        request.set_header("x-conf", self.conf)

class Evaluate(PluginBase):
    def name(self):
        return "evaluate"
    def config(self, conf):
        return json.loads(conf)
    def filter(self, conf, request, response):
        for line in conf["do"]:
            exec(line)
        response.set_status_code(200)
        response.set_body(json.dumps(eval(conf["give"])))
"""


def test_what_a_0_2_0_plugin_keeps_on_itself_is_of_one_request(start_runner: StartRunner, tmp_path: Path) -> None:
    (tmp_path / "table.py").write_text(TABLE)
    runner = start_runner("-p", tmp_path / "table.py", "--workers", "1")
    with runner.peer() as one, runner.peer() as other:
        token = one.prepare(("owner", "{}"))

        def meanwhile(_: object) -> bytes:
            action = other.request(token, headers=[("x-user", "bob")])
            assert isinstance(action, Rewrite)
            assert dict(action.headers)["x-authenticated"] == "bob"
            return b"body"

        action = one.request(token, headers=[("x-user", "alice")], method="POST", answers=meanwhile)
        assert isinstance(action, Rewrite)
        assert dict(action.headers) == {"x-authenticated": "alice", "x-conf": "{}"}


@pytest.mark.parametrize(
    ("do", "give", "result"),
    [
        ("", "request.get_headers()", {"host": "h", "x-a": "1"}),
        ("request.get_headers()['X-B'] = '2'", "request.get_headers()", {"host": "h", "x-a": "1", "x-b": "2"}),
        ("request.get_headers(); request.set_header('X-B', '2')", "request.get_headers()['x-b']", "2"),
        ("del request.get_headers()['x-a']", "request.get_header('x-a')", None),
        ("request.get_headers().pop('X-A')", "request.get_header('x-a')", None),
        ("request.get_headers().update(a='1', b='2')", "request.get_header('b')", "2"),
        ("", "request.get_headers().setdefault('x-a', '5')", "1"),
        ("request.get_headers().clear()", "request.get_headers()", {}),
        ("", "[request.get_headers().get('X-A'), 'X-A' in request.get_headers()]", ["1", True]),
        ("", "isinstance(request.get_headers(), dict)", True),
        ("", "request.set_headers({})", False),
        ("", "[request.set_headers({'x-c': '3'}), request.get_headers()]", [True, {"x-c": "3"}]),
        ("", "request.get_args()", {"q": "1", "z": ""}),
        ("request.get_args()['Q'] = '2'", "request.get_args()", {"q": "1", "z": "", "Q": "2"}),
        ("", "[request.set_args({}), request.set_arg('', '1'), request.set_arg('a', '')]", [False, False, False]),
        ("", "[request.get_configs(), request.get_config('evaluate')]", [{}, None]),
        ("request.set_config('a', 1)", "[request.get_config('a'), request.get_configs(), request.configs]",
         [1, {"a": 1}, {"a": 1}]),
        ("", "request.set_configs({})", False),
        ("", "request.get_conf_token() == request.conf_token > 0", True),
        ("request.set_conf_token(5)", "request.get_conf_token()", 5),
        ("", "[request.get_id(), request.set_id(0), response.get_req_id()]", [7, False, 7]),
        ("request.set_id(9)", "request.id", 9),
        ("", "request.get_var('none')", ""),
        ("request.set_var('v', 'x')", "request.get_var('v')", "x"),
        ("", "[request.set_method('PURGE'), request.set_method('put'), request.get_method()]", [False, True, "put"]),
        ("", "request.get_remote_addr()", "2001:0db8:0000:0000:0000:0000:0000:0001"),
        ("request.set_remote_addr('10.0.0.1')", "request.get_remote_addr()", "10.0.0.1"),
        ("", "request.checked()", True),
        ("", "[response.set_header('', 'x'), response.set_header('x', ''), response.set_headers({})]", [False] * 3),
        ("", "[response.set_body(''), response.get_body(), response.get_status_code()]", [False, "", 200]),
    ],
)  # fmt: skip
def test_0_2_0s_methods_give_what_they_gave(
    start_runner: StartRunner, tmp_path: Path, do: str, give: str, result: object
) -> None:
    (tmp_path / "table.py").write_text(TABLE)
    runner = start_runner("-p", tmp_path / "table.py", "--workers", "0")
    with runner.peer() as peer:
        token = peer.prepare(("evaluate", json.dumps({"do": [do], "give": give})))
        action = peer.request(
            token, id=7, headers=[("host", "h"), ("x-a", "1")], args=[("q", "1"), ("z", None)],
            src_ip=bytes.fromhex("20010db8" + "0" * 23 + "1"),
        )  # fmt: skip
    assert isinstance(action, Stop)
    assert json.loads(action.body) == result


GUIDE = """
from apisix.plugin.runner import Plugin
class Verdicts(Plugin):
    name = "verdicts"
    def filter(self, request, response):
        response.headers["x-a"] = "1"
        exec(self.config["code"])
        return eval(self.config["result"])
class AsyncBody(Plugin):
    def __init__(self):
        self.name = "async-body"
    async def filter_async(self, request, response):
        response.body = request.body.upper()
        return False
"""


@pytest.mark.parametrize(
    ("code", "result", "action"),
    [
        ("pass", "True", Rewrite(resp_headers=[("x-a", "1")])),
        ("pass", "None", Rewrite(resp_headers=[("x-a", "1")])),
        ("response.status_code = 204", "None", Stop(204, [("x-a", "1")])),
        ("response.body = 'b'", "None", Stop(200, [("x-a", "1")], b"b")),
        ("response.status_code = 401", "True", Rewrite(resp_headers=[("x-a", "1")])),
        ("pass", "False", Stop(403, [("x-a", "1")])),
        ("response.body = 'b'", "False", Stop(200, [("x-a", "1")], b"b")),
    ],
)
def test_the_guides_verdicts(
    start_runner: StartRunner, tmp_path: Path, code: str, result: str, action: Stop | Rewrite
) -> None:
    (tmp_path / "g.py").write_text(GUIDE)
    runner = start_runner("-p", tmp_path / "g.py")
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("verdicts", json.dumps({"code": code, "result": result})))) == action
        if code == "pass":
            answer = peer.request(peer.prepare(("async-body", "{}")), answers={"REQ_BODY": b"abc"})
            assert answer == Stop(200, body=b"ABC")


def test_bare_objects_serve_unit_tests() -> None:
    request = GuideRequest()
    request.headers = {"User-Agent": "curl"}
    request.path, request.method, request.body, request.remote_addr = "/x", "POST", "{}", "10.0.0.1"
    assert "user-agent" in request.headers
    assert (request.path, request.method, request.body, request.remote_addr) == ("/x", "POST", "{}", "10.0.0.1")
    assert not GuideResponse().answered
    old = Request()
    assert old.set_header("X-A", "1")
    assert old.get_header("x-a") == "1"
    assert old.headers == {"x-a": "1"}
    response = Response()
    assert not response.changed()
    response.set_status_code(201)
    assert response.changed()
    assert response.get_status_code() == 201


def test_stop_and_rewrite_say_what_was_asked_for() -> None:
    class Mine(Base):
        pass

    plugin = Mine("mine")
    assert plugin.action == 2
    plugin.stop()
    assert plugin.action == 1
    plugin.rewrite()
    assert plugin.action == 2


def test_a_guide_plugin_without_a_filter_is_refused() -> None:
    class Nothing(GuidePlugin):
        name = "nothing"

    with pytest.raises(TypeError, match="neither filter"):
        Nothing.__gatewright_plugin__()


def test_the_old_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("socket:\n  file: $env.WHERE\nlogging:\n  level: warn # or so\ndebug\n")
    assert read_legacy_config(file, {"WHERE": "unix:/tmp/x"}) == {"listen": "unix:/tmp/x", "log_level": "warn"}
    assert read_legacy_config(file, {}) == {"log_level": "warn"}
    file.write_text("socket: 5\n")
    with pytest.raises(ConfigError, match=r"socket\.file"):
        read_legacy_config(file, {})
    with pytest.raises(ConfigError, match="No such file"):
        read_legacy_config(tmp_path / "none", {})
