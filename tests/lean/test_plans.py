"""What gateways are told to expect of a chain, and that they are told when it's no longer right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gatewright import Plugin
from gatewright.gateways.lean.frames import PREFACE, FrameBuffer, Kind, encode_frame
from gatewright.gateways.lean.needs import ALL_OF_RESPONSE, EARLY_RESPONSE
from gatewright.server.drivers.lean.driver import driver
from gatewright.server.drivers.lean.plans import Plans
from gatewright.server.worker.service import Service
from gatewright.settings import load_settings

UNKNOWN_TOKEN = 3


class OnRequest(Plugin):
    name = "it"

    def on_request(self, request: Any) -> None: ...


class OnBoth(OnRequest):
    name = "it"

    def on_response(self, request: Any, response: Any) -> None: ...


class Early(OnBoth):
    name = "it"
    early_response = True


class Slower(OnRequest):
    name = "it"
    timeout = 33


class Logs(Plugin):
    name = "it"

    def on_log(self, request: Any, response: Any) -> None: ...


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self._buffer = FrameBuffer()

    def write(self, data: bytes) -> None:
        self.frames += self._buffer.feed(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def in_service(plugin: type[Plugin], work: Callable[[Service], None]) -> None:
    """Do something with a worker's service, in a callback as a real one does."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def begin() -> None:
            try:
                work(Service(loop, load_settings(flags={}, environ={}).settings, {"it": plugin}))
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        loop.call_soon(begin)
        await done

    asyncio.run(run())


def connected(service: Service) -> tuple[Any, Wire]:
    connection, wire = driver(service)(), Wire()
    connection.connection_made(wire)  # type: ignore[arg-type]
    connection.data_received(PREFACE)
    return connection, wire


@pytest.mark.parametrize(("plugin", "first"), [(OnBoth, ALL_OF_RESPONSE), (Early, EARLY_RESPONSE)])
def test_what_is_brought_first_doesnt_wait_for_a_chains_steps(plugin: type[Plugin], first: bytes) -> None:
    def work(service: Service) -> None:
        plans = Plans(service.builder)
        promised = plans.promise(*plans.of([("it", "{}")], 2))
        _, chain, _ = service.confs.prepare(f"route\0lean2:{promised}", [("it", "{}")])
        assert not chain.steps
        assert plans.response(chain).wants == first

    in_service(plugin, work)


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.RESPONSE, Kind.LOG])
@pytest.mark.parametrize(("before", "now"), [(OnRequest, OnBoth), (OnBoth, Early), (OnRequest, Slower), (Logs, OnBoth)])
def test_a_chain_that_does_something_else_now_is_to_be_handed_over_anew(
    before: type[Plugin], now: type[Plugin], kind: Kind
) -> None:
    promised: list[str] = []

    def prepare(service: Service) -> None:
        promised.append(Plans.promise(*Plans(service.builder).of([("it", "{}")], 7)))

    def call(service: Service) -> None:
        token, _, _ = service.confs.prepare(f"route\0lean7:{promised[0]}", [("it", "{}")])
        connection, wire = connected(service)
        connection.data_received(encode_frame(kind, 9, (b"early,path", b"", b"/"), argument=token))
        (answer,) = wire.frames
        assert answer[:4] == (Kind.ERROR, 0, 9, UNKNOWN_TOKEN)

    in_service(before, prepare)
    in_service(now, call)


@pytest.mark.parametrize("plugin", [OnRequest, OnBoth, Early, Slower])
def test_a_chain_that_does_the_same_goes_on(plugin: type[Plugin]) -> None:
    def work(service: Service) -> None:
        connection, wire = connected(service)
        connection.data_received(encode_frame(Kind.PREPARE, 1, (b"route", b"it", b"{}"), argument=7))
        token = wire.frames.pop()[3]
        connection.data_received(encode_frame(Kind.REQUEST, 2, (b"path", b"/"), argument=token))
        assert wire.frames[-1][:3] == (Kind.REQUEST, 0, 2)

    in_service(plugin, work)
