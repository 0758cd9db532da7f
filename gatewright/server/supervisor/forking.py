"""Turning a fork of the supervisor into a worker."""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from typing import NoReturn

from gatewright.loggers import get_logger
from gatewright.observe import logs
from gatewright.server.host.orphans import end_with_parent
from gatewright.server.ipc.keep import Keep
from gatewright.server.supervisor.workers import Worker

__all__ = ["fork_worker"]

_FAILED = 70  # EX_SOFTWARE
_ancestry: list[object] = []  # what a worker inherits must not be collected there: that would close its own descriptors


def fork_worker(
    worker: Worker, selector: selectors.BaseSelector, others: Iterable[int], keep: Keep, parent: object
) -> socket.socket:
    """Fork a worker. To be called while the loop stands still, so that the child begins with a clean stack.

    Args:
        worker: what to run; gets its `pid`.
        selector: the supervisor's loop's.
        others: further descriptors that the worker must not have.
        keep: has the worker's region.
        parent: the supervisor, which must stay alive in the child.

    Returns:
        The supervisor's end of the channel.

    Raises:
        OSError: there can be no more processes.
    """
    ours, theirs = socket.socketpair()
    supervisor = os.getpid()
    gc.freeze()  # what parent and child share stays shared
    try:
        worker.pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if not worker.pid:
        _ancestry.append(parent)
        ours.close()
        descriptors = {selector.fileno(), *(key.fd for key in selector.get_map().values()), *others}  # type: ignore[attr-defined]
        _become(worker, theirs, descriptors, keep, supervisor)
    gc.unfreeze()
    theirs.close()
    return ours


def _become(worker: Worker, sock: socket.socket, descriptors: set[int], keep: Keep, supervisor: int) -> NoReturn:
    code = _FAILED
    try:
        end_with_parent(supervisor)
        if not os.isatty(0):  # where a debugger could read, only those of the terminal's group may
            os.setpgid(0, 0)  # so that who ends "its" group (`os.killpg`) doesn't end the runner and the gateway
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)  # the supervisor says what they mean
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in descriptors:
            os.close(fd)
        handover = worker.handover
        assert handover is not None  # noqa: S101 - made before each fork
        handover.belongs_to_worker()
        settings = worker.plan.settings
        logs.never_wait_for_output()
        logs.configure_logs(
            level=logs.level(),
            format=settings.log_format,
            file=settings.log_file,
            fields={"worker": worker.number},
            must_open=False,
        )
        code = worker.plan.work(
            sock, handover, worker.guard, keep.region(worker.region), worker.last_seen, worker.keeper
        )
    except BaseException as error:
        get_logger("gatewright.server").critical("worker failed", exc_info=error)
    finally:
        logs.finish()
        with contextlib.suppress(Exception):  # plugins may have put anything in its place
            sys.stdout.flush()
        os._exit(code)
