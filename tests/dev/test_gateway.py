"""The development gateway with a real runner process, a real upstream and a real client; no recordings needed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.apisix.routes import Upstream, build_routes, load_routes
from gatewright.dev.apisix.rpc import Timeouts
from gatewright.errors import ConfigError
from tests import launching
from tests.conftest import ROOT, RunnerProcess, StartRunner
from tests.dev.recorded import send_http2

PLUGINS = """
from gatewright import Plugin, Response
class Tag(Plugin):
    async def on_request(self, request):
        request.headers["x-tag"] = self.config.get("tag", "none")
        request.query["seen"] = "1"
    async def on_response(self, request, response):
        response.headers["x-done"] = "yes"
        if self.config.get("upper"):
            response.set_body((await response.body()).upper())
class Deny(Plugin):
    def on_request(self, request):
        return Response(403, {"x-why": "because"}, "no\\n")
class Boom(Plugin):
    def on_request(self, request):
        raise RuntimeError("boom")
class Rewriter(Plugin):
    def on_request(self, request):
        request.path = "/new path"
        request.set_body(request.body() + b" and more")
"""


@pytest.fixture
def runner(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> RunnerProcess:
    return start_runner("-p", plugin_dir(p=PLUGINS))


@asynccontextmanager
async def gateway_for(runner: RunnerProcess, plugins: dict[str, object]) -> AsyncIterator[tuple[str, list[dict]]]:
    """A gateway with one route, before an upstream that notes what it gets and answers as asked."""
    seen: list[dict] = []

    async def upstream(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        seen.append({"target": request.raw_path, "headers": dict(request.headers), "body": body})
        if request.path == "/large":
            return web.Response(body=b"x" * 300_000)
        if request.path.startswith("/204"):
            return web.Response(status=204, headers={"x-up": "1"})
        response = web.Response(body=b"answer", headers={"content-type": "text/x-up", "x-up": "1"})
        response.headers.add("set-cookie", "a=1")
        response.headers.add("set-cookie", "b=2")
        return response

    serving = web.ServerRunner(web.Server(upstream))
    await serving.setup()
    await web.TCPSite(serving, "127.0.0.1", 0).start()
    target = Upstream("127.0.0.1", serving.addresses[0][1])
    routes = build_routes({"routes": [{"uri": "/*", "plugins": plugins}]}, default_upstream=target)
    gateway = DevGateway(routes, f"unix:{runner.socket}", timeouts=Timeouts(read=5))
    await gateway.start()
    try:
        yield f"http://127.0.0.1:{gateway.port}", seen
    finally:
        await gateway.stop()
        await serving.cleanup()


def conf(*plugins: tuple[str, dict[str, object]], **more: object) -> dict[str, object]:
    return {"conf": [{"name": name, "value": json.dumps(value)} for name, value in plugins], **more}


async def test_a_request_goes_through_changed_and_the_answer_comes_back_changed(runner: RunnerProcess) -> None:
    plugins = {
        "ext-plugin-pre-req": conf(("tag", {"tag": "red"})),
        "ext-plugin-post-resp": conf(("tag", {"upper": True})),
    }
    async with gateway_for(runner, plugins) as (url, seen), ClientSession() as client:
        for _ in range(3):  # the connection is kept, the token cached
            async with client.get(f"{url}/x?a=1") as answer:
                assert answer.status == 200
                assert await answer.read() == b"ANSWER"
                assert answer.headers.getall("set-cookie") == ["a=1", "b=2"]
                assert answer.headers["content-type"] == "text/x-up"
                assert answer.headers["x-done"] == "yes"
        assert [item["target"] for item in seen] == ["/x?a=1&seen=1"] * 3
        assert seen[0]["headers"]["x-tag"] == "red"


async def test_a_stop_answers_the_client_and_the_upstream_is_not_asked(runner: RunnerProcess) -> None:
    async with (
        gateway_for(runner, {"ext-plugin-pre-req": conf(("deny", {}))}) as (url, seen),
        ClientSession() as client,
    ):
        async with client.get(url) as answer:
            assert (answer.status, await answer.text(), answer.headers["x-why"]) == (403, "no\n", "because")
        assert seen == []


@pytest.mark.parametrize(("degrade", "status", "asked"), [(False, 503, 0), (True, 200, 1)])
@pytest.mark.parametrize("plugin", ["boom", "unknown"])
async def test_a_failure_is_503_unless_the_route_allows_degradation(
    runner: RunnerProcess, plugin: str, degrade: bool, status: int, asked: int
) -> None:
    plugins = {"ext-plugin-pre-req": conf((plugin, {}), allow_degradation=degrade)}
    async with gateway_for(runner, plugins) as (url, seen), ClientSession() as client:
        async with client.get(url) as answer:
            assert answer.status == status
        assert len(seen) == asked


async def test_path_and_body_are_rewritten_whole_even_before_a_response_phase(
    runner: RunnerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    plugins = {"ext-plugin-pre-req": conf(("rewriter", {})), "ext-plugin-post-resp": conf(("tag", {}))}
    async with gateway_for(runner, plugins) as (url, seen), ClientSession() as client:
        async with client.post(f"{url}/old?q=1", data=b"body") as answer:
            assert answer.status == 200
        (request,) = seen
        assert (request["target"], request["body"]) == ("/new%20path?q=1", b"body and more")
    assert "fault" not in caplog.text


async def test_the_runner_keeps_the_gateway_from_asking_the_upstream_twice(
    runner: RunnerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    plugins = {"ext-plugin-post-resp": conf(("tag", {}))}
    async with gateway_for(runner, plugins) as (url, seen), ClientSession() as client:
        async with client.delete(f"{url}/204") as answer:
            assert (answer.status, answer.headers["x-up"]) == (204, "1")
        assert len(seen) == 1
    assert "second time" not in caplog.text


async def test_a_restarted_runner_is_given_the_configurations_again(
    start_runner: StartRunner, plugin_dir: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    directory = plugin_dir(p=PLUGINS)
    first = start_runner("-p", directory)
    async with (
        gateway_for(first, {"ext-plugin-pre-req": conf(("deny", {}))}) as (url, _),
        ClientSession() as client,
    ):
        async with client.get(url) as answer:
            assert answer.status == 403
        first.stop()
        async with client.get(url) as answer:
            assert answer.status == 503
        second = start_runner("-p", directory, "--listen", f"unix:{first.socket}", socket=first.socket)
        async with client.get(url) as answer:
            assert answer.status == 403
        assert second.process.poll() is None


async def test_every_fault_is_a_warning_that_names_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ended: list[asyncio.Event] = []

    async def zero_length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.Event())
        mine = ended[-1]
        if head := await reader.read(4):
            writer.write(bytes([head[0], 0, 0, 0]))
            await reader.read()
        writer.close()
        await writer.wait_closed()
        mine.set()

    server = await asyncio.start_unix_server(zero_length, tmp_path / "r.sock")
    routes = build_routes(
        {"routes": [{"uri": "/*", "plugins": {"ext-plugin-pre-req": conf(("p", {}), allow_degradation=True)}}]},
        default_upstream=Upstream("127.0.0.1", 1),
    )
    gateway = DevGateway(routes, f"unix:{tmp_path / 'r.sock'}")
    await gateway.start()
    with caplog.at_level(logging.WARNING, "gatewright.dev"):
        async with ClientSession() as client, client.get(f"http://127.0.0.1:{gateway.port}/") as answer:
            assert answer.status == 500
            assert "500 Internal Server Error" in await answer.text()
    await gateway.stop()
    server.close()
    for event in ended:
        await event.wait()
    assert "without a payload makes APISIX abort" in caplog.text
    assert "leaves the lock held" in caplog.text


async def test_large_answers_pass_over_http2_and_connections_are_closed_as_asked(
    runner: RunnerProcess, plugin_dir: Callable[..., Path]
) -> None:
    async with gateway_for(runner, {}) as (url, seen):
        port = int(url.rsplit(":", 1)[1])
        request = {"method": "POST", "target": "/big", "sent_by": "curl-h2", "headers": [["Host", "h"]]}
        answer = await send_http2(port, {**request, "body": {"repeat_b64": "eHg=", "count": 3}}, 10)
        assert answer["line"] == "HTTP/2 200"
        assert seen[0]["body"] == b"xxxxxx"
        answer = await send_http2(port, {**request, "target": "/large"}, 10)
        assert len(answer["body"]) == 300_000
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        writer.write(b"ok")
        rest = await reader.read()  # to the end: the gateway closes
        assert b"Connection: close" in rest
        assert b"Date: " in rest
        writer.close()
        await writer.wait_closed()


def test_dev_that_is_stopped_while_it_starts_leaves_nothing_behind() -> None:
    with tempfile.TemporaryDirectory(prefix="d-") as directory:  # short, since a socket's path is
        process = subprocess.Popen(
            [sys.executable, "-m", "gatewright", "dev", str(ROOT / "examples" / "plugins"), "--port", "0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": directory},
        )  # fmt: skip
        while not list(Path(directory).glob("gatewright-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        assert process.wait(15) == 0
        assert not list(Path(directory).iterdir())


# --- route files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("routes: 5", "expected a list under `routes:`"), ("{", "not valid YAML"),
        ("routes: [{id: 1}]", "route 1: needs `uri` or `uris`"),
        ("routes: [{id: 7, uri: /a, filter_func: x}]", "route 7: `filter_func` is not supported"),
        ("routes: [{uri: /a, service_id: 9}]", "there is no service 9"),
        ("routes: [{uri: /a, upstream: {type: roundrobin}}]", "needs `nodes`"),
        ("routes: [{uri: /a, plugins: {ext-plugin-pre-req: {conf: [{name: x}]}}}]", "needs `name` and `value`"),
        ("routes: [{uri: /a, plugins: {ext-plugin-pre-req: {conf: [{name: x, value: {a: 1}}]}}}]", "as JSON text"),
    ],
)  # fmt: skip
def test_a_bad_route_file_says_where_and_why(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "apisix.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_routes(file)


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("    filter_func: x\n", "5: route two: `filter_func` is not supported"),
        ("    plugins:\n      guard: {level: 3}\n", "6: route two: guard: here APISIX looks for plugins of its own"),
        ("    plugins:\n      ext-plugin-pre-req:\n        confs: []\n", "7: route two: ext-plugin-pre-req: `confs`"),
        ("    plugins:\n      ext-plugin-post-req: {conf: []}\n", "6: route two: ext-plugin-post-req: `conf` is empty"),
        ("    upstream:\n      nods: {}\n", "6: route two: upstream: `nods` is not supported"),
        ("    service_id: 9\n", "3: route two: there is no service"),
        ("global_rules:\n  - id: 1\n    plugins:\n      guard: {}\n", "8: global rule: guard: here APISIX looks"),
    ],
)  # fmt: skip
def test_a_bad_route_file_says_in_which_line(tmp_path: Path, rest: str, told: str) -> None:
    file = tmp_path / "apisix.yaml"
    file.write_text(f"routes:\n  - {{id: one, uri: /a}}\n  - id: two\n    uri: /b\n{rest}")
    with pytest.raises(ConfigError) as raised:
        load_routes(file, ours=["guard"])
    assert str(raised.value).startswith(f"{file}:{told}")


def test_routes_match_as_in_apisix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "apisix.yaml"
    file.write_text(
        """
routes:
  - {id: all, uri: /*}
  - {id: api, uris: [/api/*, /v1/*]}
  - {id: exact, uri: /api/one}
  - {id: post, uri: /api/two, methods: [POST]}
  - {id: host, uri: /*, hosts: ["*.example.com"], priority: 1}
  - {id: other, uri: /prometheus, plugins: {prometheus: {}}}
#END
"""
    )
    routes = load_routes(file)

    def found(method: str, host: str, path: str) -> str:
        route = routes.find(method, host, path)
        assert route is not None
        return route.id

    assert found("GET", "h", "/api/one") == "exact"
    assert found("GET", "h", "/api/two") == "api"
    assert found("POST", "h", "/api/two") == "post"
    assert found("GET", "h", "/v1/x") == "api"
    assert found("GET", "a.example.com", "/x") == "host"
    assert found("GET", "h", "/x") == "all"
    assert "plugin prometheus is ignored" in caplog.text


# --- the command


@contextmanager
def dev(*arguments: str | Path, code: int = 0) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`gatewright dev` until its banner is out; gives the process and the lines printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gatewright", "dev", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.strip().startswith("curl"):
            break
    try:
        yield process, lines
    finally:
        process.terminate()
        assert process.wait(15) == code
        process.stdout.close()


def get(url: str) -> tuple[int, str, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), dict(error.headers)


def test_the_printed_curl_works_and_the_upstream_echoes() -> None:
    with dev(ROOT / "examples" / "plugins", "--port", "0") as (_, lines):
        url = lines[-1].split()[-1]
        status, text, _ = get(url)
        assert (status, text) == (401, "who are you? try again with ?user=ada\n")
        status, text, headers = get(f"{url}?user=ada")
        assert status == 200
        assert ["x-greeting", "hello ada"] in json.loads(text)["headers"]
        assert headers["x-served-by"] == "gatewright"
        assert "not for production" in " ".join(lines)


def test_a_route_file_and_an_upstream_are_used(tmp_path: Path) -> None:
    file = tmp_path / "apisix.yaml"
    value = json.dumps({"greeting": "hi"})
    conf = {"conf": [{"name": "greet", "value": value}]}
    file.write_text(json.dumps({"routes": [{"uri": "/only", "plugins": {"ext-plugin-pre-req": conf}}]}))
    with dev(ROOT / "examples" / "plugins", "--port", "0", "--routes", file) as (_, lines):
        base = lines[-1].split()[-1].removesuffix("/only")
        assert ["x-greeting", "hi ada"] in json.loads(get(f"{base}/only?user=ada")[1])["headers"]
        assert get(f"{base}/else")[0] == 404


def test_where_requests_are_to_go_is_there_whatever_routes_say() -> None:
    said = {"routes": [
        {"id": 1, "uri": "/a", "upstream": {"nodes": {"10.0.0.1:80": 1}, "pass_host": "node"}},
        {"id": 2, "uri": "/b"},
    ]}  # fmt: skip
    routes = build_routes(said, source="x", version="1").to(Upstream("127.0.0.1", 5000))
    targets = [route.upstream.target(0) for route in routes.routes if route.upstream]
    assert [(target.host, target.port) for target in targets] == [("127.0.0.1", 5000)] * 2
    assert targets[0].pass_host == "node"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}/nowhere", "--port", "0"], "nowhere does not exist"),
        (["{plugins}", "--upstream", "ftp://x"], "--upstream is a URL"),
        (["{plugins}", "--routes", "/nonexistent.yaml"], "No such file"),
    ],
)
def test_dev_that_cannot_start_says_why(tmp_path: Path, arguments: list[str], message: str) -> None:
    filled = [text.format(empty=tmp_path, plugins=ROOT / "examples" / "plugins") for text in arguments]
    run = launching.run([sys.executable, "-m", "gatewright", "dev", *filled])
    assert run.returncode == 2
    assert message in run.stderr


@pytest.mark.long
def test_a_taken_port_is_named_with_the_cure() -> None:
    with dev(ROOT / "examples" / "plugins", "--port", "0") as (_, lines):
        port = lines[-1].split(":")[-1].split("/")[0]
        command = [sys.executable, "-m", "gatewright", "dev", ROOT / "examples" / "plugins", "--port", port]
        run = launching.run(command)
    assert run.returncode == 2
    assert f"127.0.0.1:{port}: Address already in use; choose another one with --port" in run.stderr


def test_a_plugin_that_ends_its_worker_costs_its_own_request_only(tmp_path: Path) -> None:
    file = tmp_path / "die.py"
    file.write_text(
        "import os\nfrom gatewright import Plugin\nclass Die(Plugin):\n"
        "    def on_request(self, r):\n        if r.path == '/die': os._exit(7)\n"
    )
    with dev(file, "--port", "0") as (_, lines):
        url = lines[-1].split()[-1]
        assert get(url)[0] == 200
        assert get(url.replace("/hello", "/die"))[0] == 503
        assert get(url)[0] == 200


@pytest.mark.long
def test_a_runner_that_ends_ends_dev_with_an_error() -> None:
    with dev(ROOT / "examples" / "plugins", "--port", "0", code=1) as (process, _):
        runner = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
        os.kill(int(runner), signal.SIGKILL)
        assert process.wait(15) == 1


def test_the_runner_does_not_outlive_a_killed_dev(tmp_path: Path) -> None:
    with dev(ROOT / "examples" / "plugins", "--port", "0", code=-signal.SIGKILL) as (process, _):
        runner = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        process.kill()
        process.wait()
        deadline = time.monotonic() + 5
        while Path(f"/proc/{runner}/cmdline").exists() and Path(f"/proc/{runner}/cmdline").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.05)


GREETING = """
from gatewright import Plugin
class Greet(Plugin):
    def on_request(self, request):
        request.response_headers["x-greeting"] = "{greeting}"
"""


def wait_for_greeting(url: str, wanted: str) -> None:
    deadline = time.monotonic() + 15
    while (seen := get(url)[2].get("x-greeting")) != wanted:
        assert time.monotonic() < deadline, f"still {seen!r}"
        time.sleep(0.05)


def test_dev_reloads_by_itself_and_keeps_what_worked(tmp_path: Path) -> None:
    file = tmp_path / "greet.py"
    file.write_text(GREETING.format(greeting="one"))
    with dev(tmp_path, "--port", "0") as (_, lines):
        url = lines[-1].split()[-1]
        wait_for_greeting(url, "one")
        file.write_text(GREETING.format(greeting="two"))
        wait_for_greeting(url, "two")
        file.write_text("def broken(:\n")
        time.sleep(1.5)
        assert get(url)[2]["x-greeting"] == "two"
        (tmp_path / "more.py").write_text(GREETING.format(greeting="more").replace("Greet", "More"))
        file.write_text(GREETING.format(greeting="three"))
        wait_for_greeting(url, "more")


@pytest.mark.parametrize(
    ("conf", "message"),
    [({"name": "guard", "config": {}}, "name plugins in `conf`"), ({"conf": []}, "`conf` is empty")],
)
def test_plugins_named_where_apisix_does_not_look_are_refused(conf: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_routes({"routes": [{"uri": "/x", "plugins": {"ext-plugin-pre-req": conf}}]})


@pytest.mark.parametrize(
    "content",
    [
        {"routes": [{"uri": "/x", "plugins": {"guard": {}}}]},
        {"routes": [], "global_rules": [{"id": 1, "plugins": {"guard": None}}]},
        {"routes": [{"uri": "/x", "service_id": 1}], "services": [{"id": 1, "plugins": {"guard": {}}}]},
    ],
)
def test_a_plugin_named_like_one_of_apisix_s_own_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"guard: here APISIX looks for plugins of its own; .*conf: \[\{name: guard"):
        build_routes(content, ours=["guard"])
