"""Calls that were read and wait for the loop's next turn: none is lost, and none is forgotten by whoever ends them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix.calls import encode_http_req_call, encode_prepare_conf
from gatewright.gateways.apisix.frames import FrameType
from gatewright.plugin import Plugin
from gatewright.server.drivers.apisix.driver import driver
from gatewright.server.worker import leaving
from gatewright.server.worker.service import Service
from gatewright.settings import load_settings
from tests.conftest import StartRunner
from tests.server.test_last_words import REFUSED

MANY = 80
BLOCKS = """
import logging, os, time
from gatewright import Plugin

class Blocks(Plugin):
    timeout = None
    def on_request(self, request):
        if self.config and not os.path.exists(self.config["once"]):
            open(self.config["once"], "w").close()
            logging.warning("blocks now")
            time.sleep(60)
    def on_response(self, request, response):
        self.on_request(request)
"""


@pytest.mark.parametrize("phase", ["request", "response"])
def test_a_worker_that_dies_costs_the_call_that_it_had_begun(
    start_runner: StartRunner, plugin_dir: Callable[..., Path], tmp_path: Path, phase: str
) -> None:
    runner = start_runner("-p", plugin_dir(blocks=BLOCKS))
    runner.wait_for_log("listening")
    worker = runner.workers()[0]["pid"]
    with ExitStack() as stack:
        peers = [stack.enter_context(runner.peer()) for _ in range(MANY)]
        once = json.dumps({"once": str(tmp_path / "once")})
        passes, blocks = (peers[0].prepare(("blocks", conf)) for conf in ("{}", once))

        def frame(number: int, token: int) -> bytes:
            if phase == "response":  # one about which nothing is asked
                return calls.encode_http_resp_call(id=number, conf_token=token, status=204, headers=[])
            address = b"\x7f\0\0\1"
            return encode_http_req_call(
                id=number, conf_token=token, src_ip=address, method="GET", path="/", args=[], headers=[]
            )

        def at_once(token: int) -> None:
            os.kill(worker, signal.SIGSTOP)
            for number, peer in enumerate(peers):
                peer.send(frame(number, token))
            os.kill(worker, signal.SIGCONT)

        kind = FrameType.HTTP_RESP_CALL if phase == "response" else FrameType.HTTP_REQ_CALL
        for _ in range(4):
            at_once(passes)
            for peer in peers:
                assert peer.receive()[0] == kind
        at_once(blocks)
        runner.wait_for_log("blocks now")
        os.kill(worker, signal.SIGKILL)
        lost = []
        for number, peer in enumerate(peers):
            try:
                answer = peer.receive()
            except EOFError:
                lost.append(number)
                continue
            assert answer[0] == kind
            if phase == "response" and replies.decode_resp_reply(answer) == (number, REFUSED):
                lost.append(number)
        assert len(lost) == 1


class Waits(Plugin):
    """Each second call waits a little."""

    name = "waits"

    async def on_request(self, request: object) -> None:
        Waits.calls += 1
        if Waits.calls % 2:
            await asyncio.sleep(0.05)

    calls = 0


class Wire(asyncio.Transport):
    """A gateway's end of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if not self.closed:
            self.frames.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def service_with_many_calls(then: Callable[[Service, list[tuple[asyncio.Protocol, Wire]]], None]) -> list[Wire]:
    """Have many calls come in one turn, often enough that they are gathered, and then once more, and do something."""
    loop = asyncio.get_running_loop()
    Waits.calls = 0
    services: list[Service] = []
    peers: list[tuple[asyncio.Protocol, Wire]] = []
    turn = asyncio.Event()
    gathered: list[int] = []

    def begin() -> None:  # strands begin in callbacks
        service = Service(loop, load_settings(flags={}, environ={}).settings, {"waits": Waits})
        services.append(service)
        for _ in range(MANY):
            connection, wire = driver(service)(), Wire()
            connection.connection_made(wire)
            peers.append((connection, wire))
        peers[0][0].data_received(encode_prepare_conf("route#1", [("waits", "{}")]))
        turn.set()

    def call() -> None:
        (token,) = services[0].confs.by_token
        for connection, wire in peers:
            wire.frames.clear()
            connection.data_received(
                encode_http_req_call(
                    id=7, conf_token=token, src_ip=b"\x7f\0\0\1", method="GET", path="/", args=[], headers=[]
                )
            )
        gathered.append(services[0].bridge.gathered)
        turn.set()

    for step in (begin, call, call, call):
        turn.clear()
        loop.call_soon(step)
        await turn.wait()
        await asyncio.sleep(0.1)
    done: asyncio.Future[None] = loop.create_future()

    def last() -> None:
        then(services[0], peers)
        done.set_result(None)

    loop.call_soon(last)
    turn.clear()
    loop.call_soon(call)
    await turn.wait()
    assert gathered[-1] == MANY, "they are not gathered: this tests nothing"
    await asyncio.sleep(0.2)
    return [wire for _, wire in peers]


async def test_a_runner_that_ends_answers_them_first() -> None:
    draining: list[asyncio.Task[int]] = []

    def drain(service: Service, _: object) -> None:
        draining.append(asyncio.create_task(leaving.drain(service)))

    wires = await service_with_many_calls(drain)
    assert [[frame[0] for frame in wire.frames] for wire in wires] == [[FrameType.HTTP_REQ_CALL]] * MANY
    assert await draining[0] == 0, "calls that were cut off"


async def test_one_whose_gateway_has_gone_meanwhile_is_not_served() -> None:
    def lose(service: Service, peers: list[tuple[asyncio.Protocol, Wire]]) -> None:
        asyncio.get_running_loop().call_soon(peers[0][0].connection_lost, None)

    served: list[int] = []

    def count(service: Service, peers: list[tuple[asyncio.Protocol, Wire]]) -> None:
        lose(service, peers)
        served.append(Waits.calls)

    wires = await service_with_many_calls(count)
    assert [len(wire.frames) for wire in wires] == [0] + [1] * (MANY - 1)
    assert Waits.calls - served[0] == MANY - 1
