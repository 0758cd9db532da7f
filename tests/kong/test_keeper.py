"""While there is no plugin server, somebody stands in for it: Kong would let requests pass."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest

from gatewright.errors import ProtocolError
from gatewright.gateways.kong.messages import RPC_CALL
from gatewright.gateways.kong.msgpack_session import MsgPackSession
from gatewright.runtime.discovery import Discovery
from gatewright.server.drivers.kong.driver import plan
from gatewright.server.drivers.kong.event import REFUSAL
from gatewright.server.drivers.kong.stand_in import StandIn
from gatewright.server.host.gateway_user import KEEPER_NAME
from gatewright.settings import Settings
from tests.kong.conftest import wait_until

GATEWAY = Path(__file__).parents[1] / "server" / "gateway_restart.py"
ENDS_BUSY = GATEWAY.with_name("gateway_ends_busy.py")
STOPS = GATEWAY.with_name("gateway_stops.py")
DENY = """
class Plugin(object):
    def __init__(self, config): pass
    def access(self, kong):
        kong.response.exit(403, "no")
"""


def keepers(path: Path) -> list[int]:
    """The keepers that have their socket in this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == KEEPER_NAME:
                found += [int(entry.name)] if str(path).encode() in (entry / "cmdline").read_bytes() else []
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.parametrize("protocol", ["msgpack", pytest.param("protobuf", marks=pytest.mark.long)])
def test_nothing_passes_while_the_server_is_gone_and_the_next_one_takes_over(tmp_path: Path, protocol: str) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "deny.py").write_text(DENY)
    server = [sys.executable, "-m", "kong_pdk.cli", "-v", "-d", tmp_path / "plugins", "-p", tmp_path]
    done = subprocess.run(
        [sys.executable, GATEWAY, tmp_path / "k.sock", *server, "--socket-name", "k.sock", "--protocol", protocol],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if protocol == "msgpack":
        one_life = [
            "served: 403",
            "gone, a step: 500 and is left",
            "waited: no plugin instance and is left",
            "waited, pooled: no plugin instance and is left",
            "waited, another: an id",
            "anew, pooled: no plugin instance and is left",
        ]
    else:
        one_life = [
            "served: 403",
            *(f"{when}: closed" for when in ("waited", "waited, pooled", "anew, pooled")),
        ]
    said = done.stdout.splitlines()
    if protocol == "msgpack":  # a worker may outlive its killed supervisor for a moment, in which it still serves
        said = [line.replace("pooled: 403", "pooled: no plugin instance and is left") for line in said]
    if protocol == "protobuf":  # a worker that is still there refuses it; where a connection closes Kong asks anew
        said = [line.replace("500", "closed").removesuffix(" and is left") for line in said]
    assert said == [*one_life, *one_life]
    wait_until(lambda: not keepers(tmp_path))  # with the gateway
    assert not (tmp_path / "k.sock").exists()


WAITS = """
import asyncio, pathlib, tempfile
class Plugin(object):
    def __init__(self, config): pass
    async def access(self, kong):
        go = pathlib.Path({go!r})
        if not go.exists():
            tempfile.mkstemp(dir=go.parent)
        while not go.exists():
            await asyncio.sleep(0.01)
"""


def test_the_keeper_gets_each_connection_once(tmp_path: Path) -> None:
    """Of one that it had twice it would close one descriptor: Kong would wait on the other for a minute."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "seen").mkdir()
    go = tmp_path / "seen" / "go"
    (tmp_path / "plugins" / "deny.py").write_text(WAITS.format(go=str(go)))
    server = [sys.executable, "-m", "kong_pdk.cli", "-v", "-d", tmp_path / "plugins", "-p", tmp_path]
    done = subprocess.run(
        [sys.executable, ENDS_BUSY, tmp_path / "k.sock", "40", go, *server, "--socket-name", "k.sock",
         "--protocol", "protobuf"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["under way: {'ret': 40}", "asked later: {'closed': 40}"]


def test_no_file_is_left_of_a_server_that_kong_kills_when_it_stops(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "deny.py").write_text(DENY)
    server = [sys.executable, "-m", "kong_pdk.cli", "-v", "-d", tmp_path / "plugins", "-p", tmp_path]
    done = subprocess.run(
        [sys.executable, STOPS, tmp_path / "k.sock", *server, "--socket-name", "k.sock", "--socket-per-plugin"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["deny.socket", "k.sock", "k.sock.control"]
    wait_until(lambda: not keepers(tmp_path))
    assert not [file.name for file in tmp_path.iterdir() if file.is_socket()]


def test_a_server_that_no_gateway_started_has_no_keeper(start: Any) -> None:
    server = start("msgpack", deny=DENY)
    assert not keepers(server.plugins)
    server.process.terminate()
    server.process.wait(10)
    assert not server.path.exists()


def test_over_protobuf_only_what_kong_does_not_ask_anew_is_passed_on() -> None:
    """A phase whose connection closes is asked for anew; an instance that can't be started fails the request."""
    made = plan(Settings(), Discovery, protocol="protobuf").stand_in
    assert made is not None

    def framed(**call: Any) -> bytes:
        data = RPC_CALL.encode({"sequence": 7, **call})
        return struct.pack("=I", len(data)) + data

    phase, instance = made(), made()
    phase.refusal(framed(handle_event={"instance_id": 5, "event_name": "access"}))
    instance.refusal(framed(start_instance={"name": "deny", "config": b"{}"}))
    assert (phase.asks_anew, instance.asks_anew) == (True, False)
    reply = struct.pack("=I", 3) + b"abc"
    assert not instance.passed_on(reply[:2], reply[:2])
    assert not instance.passed_on(reply[:6], reply[2:6])
    assert instance.passed_on(reply, reply[6:]).startswith(reply)
    with pytest.raises(ProtocolError):
        made().refusal(framed(get_plugin_names={}))


def said(stand_in: StandIn, method: str, argument: object) -> Any:
    """What is said to a request that comes in two parts; there is more after it than is read at once."""
    data = msgpack.packb([0, 7, f"plugin.{method}", [argument]])
    assert not stand_in.refusal(data[:5])
    answer = stand_in.refusal(data[5:])
    unpacker = msgpack.Unpacker()
    unpacker.feed(answer)
    kind, ticket, error, result = next(unpacker)
    assert (kind, ticket) == (1, 7)
    assert len(answer) - unpacker.tell() > 2 * 4096
    return error or result


EXIT = {"Method": "kong.response.exit", "Args": [500, REFUSAL[1].decode(), REFUSAL[2]]}


@pytest.mark.parametrize(
    ("method", "argument", "answer"),
    [
        ("HandleEvent", {"InstanceId": 5, "EventName": "access"}, EXIT),
        ("HandleEvent", {"InstanceId": 5, "EventName": "response"}, EXIT),
        ("HandleEvent", {"InstanceId": 5, "EventName": "log"}, "ret"),
        ("HandleEvent", {"InstanceId": 5, "EventName": "certificate"}, "ret"),
        ("Step", {"EventId": 3, "Data": "x"}, EXIT),
        ("StepMultiMap", {"EventId": 3, "Data": {}}, EXIT),
    ],
)
def test_what_is_said_in_an_event(method: str, argument: object, answer: object) -> None:
    result = said(StandIn(MsgPackSession), method, argument)["Data"]
    if isinstance(result, dict):
        result["Args"][1] = (
            bytes(result["Args"][1]).decode() if isinstance(result["Args"][1], bytes) else result["Args"][1]
        )
    assert result == answer


def test_what_is_said_of_instances() -> None:
    started = said(StandIn(MsgPackSession), "StartInstance", {"Name": "a", "Config": "{}"})
    assert (started["Name"], started["Id"]) == ("a", 0)
    assert said(StandIn(MsgPackSession), "CloseInstance", 5)["Id"] == 5
    assert "not there" in said(StandIn(MsgPackSession), "GetStatus", None)
    with pytest.raises(ProtocolError):
        StandIn(MsgPackSession).refusal(b"GET / HTTP/1.1\r\n\r\n")


def test_an_answer_is_passed_on_when_it_is_whole() -> None:
    reply = msgpack.packb([1, 7, None, {"EventId": 5, "Data": "ret"}])
    stand_in = StandIn(MsgPackSession)
    assert not stand_in.passed_on(reply[:9], reply[:9])
    passed = stand_in.passed_on(reply, reply[9:])
    assert passed.startswith(reply)
    assert len(passed) - len(reply) > 2 * 4096
