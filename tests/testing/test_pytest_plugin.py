"""pytest's plugin: its fixtures, records of failing tests, snapshots; and the conformance suite."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from gatewright import Plugin, SyncRequest
from gatewright.dev.reader import RefusedError
from gatewright.errors import GatewayClosedError
from gatewright.testing import SyncRequest as MadeRequest
from gatewright.testing import TestClient, strategies
from gatewright.testing.conformance.conftest import listening
from tests.conftest import ROOT, StartRunner

GREET = """
from gatewright import Plugin
class Greet(Plugin):
    def on_request(self, request):
        request.headers["x-greeting"] = "hello"
"""


def pytest_in(directory: Path, *arguments: object, source: str = "") -> subprocess.CompletedProcess[str]:
    if source:
        (directory / "greet.py").write_text(GREET)
        (directory / "test_it.py").write_text(source)
    own = ["-p", "no:gatewright", "-p", "gatewright.pytest_plugin", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *own, *map(str, arguments)],
        cwd=directory, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
    )  # fmt: skip


@pytest.mark.long
def test_records_of_failing_tests_are_kept(tmp_path: Path) -> None:
    source = """
import asyncio
from gatewright.testing import AsyncTestClient, TestClient
def test_fails(gatewright_client):
    assert gatewright_client("greet.py").get("/y").status == 201
def test_made_by_hand():
    TestClient("greet.py").get("/x")
    assert TestClient("greet.py").get("/y").status == 201
def test_made():  # no other test's records go when this one has passed
    assert TestClient("greet.py").get("/x").status == 200
def test_async():
    async def run():
        async with AsyncTestClient("greet.py") as client:
            assert (await client.get("/z")).status == 201
    asyncio.run(run())
def test_many():
    for number in range(30):
        TestClient("greet.py").get(f"/{number}")
    assert False
def test_passes(gatewright_client):
    assert gatewright_client("greet.py").get("/x").status == 200
"""
    run = pytest_in(tmp_path, "--gatewright-record", "records", source=source)
    assert "4 failed, 2 passed" in run.stdout, run.stdout + run.stderr
    kept = {file.stem.removeprefix("test_it.py-"): file for file in (tmp_path / "records").iterdir()}
    many = {name for name in kept if name.startswith("test_many")}
    assert many == {f"test_many-{number}" for number in range(11, 31)}
    assert kept.keys() - many == {"test_fails", "test_made_by_hand", "test_made_by_hand-2", "test_async"}
    assert json.loads(kept["test_async"].read_text())["request"]["target"] == "/z"
    record = json.loads(kept["test_fails"].read_text())
    assert record["request"]["target"] == "/y"
    assert record["phases"][0]["plugins"][0]["changes"] == [
        {"of": "header", "name": "x-greeting", "before": None, "after": ["hello"]}
    ]


@pytest.mark.long
def test_snapshots_of_changes_are_compared(tmp_path: Path) -> None:
    source = """
def test_it(gatewright_client, gatewright_snapshot):
    gatewright_snapshot(gatewright_client("greet.py").get("/x"))
"""
    assert "--gatewright-update once" in pytest_in(tmp_path, source=source).stdout
    assert pytest_in(tmp_path, "--gatewright-update").returncode == 0
    assert "hello" in (tmp_path / "__changes__" / "test_it-test_it.json").read_text()
    assert pytest_in(tmp_path).returncode == 0
    (tmp_path / "greet.py").write_text(GREET.replace("hello", "bye"))
    told = pytest_in(tmp_path).stdout
    assert "plugins change something else" in told
    assert '-          "hello"' in told
    assert '+          "bye"' in told
    assert "unified_diff" not in told, "the fixture's own lines say nothing to an author"


@pytest.mark.long
def test_a_real_gateway_and_an_upstream_that_notes(tmp_path: Path) -> None:
    source = """
def test_it(gateway, fake_upstream):
    fake_upstream.answer({"up": 1})
    behind = gateway("greet.py", upstream=fake_upstream.url)
    answer = behind.post("/x?a=1", body="hi", headers={"content-type": "text/plain"})
    assert (answer.status, answer.text) == (200, '{"up": 1}')
    (sent,) = fake_upstream.requests
    assert (sent.method, sent.path, sent.query, sent.body) == ("POST", "/x", {"a": "1"}, b"hi")
    assert sent.headers["x-greeting"] == "hello"
"""
    run = pytest_in(tmp_path, source=source)
    assert run.returncode == 0, run.stdout + run.stderr


class _Show(Plugin):
    def on_request(self, request: SyncRequest) -> None:
        request.headers["x-seen"] = str(len(request.headers.multi_items()) + len(request.body()))
        _ = request.path, request.query.multi_items()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.requests())
def test_whatever_clients_send_is_answered(request: dict[str, object]) -> None:
    try:
        answer = _client.request(**request)  # type: ignore[arg-type]
    except (RefusedError, GatewayClosedError):
        return
    assert answer.status in (200, 400)


_client = TestClient(_Show, upstream=lambda _: 200)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.made_sync_requests())
def test_so_is_what_is_made_by_hand(request: MadeRequest) -> None:
    _Show().on_request(request)
    assert "x-seen" in request.changes.headers


class TestConformance:
    @pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.long), "1"])
    def test_our_runner_conforms(self, start_runner: StartRunner, tmp_path: Path, workers: str) -> None:
        runner = start_runner("--workers", workers)
        runner.wait_for_log("listening")
        run = pytest_in(tmp_path, "--pyargs", "gatewright.testing.conformance", "--runner", f"unix:{runner.socket}")
        assert run.returncode == 0, run.stdout + run.stderr
        assert "skipped" in run.stdout  # those of Kong

    @pytest.mark.parametrize("protocol", ["msgpack", pytest.param("protobuf", marks=pytest.mark.long)])
    def test_our_plugin_server_conforms(
        self, start_plugin_server: Callable[..., Path], tmp_path: Path, protocol: str
    ) -> None:
        socket = start_plugin_server(protocol)
        run = pytest_in(
            tmp_path, "--pyargs", "gatewright.testing.conformance", "--plugin-server", f"unix:{socket}",
            "--plugin-server-protocol", protocol,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr

    @pytest.mark.parametrize("address", ["unix:/nowhere/r.sock", "tcp://127.0.0.1:1", "nonsense"])
    def test_nobody_who_listens_is_told_once_and_passes_nothing(self, address: str) -> None:
        with pytest.raises(pytest.exit.Exception, match=r"--runner (is unix:|.*: nobody listens there: )"):
            listening(address, "--runner")

    @pytest.mark.long
    def test_a_runner_that_lets_everything_pass_does_not(self, tmp_path: Path) -> None:
        import socket
        import threading

        from gatewright.gateways.apisix.frames import encode_frame
        from gatewright.gateways.apisix.replies import encode_conf_token

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "r.sock"))
        listener.listen()
        nothing = bytes((8, 0, 0, 0, 4, 0, 4, 0, 4, 0, 0, 0))

        def serve(peer: socket.socket) -> None:
            with peer:
                while head := peer.recv(4, socket.MSG_WAITALL):
                    peer.recv(int.from_bytes(head[1:], "big"), socket.MSG_WAITALL)
                    peer.sendall(encode_conf_token(7) if head[0] == 1 else encode_frame(head[0], nothing))

        def accept() -> None:
            while True:
                try:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        run = pytest_in(
            tmp_path, "--pyargs", "gatewright.testing.conformance", "--runner", f"unix:{tmp_path}/r.sock",
            "-k", "not_there or nobody_gave or without_plugins",
        )  # fmt: skip
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        assert "the request would pass without the plugin" in run.stdout
        assert "2 failed, 1 passed" in run.stdout


@pytest.fixture
def start_plugin_server(start_runner: StartRunner, tmp_path: Path) -> Callable[..., Path]:
    def start(protocol: str) -> Path:
        (tmp_path / "plugins").mkdir()
        (tmp_path / "plugins" / "greet.py").write_text(GREET)
        socket = tmp_path / "s.sock"
        command = [
            sys.executable,
            "-m",
            "kong_pdk.cli",
            "-d",
            tmp_path / "plugins",
            "-p",
            tmp_path,
            "--protocol",
            protocol,
        ]
        start_runner("--socket-name", "s.sock", command=[*map(str, command)], socket=socket, environ={})
        return socket

    return start
