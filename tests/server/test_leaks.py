"""Plugins that leave tasks and threads behind are named."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from gatewright.runtime.bridge import Bridge
from gatewright.runtime.failures import FailureLog
from gatewright.server.worker.leaks import LeakWatch


async def never(gate: asyncio.Event) -> None:
    await gate.wait()


async def test_tasks_that_pile_up_are_named_once_until_there_are_more() -> None:
    loop, gate = asyncio.get_running_loop(), asyncio.Event()
    bridge = Bridge(loop)
    watch = LeakWatch(loop, bridge, FailureLog())
    tasks = [loop.create_task(never(gate)) for _ in range(499)]
    with capture_logs() as logs:
        watch.look()
        assert logs == []
        tasks += [loop.create_task(never(gate)) for _ in range(101)]
        watch.look()
        watch.look()
        assert len(logs) == 1
        assert logs[0]["tasks"] == 600
        assert "test_leaks.py" in logs[0]["where"]
        tasks += [loop.create_task(never(gate)) for _ in range(200)]
        watch.look()
        assert len(logs) == 2
    gate.set()
    await asyncio.gather(*tasks)
    bridge.close()


@pytest.mark.parametrize(("abandoned", "told"), [(3, 0), (4, 1)])
async def test_a_plugin_whose_threads_do_not_end_is_named(abandoned: int, told: int) -> None:
    bridge = Bridge(asyncio.get_running_loop(), threads=8)
    lost: dict[Any, str] = {Mock(): "leaky" for _ in range(abandoned)}
    bridge.threads.lost = lost
    with capture_logs() as logs:
        LeakWatch(bridge.loop, bridge, FailureLog()).look()
    assert [log["plugin"] for log in logs] == ["leaky"] * told
    bridge.close()
