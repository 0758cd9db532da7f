"""Instances of a Kong worker that is gone are dropped; those of others stay."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from gatewright import Plugin, SyncRequest
from gatewright.observe.control import ask_json
from gatewright.server.drivers.kong.neighbours import address_of
from gatewright.server.drivers.kong.owners import Owners, process_behind
from gatewright.testing import TestClient
from tests.conftest import ROOT
from tests.kong.conftest import Start, serve, served, wait_until

__all__ = ["serve", "served"]

SOURCE = """
version, priority, Schema = "1.0.0", 1, ()
class Plugin:
    def __init__(self, config):
        pass
    def access(self, kong):
        kong.response.set_header("x-seen", "1")
"""
A_KONG = """
import sys, pathlib
from tests.kong.messages import messages
from tests.kong.peer import MsgPackKong, ProtoBufKong
path = pathlib.Path(sys.argv[2])
with MsgPackKong(path, 1) if sys.argv[1] == "msgpack" else ProtoBufKong(path, messages()) as kong:
    print(*(kong.start("seen", {"n": n}) for n in range(5)))
"""


@pytest.mark.parametrize(("protocol", "flags"), [("msgpack", ()), ("protobuf", ("-m",))])
def test_a_kong_that_goes_takes_its_instances_along(serve: Start, protocol: str, flags: tuple[str, ...]) -> None:
    server = serve(protocol, *flags, seen=SOURCE)
    control = f"{server.path}.control"

    def instances() -> Any:
        return ask_json(control, "/status")[1]["configurations"]

    with server.kong() as ours:
        number = ours.start("seen", {})
        gone = subprocess.run(
            [sys.executable, "-c", A_KONG, protocol, server.path], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert len(gone.stdout.split()) == 5
        wait_until(lambda: instances() == 1)
        ours.event(number, "access", {})
        assert ("kong.response.set_header", ["x-seen", "1"]) in ours.calls


def test_an_id_that_was_given_out_again_is_another_process() -> None:
    dropped: list[int] = []
    owners = Owners(dropped.append)
    owners.started((os.getpid(), "1"), 7)
    owners.started((2**22 + 1, "1"), 8)
    owners.started((2**22 + 1, "1"), 9)
    owners.started(None, 10)
    owners.closed(9)
    owners.look()
    owners.look()
    assert sorted(dropped) == [7, 8]


def test_nobody_is_seen_behind_what_is_no_unix_socket() -> None:
    class Transport:
        def get_extra_info(self, _: str) -> None:
            return None

    assert process_behind(Transport()) is None  # type: ignore[arg-type]


def test_an_address_for_steps_is_given_up_with_its_service() -> None:
    class It(Plugin):
        def on_request(self, request: SyncRequest) -> None: ...

    own = address_of(os.getpid())
    with TestClient(It, gateway="kong") as client:
        client.get("/")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(own)  # nobody has it any more
