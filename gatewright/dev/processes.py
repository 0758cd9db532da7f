"""Starting and stopping what a development gateway needs around it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from typing import Any

from gatewright.errors import GatewrightError
from gatewright.observe.logs import configure_logs

__all__ = ["end", "until_listening", "until_stopped"]

_START_SECONDS = 20.0


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process, if it still runs."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


async def until_listening(
    process: asyncio.subprocess.Process | None, path: str, *, seconds: float = _START_SECONDS
) -> None:
    """Wait until somebody listens at a unix socket.

    Args:
        process: who is to listen there, if it is known.
        path: the socket's.
        seconds: for how long to wait.

    Raises:
        GatewrightError: it ended, or didn't listen in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        if process is not None and process.returncode is not None:
            raise GatewrightError(f"the process for {path} ended with {process.returncode}; its log above says why")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(path)
            writer.close()
            return
        if loop.time() > deadline:
            raise GatewrightError(f"nobody listens at {path} after {seconds:g} s")
        await asyncio.sleep(0.02)


async def until_stopped(work: Coroutine[Any, Any, int], *, log_level: str = "info") -> int:
    """Do something until SIGINT or SIGTERM; gives its exit code, or 0 if it was stopped.

    Args:
        work: what to do.
        log_level: of what is logged meanwhile.
    """
    configure_logs(level=log_level, format="short")
    for noisy in ("watchfiles", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: task and task.cancel())
    try:
        return await work
    except asyncio.CancelledError:
        return 0  # at whatever point it was asked to stop, everything has been stopped on the way here
