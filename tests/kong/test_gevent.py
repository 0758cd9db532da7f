"""`-g`: handlers in greenlets of gevent's, over both protocols, in a real process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MEASURING
from tests.kong.conftest import Server, Start, wait_until
from tests.kong.peer import Exited, MsgPackKong

both = pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])

PLUGIN = """
import socket, ssl, threading, time, urllib.request
from gatewright import Plugin as Native

LOCK = threading.Lock()

class Plugin(object):
    def __init__(self, config):
        self.config = config

    def access(self, kong):
        how, _ = kong.request.get_header("x-how")
        if how == "sleep": time.sleep(0.5)
        if how == "http":
            with urllib.request.urlopen(self.config["url"]) as answer:
                kong.response.set_header("x-got", answer.read().decode())
        if how == "lock":
            with LOCK: time.sleep(0.05)
        if how == "late":
            try:
                time.sleep(30)
            finally:
                kong_calls.append("cleaned up")
        if how == "late-call": kong.request.get_method()
        if how == "raise": raise RuntimeError("on purpose")
        if how == "exit": kong.response.exit(418, "teapot")
        if how == "spawn":
            import gevent
            job = gevent.spawn(lambda: kong.request.get_path()[0])
            kong.response.set_header("x-path", job.get())
        if how == "thread":
            found = []
            thread = threading.Thread(target=lambda: found.append(kong.request.get_path()[0]))
            thread.start(); thread.join()
            kong.response.set_header("x-path", found[0])
        if how == "ssl": ssl.create_default_context().options |= ssl.OP_NO_TLSv1_2
        kong.response.set_header("x-done", "yes")

    def rewrite(self, kong):
        kong.response.set_header("x-cleaned", str(len(kong_calls)))

    async def response(self, kong):
        import asyncio
        await asyncio.sleep(0.2)
        await kong.response.set_header("x-async", "yes")

kong_calls = []
"""
NATIVE = """
import time
from gatewright import Plugin
class Slow(Plugin):
    name = "slow"
    def on_request(self, request):
        time.sleep(0.3)
        request.headers["x-slow"] = request.path
"""


@pytest.fixture
def url() -> Any:
    """A service that takes its time."""

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(0.5)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"slowly")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def pdk(how: str) -> dict[str, Callable[..., Any]]:
    return {"kong.request.get_header": lambda _: how, "kong.request.get_path": lambda: "/p"}


def at_once(server: Server, instance: int, hows: list[str], phase: str = "access") -> tuple[float, list[Any]]:
    """So many events at once, each over a connection of its own; gives the time, and a header or a status of each."""
    results: list[Any] = [None] * len(hows)

    def run(number: int, how: str) -> None:
        with server.kong() as kong:
            try:
                kong.event(instance, phase, pdk(how))
                results[number] = [args for method, args in kong.calls if method == "kong.response.set_header"]
            except Exited as exited:
                results[number] = exited.status

    threads = [threading.Thread(target=run, args=item) for item in enumerate(hows)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return time.monotonic() - began, results


@both
@pytest.mark.long
@pytest.mark.alone
def test_whatever_blocks_lets_others_go_on_from_the_first_call(start: Start, protocol: str, url: str) -> None:
    server = start(protocol, "-g", plain=PLUGIN)
    with server.kong() as kong:
        instance = kong.start("plain", {"url": url})
    took, results = at_once(server, instance, ["sleep"] * 50)
    assert took < 3
    assert results == [[["x-done", "yes"]]] * 50
    took, results = at_once(server, instance, ["http"] * 20)
    assert took < 4
    assert results == [[["x-got", "slowly"], ["x-done", "yes"]]] * 20
    took, _ = at_once(server, instance, ["lock"] * 5)
    assert took >= 0.25, "a lock is a lock"
    took, results = at_once(server, instance, [""] * 20, "response")
    assert took < 3
    assert results == [[["x-async", "yes"]]] * 20
    threads = len(list(Path(f"/proc/{worker_of(server)}/task").iterdir()))
    assert threads < 20, "greenlets are no threads"  # gevent has ten of its own, for looking names up


def worker_of(server: Server) -> int:
    (pid,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return int(pid)


@pytest.mark.parametrize("protocol", [pytest.param("msgpack", marks=pytest.mark.long), "protobuf"])
@pytest.mark.alone
def test_deadlines_interrupt_what_blocks(start: Start, protocol: str) -> None:
    server = start(protocol, "-g", plain=PLUGIN, environ={"GATEWRIGHT_TIMEOUT": "1"})
    with server.kong() as kong:
        instance = kong.start("plain", {})
        took, results = at_once(server, instance, ["late", "raise", "", "late", "exit"])
        assert results == [500, 500, [["x-done", "yes"]], 500, 418]
        assert took < 3
        kong.event(instance, "rewrite", {})
        assert kong.calls[-1][1] == ["x-cleaned", "2"]
        kong.calls.clear()
        slow = {**pdk("late-call"), "kong.request.get_method": lambda: time.sleep(1.5) or "GET"}
        with pytest.raises(Exited) as exited:
            kong.event(instance, "access", slow)
        assert exited.value.status == 500


@both
def test_the_pdk_can_be_called_from_greenlets_and_threads_of_the_plugins_own(start: Start, protocol: str) -> None:
    server = start(protocol, "-g", plain=PLUGIN)
    with server.kong() as kong:
        instance = kong.start("plain", {})
    for how in ("spawn", "thread"):
        _, results = at_once(server, instance, [how] * 5)
        assert results == [[["x-path", "/p"], ["x-done", "yes"]]] * 5, server.log


@pytest.mark.alone
def test_native_plugins_and_processes(start: Start) -> None:
    server = start("msgpack", "-g", "-m", native=NATIVE)
    with server.kong() as kong:
        instance = kong.start("slow", {})
    changed: list[Any] = []

    def run() -> None:
        with server.kong() as kong:
            kong.event(instance, "access", {"kong.request.get_path": lambda: "/p"})
            changed.append(kong.calls[-1])

    threads = [threading.Thread(target=run) for _ in range(10)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - began < 2.5
    assert changed == [("kong.service.request.set_header", ["x-slow", "/p"])] * 10
    server.process.terminate()
    assert server.process.wait(10) == 0


def test_a_dedicated_server_has_gevent_before_its_plugins_imports(tmp_path: Path) -> None:
    """Or else a context for TLS made from what was imported before would recur without end."""
    file = tmp_path / "own.py"
    (tmp_path / "own_neighbour.py").write_text("VALUE = 'yes'\n")
    file.write_text(
        "import ssl\nfrom ssl import SSLContext, PROTOCOL_TLS_CLIENT\nfrom own_neighbour import VALUE\n"
        "version = '1.2.3'\npriority = 9\nSchema = ()\n"
        "class Plugin(object):\n"
        "    def __init__(self, config): pass\n"
        "    def access(self, kong):\n"
        "        SSLContext(PROTOCOL_TLS_CLIENT).options |= ssl.OP_NO_TLSv1_2\n"
        "        kong.response.set_header('x-done', VALUE)\n"
        "if __name__ == '__main__':\n"
        "    from kong_pdk.cli import start_dedicated_server\n"
        "    start_dedicated_server('named-otherwise', Plugin, version, priority)\n"
    )
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, file, "-g", "-v", "-p", tmp_path], stdout=log, stderr=log, env=MEASURING
    )
    try:
        wait_until((tmp_path / "named-otherwise.sock").exists)
        wait_until(lambda: "listening" in (tmp_path / "log").read_text())
        with MsgPackKong(tmp_path / "named-otherwise.sock") as kong:
            info = kong.rpc("plugin.GetPluginInfo", "named-otherwise")
            assert (info["Version"], info["Priority"]) == ("1.2.3", 9)
            kong.event(kong.start("named-otherwise", {}), "access", {})
            assert kong.calls == [("kong.response.set_header", ["x-done", "yes"])]
    finally:
        process.terminate()
        assert process.wait(10) == 0, (tmp_path / "log").read_text()
        log.close()
