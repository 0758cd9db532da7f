"""What a worker keeps of its own accord has an end, too: news for a supervisor that is stopped, instances of Kong's."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatewright import Plugin
from gatewright.server.drivers.apisix.asking import AskingConnection
from gatewright.server.drivers.kong.instances import Instances
from gatewright.server.ipc.handover import Handover
from gatewright.server.worker.link import Link
from gatewright.server.worker.service import Service
from tests.conftest import StartRunner
from tests.lean.test_plans import in_service


class It(Plugin):
    def on_request(self, request: Any) -> None: ...


def test_news_for_a_supervisor_that_does_not_read_are_few() -> None:
    def work(service: Service) -> None:
        ours, theirs = socket.socketpair()
        handover = Handover(service.loop)
        link = Link(service, ours, handover, AskingConnection)
        for _ in range(3000):
            link._alive()
            link._tell_how_it_is()
        assert link._channel.unsent <= 16
        link._channel.close()
        handover.close()
        theirs.close()

    in_service(It, work)


def test_instances_that_there_were_too_many_of_are_no_longer_noted() -> None:
    def work(service: Service) -> None:
        instances = Instances(service, lua_style=False)
        for number in range(10):
            instances.owners.started((os.getpid(), "1"), number)
        for number in range(10):
            service.on_forgotten(number)
        assert not instances.owners._started

    in_service(It, work)


# --- questions

ASKS = """
import asyncio
from gatewright import Plugin
class Asks(Plugin):
    async def on_request(self, request):
        await asyncio.gather(*(request.var(f"arg_{n}") for n in range(int(request.path[1:]))))
"""


@pytest.mark.parametrize(("count", "is_refused"), [(900, False), (1100, True)])
def test_open_questions_of_a_call_have_a_bound(
    start_runner: Any, plugin_dir: Any, count: int, is_refused: bool
) -> None:
    runner = start_runner("-p", plugin_dir(asks=ASKS))
    with runner.peer() as peer:
        token = peer.prepare(("asks", "{}"))
        assert peer.refuses(token, f"/{count}") is is_refused
    assert ("1000 questions of this call are open" in runner.log) is is_refused


def test_configurations_that_are_only_prepared_do_not_drive_those_out_that_are_used(
    start_runner: StartRunner, plugin_dir: Callable[..., Path]
) -> None:
    source = "from gatewright import Plugin\nclass Tag(Plugin):\n    def on_request(self, request):\n        pass\n"
    runner = start_runner("-p", plugin_dir(tag=source), "--max-configurations", "50")
    with runner.peer() as peer:
        used = peer.prepare(("tag", "{}"))
        assert peer.request(used) is None
        told = time.monotonic() + 1.3  # that it's used is told once a second
        runner.wait_for(lambda: time.monotonic() > told)
        for number in range(300):
            peer.prepare(("tag", f'{{"n": {number}}}'), key=f"route#{number}")
        assert runner.status()["configurations"] <= 50
        assert peer.request(used) is None
