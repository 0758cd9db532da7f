"""The way into `server`: with a supervisor and workers, or all in one process."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable

import structlog

from gatewright.observe.tracing import check_tracing
from gatewright.server.alone import Alone
from gatewright.server.supervisor.supervisor import Supervisor
from gatewright.server.worker.process import WorkerPlan
from gatewright.server.worker.single import run_single
from gatewright.settings import Effective

__all__ = ["run_runner", "tell_ignored"]


def run_runner(load: Callable[[], WorkerPlan], *, loop: asyncio.AbstractEventLoop | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        load: reads the settings; called again for each reload.
        loop: a loop that plugins were already bound to, which can't be shared among workers.

    Returns:
        The exit code: 0; 1 if calls under way had to be cut off; 3 if workers could never be started.

    Raises:
        GatewrightError: the settings are invalid, or an address can't be bound.
    """

    def checked() -> WorkerPlan:
        plan = load()
        if plan.settings.tracing:
            check_tracing()
        return plan

    plan = checked()
    alone = _why_alone(plan, loop)
    if not alone:
        return Supervisor(checked, plan).run()
    if plan.settings.workers not in ("0", "1"):
        structlog.get_logger("gatewright.server").warning(
            "one process serves, whatever `workers` says", workers=plan.settings.workers, reason=alone
        )
    return run_single(plan, show=Alone, loop=loop)


def tell_ignored(effective: Effective) -> None:
    """Say which variables of the environment look like settings, and are none."""
    if effective.ignored:
        structlog.get_logger("gatewright.server").warning(
            "variables of the environment that are no settings: ignored", names=list(effective.ignored)
        )


def _why_alone(plan: WorkerPlan, loop: asyncio.AbstractEventLoop | None) -> str:
    """Why there can be no workers; empty if there can."""
    if plan.settings.workers == "0":
        return "workers is 0"
    if loop is not None:
        return "plugins were registered that are bound to this process's event loop"
    if threading.current_thread() is not threading.main_thread():
        return "not run in the main thread"
    if threading.active_count() > 1:
        return "other threads run in this process, which can't be forked then"
    if _profiled() and plan.settings.workers == "1":
        return "a profiler runs, which sees this process alone"
    return ""


def _profiled() -> bool:
    if sys.getprofile() is not None:
        return True
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12 and later
    return monitoring is not None and monitoring.get_tool(monitoring.PROFILER_ID) is not None
