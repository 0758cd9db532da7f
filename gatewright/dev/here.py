"""A runner in the development gateway's own process, for debuggers: one process, no deadlines, no watchdog.

`breakpoint()` works in every handler that isn't `blocking`, and Ctrl-C ends all at once, whatever plugins are at.
"""

from __future__ import annotations

import asyncio
import os
import pdb
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from gatewright.errors import GatewrightError
from gatewright.runtime.discovery import Discovery
from gatewright.runtime.own_loops import allow_own_loops
from gatewright.server.worker import leaving
from gatewright.server.worker.process import WorkerPlan, make_service
from gatewright.server.worker.service import Service
from gatewright.settings import load_settings

__all__ = ["RunnerHere", "leave_at_once", "runner_here", "settings_for_debugging"]

_FOREVER: Final = 1e9
_TEARDOWN_SECONDS: Final = 2.0


def settings_for_debugging(listen: str, **more: Any) -> Any:
    """Settings without any limit that a person at a prompt would meet."""
    flags = {
        "listen": listen, "timeout": _FOREVER, "hold_limit": _FOREVER, "block_limit": _FOREVER, "stuck_limit": 0,
        "stall_timeout": _FOREVER, "max_lag": 0, "control": "off", **more,
    }  # fmt: skip
    return load_settings(flags=flags, environ=os.environ).settings


def leave_at_once(directory: str) -> None:
    """Let Ctrl-C end this process whatever it is at, and `breakpoint()` not change that.

    Args:
        directory: a private one, to be removed.
    """

    def leave(*_: object) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        os._exit(130)

    signal.signal(signal.SIGINT, leave)
    if "PYTHONBREAKPOINT" not in os.environ and sys.breakpointhook is sys.__breakpointhook__:

        def stop_here(*_: object, **__: object) -> None:
            pdb.Pdb(nosigint=True).set_trace(sys._getframe(1))

        sys.breakpointhook = stop_here


class RunnerHere:
    """The runner."""

    def __init__(self, service: Service, discover: Callable[[], Discovery], paths: Sequence[Path]) -> None:
        self._service = service
        self._discover = discover
        self._paths = [str(path.resolve()) for path in paths]

    def reload(self) -> Discovery:
        """Import the plugins anew, and forget what was made of the old ones.

        Raises:
            GatewrightError: one can't be loaded; all stays as it was.
        """
        kept = {name: module for name, module in sys.modules.items() if self._is_ours(module)}
        for name in kept:
            del sys.modules[name]
        discovery = self._discover()
        if discovery.errors:
            sys.modules.update(kept)
            raise GatewrightError(str(discovery.errors[0]))
        service = self._service
        service.builder.plugins = discovery.plugins
        service.failures.known = discovery.plugins
        for token in list(service.confs.by_token):  # the gateway prepares them again, in the same words
            service.confs.forget(token)
        return discovery

    def _is_ours(self, module: Any) -> bool:
        file = getattr(module, "__file__", None) or ""
        return any(file == path or file.startswith(f"{path}/") for path in self._paths)


@asynccontextmanager
async def runner_here(plan: WorkerPlan, listen: str, paths: Sequence[Path]) -> AsyncIterator[RunnerHere]:
    """A runner on this loop that listens at a unix socket.

    Args:
        plan: what to run.
        listen: the socket's path.
        paths: where the plugins are, whose modules a reload imports anew.
    """
    allow_own_loops()
    sys.dont_write_bytecode = True  # old code is known by second and size only, and files change faster
    discovery = plan.discover()
    service = await make_service(replace(plan, discover=lambda: discovery), discovery)
    service.start()
    server = await asyncio.get_running_loop().create_unix_server(plan.driver(service), listen)
    try:
        yield RunnerHere(service, plan.discover, paths)
    finally:
        server.close()
        await leaving.drain(service)
        await leaving.close(service, _TEARDOWN_SECONDS)
