"""What gateways are told to expect of a chain, and that they are told when it's no longer right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gatewright import Plugin
from gatewright.errors import ConfigError
from gatewright.gateways.lean.frames import PREFACE, FrameBuffer, Kind, encode_frame
from gatewright.gateways.lean.needs import ALL_OF_LOG, ALL_OF_REQUEST, ALL_OF_RESPONSE, EARLY_RESPONSE
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


# --- plugins that come along, of which nothing is known before a configuration names them


async def _service() -> Service:
    """A worker's service that has not imported any plugin."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Service] = loop.create_future()
    loop.call_soon(lambda: made.set_result(Service(loop, load_settings(flags={}, environ={}).settings, {})))
    return await made


async def _answer(service: Service, frame: bytes) -> Any:
    """What the service says to a frame, on a connection of its own."""
    loop = asyncio.get_running_loop()
    connection, wire = connected(service)
    loop.call_soon(connection.data_received, frame)
    while not wire.frames:  # what it waits for is in another thread
        await asyncio.sleep(0.002)
    return wire.frames.pop()


def _prepare(name: str, phases: int) -> bytes:
    conf = json.dumps({"headers": {"set": {"x-a": "1"}}} if name == "response-transform" else {})
    return encode_frame(Kind.PREPARE, 1, (b"route", name.encode(), conf.encode()), argument=phases)


@pytest.mark.parametrize(
    ("name", "phases", "promised"),
    [
        ("response-transform", 2, [None, ALL_OF_RESPONSE, None]),
        ("response-transform", 7, [None, ALL_OF_RESPONSE, None]),
        ("circuit-breaker", 7, [ALL_OF_REQUEST, ALL_OF_RESPONSE, None]),
        ("opentelemetry", 5, [ALL_OF_REQUEST, None, ALL_OF_LOG]),
        ("cors", 5, [ALL_OF_REQUEST, None, None]),
    ],
)
async def test_a_plugin_that_comes_along_is_known_when_its_chain_is_promised(
    name: str, phases: int, promised: list[bytes | None]
) -> None:
    service = await _service()
    answer = await _answer(service, _prepare(name, phases))
    assert list(answer[4])[:3] == promised


async def test_a_worker_that_has_not_imported_a_plugin_keeps_what_another_one_promised() -> None:
    first = await _service()
    await _answer(first, _prepare("response-transform", 2))
    conf = [("response-transform", '{"headers": {"set": {"x-a": "1"}}}')]
    plans = Plans(first.builder)
    promised = plans.promise(*plans.of(conf, 2))
    second = await _service()
    token, _, _ = second.confs.prepare(f"route\0lean2:{promised}", conf)
    answer = await _answer(second, encode_frame(Kind.RESPONSE, 9, (b"status", b"200"), argument=token))
    assert answer[:3] == (Kind.RESPONSE, 0, 9)


async def test_a_plugin_that_cannot_be_imported_is_refused_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ConfigError(f"{name} needs a package")

    monkeypatch.setattr("gatewright.runtime.building.load_shipped", missing)
    service = await _service()
    prepared = await _answer(service, _prepare("cors", 5))
    assert prepared[0] == Kind.PREPARE
    refused = await _answer(service, encode_frame(Kind.REQUEST, 9, (b"path", b"/"), argument=prepared[3]))
    assert refused[0] == Kind.ERROR
    assert refused[3] != UNKNOWN_TOKEN
