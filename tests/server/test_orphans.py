"""A worker whose supervisor was killed: nobody gives it tokens any more; what was on its way to it is its own affair.

Where a keeper stands in, a gateway is told what makes it ask anew: by then the keeper has it wait for the next runner.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgpack
import pytest

from gatewright import Plugin
from gatewright.gateways.apisix.calls import encode_prepare_conf
from gatewright.gateways.apisix.replies import decode_conf_token
from gatewright.gateways.kong.events import KongSession
from gatewright.gateways.kong.messages import RPC_CALL, RPC_RETURN
from gatewright.gateways.kong.msgpack_session import MsgPackSession
from gatewright.gateways.kong.protobuf_session import ProtoBufSession
from gatewright.server.drivers.kong.connection import PluginServerConnection
from gatewright.server.drivers.kong.driver import driver as kong_driver
from gatewright.server.drivers.runner import driver as runner_driver
from gatewright.server.ipc.handover import Handover
from gatewright.server.worker import leaving
from gatewright.server.worker.link import Link
from gatewright.server.worker.service import Service
from gatewright.settings import load_settings

Driver = Callable[[Service], Callable[[], asyncio.Protocol]]


class It(Plugin):
    name = "it"

    def on_request(self, request: Any) -> None:
        request.headers["x-seen"] = "1"


class Orphan:
    """A worker with a supervisor that can be taken from it, and a keeper."""

    def __init__(self, driver: Driver) -> None:
        loop = asyncio.get_running_loop()
        self.service = Service(loop, load_settings(flags={}, environ={}).settings, {"it": It})
        ours, self._supervisor = socket.socketpair()
        self.keeper, self.service.keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.handover = Handover(loop)
        self.link = self.service.link = Link(self.service, ours, self.handover, driver(self.service))
        self._ends: list[socket.socket] = [self.keeper, self.service.keeper]
        self.link.start()

    def given(self) -> socket.socket:
        """The gateway's end of a connection that is on its way to the worker."""
        here, theirs = socket.socketpair()
        here.setblocking(False)
        self._ends += [here, theirs]
        self.handover.give(-1, b"", theirs)
        return here

    def lose_supervisor(self) -> None:
        self.handover.belongs_to_worker()  # its end is closed with the supervisor, too
        self._supervisor.close()
        self.link._channel.read()

    async def drain(self) -> int:
        """End, and give the number of connections that are the keeper's then."""
        await leaving.drain(self.service)
        await self.link.close(0.1)
        kept = 0
        self.keeper.setblocking(False)
        with suppress(BlockingIOError):
            while message := socket.recv_fds(self.keeper, 99, 1):
                kept += 1
                socket.socket(fileno=message[1][0]).close()
        return kept

    async def close(self) -> None:
        await leaving.close(self.service, 1)
        for end in (*self._ends, self._supervisor, self.handover.arrives, self.handover._sends):
            end.close()


def orphaned(driver: Driver, work: Callable[[Orphan], Awaitable[None]]) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Orphan] = loop.create_future()
        loop.call_soon(lambda: made.set_result(Orphan(driver)))  # strands begin in a callback
        orphan = await made
        try:
            await asyncio.wait_for(work(orphan), 10)
        finally:
            await orphan.close()

    asyncio.run(run())


def on_kong(session: type[KongSession]) -> Driver:
    def driver(service: Service) -> Callable[[], asyncio.Protocol]:
        return kong_driver(service, new_session=session, lua_style=False, connect=PluginServerConnection)

    return driver


async def sent(connection: socket.socket, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, data)
    return await loop.sock_recv(connection, 1 << 16)


def asked(method: str, argument: Any) -> bytes:
    packed: bytes = msgpack.packb([0, 1, f"plugin.{method}", [argument]])
    return packed


def framed(data: bytes) -> bytes:
    return struct.pack("=I", len(data)) + data


START = {"Name": "it", "Config": "{}"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_instance_of_kongs_that_nobody_can_number_is_started_anew_elsewhere(when: str) -> None:
    async def work(orphan: Orphan) -> None:
        connection = orphan.given()
        await asyncio.sleep(0.05)
        if when == "after":
            orphan.lose_supervisor()
            answer = await sent(connection, asked("StartInstance", START))
        else:
            answering = asyncio.ensure_future(sent(connection, asked("StartInstance", START)))
            await asyncio.sleep(0.05)
            orphan.lose_supervisor()
            answer = await answering
        _, _, error, started = msgpack.unpackb(answer)
        assert (error, started["Id"]) == (None, 0)
        _, _, error, _ = msgpack.unpackb(
            await sent(connection, asked("HandleEvent", {"InstanceId": 0, "EventName": "access"}))
        )
        assert "no plugin instance" in error
        assert await orphan.drain() == 1

    orphaned(on_kong(MsgPackSession), work)


def test_the_same_over_protobuf() -> None:
    async def work(orphan: Orphan) -> None:
        connection = orphan.given()
        await asyncio.sleep(0.05)
        orphan.lose_supervisor()
        call = RPC_CALL.encode({"sequence": 7, "start_instance": {"name": "it", "config": b"{}"}})
        answer = await sent(connection, framed(call))
        status = RPC_RETURN.decode(answer[4:])["instance_status"]
        assert (status["name"], status.get("instance_id", 0)) == ("it", 0)
        assert await orphan.drain() == 1

    orphaned(on_kong(ProtoBufSession), work)


def test_a_configuration_of_apisixs_that_nobody_can_number_is_prepared_anew_elsewhere() -> None:
    async def work(orphan: Orphan) -> None:
        connection = orphan.given()
        await asyncio.sleep(0.05)
        orphan.lose_supervisor()
        answer = await sent(connection, encode_prepare_conf("route#1", [("it", json.dumps({}))]))
        assert decode_conf_token(answer) > 0
        assert await orphan.drain() == 1

    orphaned(runner_driver, work)


def test_connections_on_their_way_stay_a_living_supervisors() -> None:
    async def work(orphan: Orphan) -> None:
        orphan.given()
        orphan.link._channel.close()  # a plugin has closed what it should not have
        assert await orphan.drain() == 0
        assert len(orphan.handover.take_back()) == 1

    orphaned(runner_driver, work)


@pytest.mark.parametrize("driver", [on_kong(MsgPackSession), on_kong(ProtoBufSession), runner_driver])
def test_connections_on_their_way_are_the_keepers(driver: Driver) -> None:
    async def work(orphan: Orphan) -> None:
        orphan.given(), orphan.given()
        orphan.lose_supervisor()
        assert await orphan.drain() == 2

    orphaned(driver, work)


def test_a_connection_on_which_kong_has_still_to_answer_is_not_closed_under_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leaving, "SETTLE_SECONDS", 0.02)

    async def work(orphan: Orphan) -> None:
        token, _, _ = orphan.service.confs.prepare("it#1", [("it", "{}")])
        connection = orphan.given()
        await asyncio.sleep(0.05)
        call = RPC_CALL.encode({"sequence": 7, "handle_event": {"instance_id": token, "event_name": "access"}})
        said = await sent(connection, framed(call))
        assert b"set_header" in said
        orphan.lose_supervisor()
        draining = asyncio.ensure_future(orphan.drain())
        await asyncio.sleep(0.2)
        assert not draining.done()
        await asyncio.get_running_loop().sock_sendall(connection, framed(b""))
        assert await draining == 1

    orphaned(on_kong(ProtoBufSession), work)
