"""The same plugins on Kong's own plugin server and on ours give the same exchange, where the original is right.

The original is an independent peer: it's installed apart (`make test` does that), since the import names clash.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.kong.plugins import known_plugins
from tests.conftest import ROOT
from tests.kong.conftest import Start
from tests.kong.peer import Exited, Failed, MsgPackKong
from tests.kong.test_dev_gateway import (
    CALLER,
    CHANGES,
    CONSUMER,
    READ_IN_ACCESS,
    READ_IN_RESPONSE,
    calling,
    check,
    kong_before,
    the_request,
)

ORIGINAL = Path(os.environ.get("GATEWRIGHT_KONG_PDK", ROOT / ".venv-kong")) / "bin" / "kong-python-pluginserver"

PLUGIN = """
Schema = ({"message": {"type": "string"}},)
version = "1.2.3"
priority = 7
class Plugin(object):
    def __init__(self, config):
        self.config = config
    def access(self, kong):
        host, err = kong.request.get_header("host")
        query, err = kong.request.get_query(10)
        kong.log.info("query", query, err, self.config.get("message"))
        raw, err = kong.request.get_raw_body()
        kong.response.set_header("x-length", str(len(raw)))
        kong.service.request.set_headers({"a": ["1", "2"]})
        if host == "exit":
            kong.response.exit(403, "no", {"x": ["y"]})
    def rewrite(self, kong):
        pass
    def log(self, kong):
        kong.ctx.shared.set("k", {"a": [1, 2.5, None, True]})
        value, err = kong.ctx.shared.get("k")
        kong.log.notice(value)
"""

FAILS = """
class Plugin(object):
    def __init__(self, config):
        pass
    def access(self, kong):
        raise RuntimeError("before the first call")
    def rewrite(self, kong):
        kong.response.exit(403)
    def log(self, kong):
        pass
"""

PDK: dict[str, Callable[..., Any]] = {
    "kong.request.get_header": lambda _: "example.com",
    "kong.request.get_query": lambda _: {"a": ["1"], "b": []},
    "kong.request.get_raw_body": lambda: b"\xff\xfe body",
    "kong.ctx.shared.get": lambda _: {"a": [1, 2.5, None, True]},
}


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Start Kong's own plugin server."""
    if not ORIGINAL.exists():
        pytest.skip(f"kong-pdk is not installed in {ORIGINAL.parent.parent} (make test does that)")
    started: list[subprocess.Popen[bytes]] = []

    def begin(**plugins: str) -> Path:
        directory = tmp_path / "original"
        directory.mkdir()
        for name, source in plugins.items():
            (directory / f"{name}.py").write_text(source)
        path = tmp_path / "o.sock"
        process = subprocess.Popen(
            [ORIGINAL, "-d", directory, "-p", tmp_path, "--socket-name", "o.sock"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        deadline = time.monotonic() + 20
        while True:
            try:
                MsgPackKong(path, 1).close()
                return path
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)

    yield begin
    for process in started:
        process.kill()
        process.wait()


def transcript(kong: MsgPackKong) -> list[Any]:
    """All that a plugin server says to some requests, but for ids and times."""
    said: list[Any] = []
    instance = kong.start("same", {"message": "hi", "__seq__": 1})
    for phase, host in (("access", "example.com"), ("rewrite", ""), ("log", ""), ("access", "exit")):
        kong.calls.clear()
        try:
            kong.event(instance, phase, {**PDK, "kong.request.get_header": lambda _, host=host: host})
            said.append([*kong.calls, "ret"])
        except Exited as exited:
            said.append([*kong.calls, exited.status, exited.body, exited.headers])
    info = kong.rpc("plugin.GetPluginInfo", "same")
    info["Phases"].sort()
    said.append(info)
    closed = kong.stop(instance)
    said.append(closed["Name"])
    return said


def test_the_same_plugin_says_the_same(original: Callable[..., Path], start: Start) -> None:
    path = original(same=PLUGIN)
    server = start("msgpack", same=PLUGIN)
    with MsgPackKong(path) as theirs, server.kong() as ours:
        assert transcript(ours) == transcript(theirs)


def test_an_exception_before_the_first_call_deadlocks_the_original_only(
    original: Callable[..., Path], start: Start
) -> None:
    path = original(fails=FAILS)
    with MsgPackKong(path) as theirs:
        instance = theirs.start("fails", {})
        for sock in theirs.pool:
            sock.settimeout(1)
        with pytest.raises(TimeoutError):
            theirs.event(instance, "access", {})
    with MsgPackKong(path) as theirs:
        for sock in theirs.pool:
            sock.settimeout(1)
        with pytest.raises(TimeoutError):  # and with it all other events
            theirs.event(instance, "log", {})
    server = start("msgpack", fails=FAILS)
    with server.kong() as ours:
        instance = ours.start("fails", {})
        with pytest.raises(Exited) as exited:
            ours.event(instance, "access", {})
        assert exited.value.status == 500
        ours.event(instance, "log", {})


@pytest.mark.alone
def test_a_slow_handler_holds_all_events_of_the_original_up(original: Callable[..., Path], start: Start) -> None:
    def wait_of_others(path: Path) -> float:
        with MsgPackKong(path, 1) as slow, MsgPackKong(path, 1) as quick:
            sleeper, other = slow.start("sleeps", {}), quick.start("same", {})
            slow.event(sleeper, "access", {})  # ours learns here that it has to run in a thread
            thread = threading.Thread(target=slow.event, args=(sleeper, "access", {}))
            thread.start()
            time.sleep(0.2)
            began = time.monotonic()
            quick.event(other, "rewrite", {})
            waited = time.monotonic() - began
            thread.join()
            return waited

    plugins = {
        "same": PLUGIN,
        "sleeps": "import time\nclass Plugin(object):\n    def __init__(self, config): pass\n"
        "    def access(self, kong):\n        time.sleep(1)\n",
    }
    assert wait_of_others(original(**plugins)) > 0.5
    assert wait_of_others(start("msgpack", **plugins).path) < 0.4


def test_events_that_end_with_an_answer_are_kept_by_the_original_only(
    original: Callable[..., Path], start: Start
) -> None:
    def exits(kong: MsgPackKong) -> int:
        instance = kong.start("fails", {})
        step = kong.rpc("plugin.HandleEvent", {"InstanceId": instance, "EventName": "rewrite"})
        assert step["Data"]["Method"] == "kong.response.exit"
        return int(step["EventId"])

    with MsgPackKong(original(fails=FAILS), 1) as theirs:
        event = exits(theirs)
        with pytest.raises(Failed, match="not found"):
            theirs.rpc("plugin.Step", {"EventId": event + 1000})
        kept = theirs.rpc("plugin.Step", {"EventId": event})  # this one is found, though Kong has ended the request
        assert kept["Data"] == "ret"
    server = start("msgpack", fails=FAILS)
    with server.kong() as ours:
        late = ours.rpc("plugin.Step", {"EventId": exits(ours)})  # it is forgotten, and nothing passes
        assert late["Data"]["Args"][0] == 500


async def test_the_original_behind_the_development_gateway(original: Callable[..., Path], tmp_path: Path) -> None:
    path = original(caller=CALLER)
    output = subprocess.check_output([ORIGINAL, "-d", tmp_path / "original", "--dump-all-plugins"])
    known = known_plugins(output, lambda _: str(path))
    # Kong's log can be called itself, which the original doesn't know of.
    table = [row for row in READ_IN_ACCESS if row[0] != "kong.log"]
    calls = {"access": [[method, args] for method, args, _ in table]}
    content = calling(calls, "access", consumers=[CONSUMER])
    trusted = [ipaddress.ip_network("10.0.0.0/8")]
    async with (
        kong_before(known, tmp_path, content, trusted=trusted) as (client, url, _),
        the_request(client, url) as answer,
    ):
        assert answer.status == 200
        check(await answer.json(), table)
        assert answer.headers.getall("x-set") == ["1", "2"]
    async with (
        kong_before(known, tmp_path, calling({"access": CHANGES})) as (client, url, _),
        client.get(f"{url}/v1/rest", headers={"x-one": "1"}) as answer,
    ):
        seen = await answer.json()
        assert (seen["method"], seen["path"], seen["body"]) == ("PUT", "/other path/\u00e9", "new body")
    read = {"response": [[method, args] for method, args, _ in READ_IN_RESPONSE]}
    async with (
        kong_before(known, tmp_path, calling(read, "response")) as (client, url, _),
        client.get(f"{url}/v1/rest") as answer,
    ):
        check(await answer.json(), READ_IN_RESPONSE)
