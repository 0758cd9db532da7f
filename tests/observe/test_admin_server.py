"""The metrics address is answered, whoever else holds connections to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from gatewright.observe import http
from gatewright.observe.http import Answer, Ask, HttpServer
from gatewright.observe.report import WorkerReport
from gatewright.server.ipc.plan import Plan
from gatewright.server.supervisor.accounts import Accounts
from gatewright.server.supervisor.workers import Stage, Worker

PROBE = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


async def healthz(_: Ask) -> Answer:
    return Answer(200, b"ok\n")


async def large(_: Ask) -> Answer:
    return Answer(200, b"x" * (1 << 23))


def serving(test: Callable[[int], Awaitable[None]]) -> None:
    async def run() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        server = HttpServer(sock, {("GET", "/healthz"): healthz, ("GET", "/large"): large})
        await server.start()
        try:
            await test(sock.getsockname()[1])
        finally:
            await server.close()

    asyncio.run(run())


async def connect(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def probe(port: int) -> bytes:
    reader, writer = await connect(port, PROBE)
    try:
        return await asyncio.wait_for(reader.readline(), 5)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\n", PROBE, pytest.param(PROBE.replace(b"healthz", b"large"), marks=pytest.mark.long)],
)
def test_clients_that_hold_connections_keep_no_health_check_out(sent: bytes) -> None:
    async def test(port: int) -> None:
        held = [await connect(port, sent) for _ in range(http._MAX_CONNECTIONS)]
        await asyncio.sleep(0.1)
        for _ in range(5):
            held += [await connect(port, sent) for _ in range(20)]
            assert await probe(port) == b"HTTP/1.1 200 \r\n"
        for _, writer in held:
            writer.close()

    serving(test)


def test_a_request_that_does_not_come_whole_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_REQUEST_SECONDS", 0.2)

    async def test(port: int) -> None:
        reader, writer = await connect(port, b"GET /healthz HTTP/1.1\r\n")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()

    serving(test)


def test_a_connection_may_be_used_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_REQUEST_SECONDS", 0.2)

    async def test(port: int) -> None:
        reader, writer = await connect(port, PROBE)
        await reader.readuntil(b"ok\n")
        await asyncio.sleep(0.4)
        writer.write(PROBE)
        assert (await asyncio.wait_for(reader.readuntil(b"ok\n"), 5)).startswith(b"HTTP/1.1 200")
        writer.close()

    serving(test)


def test_workers_are_asked_once_however_many_want_to_know() -> None:
    asked: list[object] = []

    class Channel:
        def send(self, message: object) -> None:
            asked.append(message)

    async def run() -> None:
        worker = Worker(1, 1, cast("Plan", None), stage=Stage.READY, channel=cast("Any", Channel()))
        accounts = Accounts([worker])

        async def answer() -> None:
            while not worker.asked:
                await asyncio.sleep(0)
            worker.report = WorkerReport(connections=7)
            for future in worker.asked.values():
                future.set_result(worker.report)

        *told, _ = await asyncio.gather(*(accounts.reports(5) for _ in range(50)), answer())
        assert len(asked) == 1
        assert all(total.connections == 7 for _, total in told)
        await asyncio.gather(accounts.reports(5), answer())
        assert len(asked) == 2, "and those who ask later get a new one"

    asyncio.run(run())
