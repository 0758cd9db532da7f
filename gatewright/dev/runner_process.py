"""A runner beside a development gateway, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gatewright.dev.processes import end, until_listening
from gatewright.errors import GatewrightError
from gatewright.observe.control import ask_json

__all__ = ["reload_runner", "runner_process"]


@asynccontextmanager
async def runner_process(
    paths: Sequence[Path],
    listen: str,
    *,
    version: str = "3.9",
    environ: Mapping[str, str] | None = None,
    log_level: str = "info",
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A runner process that listens; stopped on leaving. Its log goes to our stderr.

    Args:
        paths: where the plugins are.
        listen: the address.
        version: the APISIX that it will talk to.
        environ: more for its environment.
        log_level: of what plugins log.

    Raises:
        GatewrightError: it ended, or didn't listen in time.
    """
    arguments = [argument for path in paths for argument in ("--plugins", str(path))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatewright", "run", "--listen", listen, *arguments, "--log-level", log_level),
        *("--log-format", "short", "--socket-owner", str(os.getuid()), "--die-with-parent", "yes"),
        env={
            "GATEWRIGHT_APISIX_VERSION": version,
            "PYTHONDONTWRITEBYTECODE": "1",  # old code is known by second and size only, and files change faster
            **os.environ,
            **(environ or {}),
        },  # 3.16 can't be told from what it does
        start_new_session=True,  # Ctrl-C is for us, who stop it in order
    )
    try:
        await until_listening(process, listen.removeprefix("unix:"))
        yield process
    finally:
        await end(process)


async def reload_runner(listen: str) -> None:
    """Have a runner load its plugins anew.

    Args:
        listen: its socket's path.

    Raises:
        GatewrightError: one can't be loaded; all stays as it was.
    """
    status, result = await asyncio.to_thread(ask_json, f"{listen}.control", "/reload", method="POST", timeout=100.0)
    if status != 200:
        raise GatewrightError(result.get("reason") or f"the runner answered {status}")
