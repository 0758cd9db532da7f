"""Every plugin printed in the documents of the older runners runs as printed, in a real runner process."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pytest
from aiohttp import web

from gatewright.gateways.apisix.replies import Rewrite, Stop
from tests.apisix import seeds
from tests.conftest import ROOT, StartRunner
from tests.peer import Refused

IMPORTS = "from apisix.plugin.runner import PluginRunner, Plugin"

HELLO = (IMPORTS, "runner.run()", "00001212222333220111")
HEADER_REWRITE = ("import json", "runner.run()", "00000122122122342234520111", "实现一个带配置的请求头修改插件:")
ASYNC_AUTH = ("import asyncio", "runner.run()", "0000001222122122344434231222333233320111")
UNIT_TEST = ("# test_header_rewrite.py", 'assert "User-Agent" not in request.headers', "000000111111111")
REDIS = (
    "import json",
    "runner.run()",
    "00000001222122212222222234444444444555554443445440111",
    "实现一个结合Redis的分布式限流插件:",
)
JWT = (
    "import json",
    "runner.run()",
    "00000001221222234122233322334444333444334323330111",
    "实现JWT验证插件,保护API资源:",
)
VALIDATOR = (
    "import json",
    "runner.run()",
    "0000001222122321223233333233323330111",
    "实现基于JSON Schema的请求参数验证:",
)
DEVELOPER = ("from apisix.runner.plugin.base import Base", "self.stop()", "0000121" + "2" * 20)


def guide(snippet: tuple[str, ...]) -> str:
    return seeds.flat(seeds.GUIDE, *snippet)


@pytest.fixture(params=["loaded from a directory", "run as a script"])
def run_guide_plugin(request: pytest.FixtureRequest, start_runner: StartRunner, tmp_path: Path):
    """Run a guide plugin in both ways that the guide shows."""

    def run(name: str, source: str):
        file = seeds.write(tmp_path / "plugins" / f"{name}.py", source)
        environ = {"APISIX_LISTEN_ADDRESS": f"unix:{tmp_path / 'runner-0.sock'}", "PYTHONPATH": str(ROOT)}
        if request.param == "run as a script":
            return start_runner(command=[sys.executable, str(file)], environ=environ)
        command = [sys.executable, "-m", "apisix.plugin.runner", "start", "-p", str(file.parent)]
        return start_runner(command=command, environ=environ)

    return run


@pytest.mark.parametrize("document", [seeds.BLOG_EN, seeds.BLOG_ZH])
def test_the_blogs_stop_plugin_answers_the_client(document: str, start_runner: StartRunner, tmp_path: Path) -> None:
    source = seeds.fenced(document, "python", "class Stop(Base)")
    seeds.write(tmp_path / "plugins" / "stop.py", source)
    runner = start_runner("-p", tmp_path / "plugins")
    with runner.peer() as peer:
        answer = peer.request(peer.prepare(("stop", '{"body":"hello"}')), "/get", headers=[("accept", "*/*")])
    assert answer == Stop(201, [("accept", "*/*"), ("x-resp-a6-runner", "Python")], b"Hello, Python Runner of APISIX")


def test_the_developer_guides_plugin_answers_the_client(start_runner: StartRunner, tmp_path: Path) -> None:
    seeds.write(tmp_path / "plugins" / "say.py", seeds.flat(seeds.DEVELOPER_GUIDE, *DEVELOPER))
    runner = start_runner("-p", tmp_path / "plugins")
    with runner.peer() as peer:
        for name in ("say", "test"):  # the file's name and the class's: the document has both
            answer = peer.request(peer.prepare((name, "{}")), headers=[("host", "x")])
            assert isinstance(answer, Stop)
            assert (answer.status, answer.body) == (201, b"Hello, Python Runner of APISIX")
            assert dict(answer.headers)["x-resp-a6-runner"] == "Python"


def test_hello_world(run_guide_plugin) -> None:
    runner = run_guide_plugin("hello_world", guide(HELLO))
    with runner.peer() as peer:
        token = peer.prepare(("hello-world", "{}"))
        assert peer.request(token, "/hello") == Stop(
            200, [("x-python-plugin", "hello-world")], b"Hello from Python plugin!"
        )
        assert peer.request(token, "/other") == Rewrite(resp_headers=[("x-python-plugin", "hello-world")])


def test_header_rewrite_with_the_guides_configuration(run_guide_plugin) -> None:
    line = next(
        line.strip() for line in seeds.text(seeds.GUIDE).splitlines() if line.strip().startswith('"value": "{\\"add_')
    )
    conf = json.loads("{" + line + "}")["value"]
    runner = run_guide_plugin("header_rewrite", guide(HEADER_REWRITE))
    with runner.peer() as peer:
        answer = peer.request(peer.prepare(("header-rewrite", conf)), headers=[("user-agent", "curl")])
    assert answer == Rewrite(headers=[("x-company", "Apache"), ("x-app", "APISIX"), ("user-agent", None)])


@pytest.mark.long
def test_the_guides_unit_test_passes(tmp_path: Path) -> None:
    seeds.write(tmp_path / "header_rewrite.py", guide(HEADER_REWRITE))
    seeds.write(tmp_path / "test_header_rewrite.py", guide(UNIT_TEST))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_header_rewrite.py", "-p", "no:cacheprovider"],
        cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout


@contextmanager
def auth_service() -> Iterator[str]:
    """A real HTTP service that knows one token."""
    loop = asyncio.new_event_loop()
    ready, url = threading.Event(), []

    async def check(request: web.Request) -> web.Response:
        return web.Response(status=200 if (await request.json())["token"] == "good" else 401)

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/check", check)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url.append(f"http://127.0.0.1:{runner.addresses[0][1]}/check")
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.01)
        await runner.cleanup()

    stop = threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield url[0]
    finally:
        stop.set()
        thread.join(10)
        loop.close()


def test_async_auth(run_guide_plugin) -> None:
    with auth_service() as url:
        runner = run_guide_plugin("async_auth", guide(ASYNC_AUTH))
        with runner.peer() as peer:
            token = peer.prepare(("async-auth", json.dumps({"auth_url": url})))
            assert peer.request(token) == Stop(401, body=b"Missing token")
            assert peer.request(token, headers=[("authorization", "bad")]) == Stop(403, body=b"Invalid token")
            assert peer.request(token, headers=[("authorization", "good")]) is None


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real redis-server on a free port."""
    assert shutil.which("redis-server"), "redis-server is needed: `make test` installs it"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"],
        cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def test_redis_limit_runs_as_printed(run_guide_plugin, redis_url: str) -> None:
    """The snippet compares a redis pipeline with a number, which raises inside its own `try`.

    So, run as printed against a real Redis, it takes its own error path: 500, or on with `fail_open`.
    """
    runner = run_guide_plugin("redis_limit", guide(REDIS))
    with runner.peer() as peer:
        token = peer.prepare(("redis-limit", json.dumps({"redis_url": redis_url})))
        assert peer.request(token) == Stop(500)
        token = peer.prepare(("redis-limit", json.dumps({"redis_url": redis_url, "fail_open": True})))
        assert peer.request(token) is None


def test_jwt_auth(run_guide_plugin) -> None:
    secret = "a secret that is long enough for HS256"
    runner = run_guide_plugin("jwt_auth", guide(JWT))
    with runner.peer() as peer:
        token = peer.prepare(("jwt-auth", json.dumps({"secret": secret, "algorithm": "HS256"})))
        assert peer.request(token) == Stop(401, body=b"Missing or invalid token")
        expired = jwt.encode({"sub": "u1", "exp": int(time.time()) - 60}, secret, "HS256")
        answer = peer.request(token, headers=[("authorization", f"Bearer {expired}")])
        assert isinstance(answer, Stop) and answer.status == 401 and b"expired" in answer.body
        good = jwt.encode({"sub": "u1"}, secret, "HS256")
        assert peer.request(token, headers=[("authorization", f"Bearer {good}")]) == Rewrite(
            headers=[("x-jwt-sub", "u1")]
        )


def test_a_guide_plugin_that_refuses_its_configuration_refuses_the_request(run_guide_plugin) -> None:
    runner = run_guide_plugin("jwt_auth", guide(JWT))
    with runner.peer() as peer:
        token = peer.prepare(("jwt-auth", "{}"))
        with pytest.raises(Refused, match="SERVICE_UNAVAILABLE"):
            peer.request(token)
    assert "Missing required config: secret" in runner.log


def test_request_validator_with_the_guides_schema(run_guide_plugin) -> None:
    lines = seeds.text(seeds.GUIDE).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip() == '"schema": {') - 1
    end = next(i for i in range(start, len(lines)) if lines[i].strip().startswith("插件性能对比"))
    conf = "\n".join(lines[start:end])
    runner = run_guide_plugin("request_validator", guide(VALIDATOR))
    with runner.peer() as peer:
        token = peer.prepare(("request-validator", conf))
        assert peer.request(token) is None
        good = b'{"name": "Ada", "email": "a@b.c", "age": 20}'
        assert peer.request(token, method="POST", answers={"REQ_BODY": good}) is None
        assert peer.request(token, method="POST", answers={"REQ_BODY": b"{"}) == Stop(400, body=b"Invalid JSON format")
        answer = peer.request(token, method="POST", answers={"REQ_BODY": b'{"name": "Ada"}'})
        assert answer == Stop(400, body=b"Validation error: 'email' is a required property")


# --- commands


def command_of(document: str, beginning: str) -> str:
    found = [line.strip() for line in seeds.text(document).splitlines() if beginning in line]
    assert found, f"{document} has no command with {beginning!r}"
    return found[0].removeprefix("$ ")


@pytest.mark.parametrize("document", [seeds.BLOG_EN, seeds.BLOG_ZH])
def test_the_blogs_start_command_runs_in_an_empty_environment(document: str, start_runner: StartRunner) -> None:
    command = command_of(document, "python3 apisix/main.py start")
    path = Path(command.split()[0].removeprefix("APISIX_LISTEN_ADDRESS=unix:"))
    assert path == Path("/tmp/runner.sock")
    runner = start_runner(
        command=["sh", "-c", f"exec env {command}"],
        environ={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        socket=path,
        cwd=ROOT,
    )
    with runner.peer() as peer:
        answer = peer.request(peer.prepare(("stop", '{"body":"hello"}')), "/get")
        assert isinstance(answer, Stop) and answer.body == b"Hello, Python Runner of APISIX"
        answer = peer.request(peer.prepare(("rewrite", "{}")), "/get", args=[("a", "1")])
        assert answer == Rewrite(headers=[("x-resp-a6-runner", "Python")], args=[("a6_runner", "Python")])
    assert runner.stop() == 0
    assert not path.exists()


def test_the_managed_command_runs_with_nothing_but_what_apisix_sets(start_runner: StartRunner, tmp_path: Path) -> None:
    line = command_of(seeds.BLOG_EN, 'cmd: [ "python3", "/path/to/apisix-python-plugin-runner/apisix/main.py"')
    command = json.loads(line.removeprefix("cmd: ").replace("/path/to/apisix-python-plugin-runner", str(ROOT)))
    command[0] = sys.executable
    environ = {"APISIX_LISTEN_ADDRESS": f"unix:{tmp_path / 'runner-0.sock'}", "APISIX_CONF_EXPIRE_TIME": "3600"}
    runner = start_runner(command=command, environ=environ, cwd=Path("/"))
    with runner.peer() as peer:
        assert isinstance(peer.request(peer.prepare(("stop", "{}"))), Stop)


@pytest.mark.parametrize("document", [seeds.BLOG_EN, seeds.BLOG_ZH])
def test_the_blogs_configuration_file_is_read(document: str, start_runner: StartRunner, tmp_path: Path) -> None:
    block = seeds.fenced(document, "bash", "$env.APISIX_LISTEN_ADDRESS")
    config = seeds.write(tmp_path / "config.yaml", "\n".join(block.splitlines()[1:]))
    command = [sys.executable, str(ROOT / "apisix" / "main.py"), "start", "--config", str(config)]
    runner = start_runner(command=command)
    with runner.peer() as peer:
        assert isinstance(peer.request(peer.prepare(("stop", "{}"))), Stop)


def guide_command(containing: str) -> list[str]:
    line = command_of(seeds.GUIDE, containing)
    if line.startswith("cmd: "):
        return json.loads(line.removeprefix("cmd: "))
    return line.split()


@pytest.mark.parametrize(
    "containing",
    ['"apisix.plugin.runner", "start"]', '"--workers", "4"]', "python -m apisix.plugin.runner start --debug"],
)
def test_the_guides_start_commands(containing: str, start_runner: StartRunner, tmp_path: Path) -> None:
    command = guide_command(containing)
    runner = start_runner(
        command=[sys.executable, *command[1:]],
        environ={"PYTHONPATH": str(ROOT), "APISIX_LISTEN_ADDRESS": f"unix:{tmp_path / 'runner-0.sock'}"},
    )
    with runner.peer() as peer:
        assert isinstance(peer.request(peer.prepare(("stop", "{}"))), Stop)
    wanted = int(command[-1]) if "--workers" in command else 1
    runner.wait_for(lambda: len(runner.workers()) == wanted)


def test_the_guides_profile_recipe_writes_a_profile(start_runner: StartRunner, tmp_path: Path) -> None:
    command = guide_command("python -m cProfile -o profile.stats")
    runner = start_runner(
        command=[sys.executable, *command[1:]],
        environ={"PYTHONPATH": str(ROOT), "APISIX_LISTEN_ADDRESS": f"unix:{tmp_path / 'runner-0.sock'}"},
    )
    with runner.peer() as peer:
        assert isinstance(peer.request(peer.prepare(("stop", "{}"))), Stop)
    assert runner.stop() == 0
    assert (tmp_path / "profile.stats").stat().st_size > 1000


def test_plugins_dropped_into_the_working_directory_are_loaded(start_runner: StartRunner, tmp_path: Path) -> None:
    """`mkdir -p apisix/plugins; cp hello_world.py apisix/plugins/`, then the guide's command."""
    seeds.write(tmp_path / "hello_world.py", guide(HELLO))
    begin = "mkdir -p apisix/plugins"
    lines = [line.strip() for line in seeds.text(seeds.GUIDE).splitlines()]
    commands = lines[lines.index(begin) : lines.index(begin) + 2]
    subprocess.run(" && ".join(commands), shell=True, cwd=tmp_path, check=True)
    runner = start_runner(
        command=[sys.executable, "-m", "apisix.plugin.runner", "start"],
        environ={"PYTHONPATH": str(ROOT), "APISIX_LISTEN_ADDRESS": f"unix:{tmp_path / 'runner-0.sock'}"},
    )
    with runner.peer() as peer:
        answer = peer.request(peer.prepare(("hello-world", "{}")), "/hello")
    assert isinstance(answer, Stop) and answer.body == b"Hello from Python plugin!"


def test_every_make_target_of_the_documents_exists() -> None:
    run = subprocess.run(["make", "-n", "install", "setup", "dev"], cwd=ROOT, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
