"""A runner that records: what nobody reads is dropped and counted, and one that doesn't has none of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
import structlog.testing
from msgspec import convert

from gatewright.gateways.apisix.calls import encode_http_req_call, encode_prepare_conf
from gatewright.observe.recording import Recorder
from gatewright.runtime.chain import Chain
from gatewright.runtime.discovery import discover
from gatewright.runtime.recorded import RecordedChain
from gatewright.runtime.records import CallRecord
from gatewright.server.drivers.apisix.connection import Connection
from gatewright.server.drivers.apisix.driver import driver
from gatewright.server.drivers.runner import plan
from gatewright.server.worker import leaving
from gatewright.server.worker.process import make_service
from gatewright.server.worker.service import Service
from gatewright.settings import Settings

PLUGIN = """
from gatewright import Plugin

class Count(Plugin):
    def on_request(self, request):
        request.headers["x-raw"] = "\\udcff"
"""


LARGE = PLUGIN.replace('"\\udcff"', '"x" * 10_000')
SLOW = """
import asyncio
from gatewright import Plugin

class Count(Plugin):
    async def on_request(self, request):
        await asyncio.sleep(0.1)
"""


class Listener(asyncio.Protocol):
    """Whoever is told."""

    transport: asyncio.Transport | None = None

    def __init__(self) -> None:
        self.unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape")
        self.messages: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.unpacker.feed(data)
        self.messages.extend(self.unpacker)

    @property
    def told(self) -> int:
        return sum(len(message.get("calls", ())) for message in self.messages)

    @property
    def lost(self) -> int:
        return sum(message.get("lost", 0) for message in self.messages)


class Wire(asyncio.Transport):
    """A gateway's end of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.sent.append(data)

    def is_reading(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        pass


async def service_of(tmp_path: Path, record: str = "", plugin: str = PLUGIN) -> tuple[Service, Connection, bytes]:
    """A service, a connection to it, and a call's frame."""
    (tmp_path / "count.py").write_text(plugin)
    settings = Settings(plugins=(str(tmp_path / "count.py"),), record=record)
    chosen = plan(settings, lambda: discover(settings.plugins, installed=False))
    service = await make_service(chosen, chosen.discover())
    connection = driver(service)()
    connection.connection_made(Wire())
    made = asyncio.Event()

    def prepare() -> None:  # strands begin in callbacks
        connection.data_received(encode_prepare_conf("route#1", [("count", "{}")]))
        made.set()

    asyncio.get_running_loop().call_soon(prepare)
    await made.wait()
    await asyncio.sleep(0.01)
    (token,) = service.confs.by_token
    frame = encode_http_req_call(
        id=7, conf_token=token, src_ip=b"\x7f\0\0\1", method="GET", path="/", args=[], headers=[("host", "a")]
    )
    return service, connection, frame


async def calls(connection: Connection, frame: bytes, count: int) -> None:
    """Make so many calls, each when the last one is answered, and in callbacks, as a gateway's come."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run(left: int) -> None:
        while left and not connection._session.busy:
            connection.data_received(frame)
            left -= 1
        if left or connection._session.busy:
            loop.call_soon(run, left)
        else:
            done.set_result(None)

    loop.call_soon(run, count)
    await done
    await asyncio.sleep(0.001)


async def test_a_runner_that_is_not_asked_has_the_plain_connection_and_chains(tmp_path: Path) -> None:
    service, connection, _ = await service_of(tmp_path)
    assert type(connection) is Connection
    assert [type(chain) for chain in service.confs] == [Chain]
    await leaving.close(service, 1)


async def test_every_call_is_told_with_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    listener = Listener()
    server = await asyncio.get_running_loop().create_unix_server(lambda: listener, str(tmp_path / "r.sock"))
    service, connection, frame = await service_of(tmp_path, f"unix:{tmp_path / 'r.sock'}")
    assert [type(chain) for chain in service.confs] == [RecordedChain]
    await calls(connection, frame, 1)
    await asyncio.sleep(0.1)
    hello, told = listener.messages
    assert "pid" in hello
    (record,) = convert(told["calls"], list[CallRecord])
    record.move(told["clock"])
    (step,) = record.steps
    assert (record.key, record.phase, record.route, record.refused) == (7, "request", "route#1", "")
    assert (step.name, step.place, step.outcome) == ("count", 0, "went on")
    assert time.time() - 10 < record.at <= step.at <= record.ended <= time.time()
    assert step.changes == (None, {"x-raw": ("\udcff",)}, None, None, None, 0, None)
    await leaving.close(service, 1)
    server.close()


async def test_every_call_is_told_however_many_come_at_once(tmp_path: Path) -> None:
    listener = Listener()
    server = await asyncio.get_running_loop().create_unix_server(lambda: listener, str(tmp_path / "r.sock"))
    service, connection, frame = await service_of(tmp_path, f"unix:{tmp_path / 'r.sock'}")
    await calls(connection, frame, 3000)
    async with asyncio.timeout(30):
        while listener.told < 3000:
            await asyncio.sleep(0.02)
    assert listener.lost == 0
    await leaving.close(service, 1)
    server.close()


async def test_a_call_that_takes_long_is_told_when_it_has_ended_though_no_other_comes(tmp_path: Path) -> None:
    listener = Listener()
    server = await asyncio.get_running_loop().create_unix_server(lambda: listener, str(tmp_path / "r.sock"))
    service, connection, frame = await service_of(tmp_path, f"unix:{tmp_path / 'r.sock'}", SLOW)
    await calls(connection, frame, 1)
    async with asyncio.timeout(10):
        while not listener.told:
            await asyncio.sleep(0.02)
    await leaving.close(service, 1)
    server.close()


@pytest.mark.long
async def test_while_the_reader_is_behind_calls_are_only_counted(tmp_path: Path) -> None:
    listener = Listener()
    server = await asyncio.get_running_loop().create_unix_server(lambda: listener, str(tmp_path / "r.sock"))
    service, connection, frame = await service_of(tmp_path, f"unix:{tmp_path / 'r.sock'}", LARGE)
    await asyncio.sleep(0.05)
    assert listener.transport is not None
    listener.transport.pause_reading()
    rounds = 0
    while not service.recorder._is_full:  # type: ignore[union-attr]
        await calls(connection, frame, 100)
        await asyncio.sleep(0.02)
        rounds += 1
        assert rounds < 1000, "what waits has no bound"
    await calls(connection, frame, 10)
    listener.transport.resume_reading()
    async with asyncio.timeout(30):
        while service.recorder._is_full:  # type: ignore[union-attr]
            await asyncio.sleep(0.02)
        await calls(connection, frame, 5)
        while listener.told + listener.lost < rounds * 100 + 15:
            await asyncio.sleep(0.02)
    assert listener.lost >= 10
    assert listener.told + listener.lost == rounds * 100 + 15
    await leaving.close(service, 1)
    server.close()


async def test_once_the_reader_is_gone_nothing_is_kept_for_him(tmp_path: Path) -> None:
    listener = Listener()
    server = await asyncio.get_running_loop().create_unix_server(lambda: listener, str(tmp_path / "r.sock"))
    service, connection, frame = await service_of(tmp_path, f"unix:{tmp_path / 'r.sock'}")
    await asyncio.sleep(0.05)
    assert listener.transport is not None
    listener.transport.abort()
    server.close()
    async with asyncio.timeout(10):
        while not service.recorder._is_full:  # type: ignore[union-attr]
            await calls(connection, frame, 10)
            await asyncio.sleep(0.02)
    kept = service.recorder._queue  # type: ignore[union-attr]
    await calls(connection, frame, 10)
    assert kept == []
    await leaving.close(service, 1)


async def test_where_nobody_listens_the_log_says_so_and_calls_are_served(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        assert await Recorder.connect(str(tmp_path / "nobody.sock")) is None
    assert [line["event"] for line in lines] == ["calls are not recorded: nobody listens"]
    service, connection, _ = await service_of(tmp_path, f"unix:{tmp_path / 'nobody.sock'}")
    assert type(connection) is Connection
    await leaving.close(service, 1)
