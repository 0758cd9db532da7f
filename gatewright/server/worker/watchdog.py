"""Names what blocks a worker's loop, with the stack, while it does so."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from time import monotonic
from types import FrameType

from gatewright.loggers import get_logger
from gatewright.plugin import Plugin
from gatewright.runtime.strands import Strand
from gatewright.server.ipc.last_seen import LastSeen

__all__ = ["Watchdog"]

_AGAIN_SECONDS = 10.0


class Watchdog:
    """A thread that looks whether the loop still goes round.

    It can only tell while the interpreter switches threads; what blocks inside a C extension that keeps the interpreter
    lock is told afterwards. Ending a worker that stays blocked is the supervisor's part, for the same reason.
    """

    INTERVAL = 0.2

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        block_limit: float,
        stuck_limit: float,
        last_seen: LastSeen | None = None,
    ) -> None:
        """Make a watchdog for the loop of the calling thread.

        Args:
            loop: the loop that calls `beat` every `INTERVAL` seconds.
            block_limit: seconds without a beat after which the stack is logged.
            stuck_limit: seconds after which the worker will be replaced; 0 for never.
            last_seen: where the supervisor looks for what blocked the loop, then.
        """
        self._loop = loop
        self._block_limit = min(block_limit, stuck_limit / 2) if stuck_limit else block_limit
        self._last_seen = last_seen
        self._stuck_limit = stuck_limit
        self._thread_id = threading.get_ident()
        self._beat = monotonic()
        self._told = 0.0
        self._stopped = threading.Event()
        self._log = get_logger("gatewright.watchdog")

    def start(self) -> None:
        """Start to watch."""
        self.beat()
        threading.Thread(target=self._watch, name="gatewright-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop to watch."""
        self._stopped.set()

    def beat(self) -> None:
        """The loop goes round."""
        now = monotonic()
        if self._told:
            self._log.warning("the loop goes on", blocked_for=round(now - self._beat, 2))
            self._told = 0.0
        if self._last_seen is not None:
            self._last_seen.nothing()
        self._beat = now

    def _watch(self) -> None:
        while not self._stopped.wait(min(self._block_limit / 2, self.INTERVAL)):
            now = monotonic()
            blocked = now - self._beat
            if blocked < self._block_limit + self.INTERVAL or (self._told and now - self._told < _AGAIN_SECONDS):
                continue
            frame = sys._current_frames().get(self._thread_id)
            if frame is None:
                continue
            self._told = now
            plugin, route = _who(frame)
            if self._last_seen is not None:
                self._last_seen.blocking(plugin)
            self._log.error(
                "the loop is blocked: nothing else is served meanwhile",
                plugin=plugin or "none: see the stack",
                route=route,
                seconds=round(blocked, 2),
                cure="await, or use a `def` handler with `blocking = True`",
                replaced_after=self._stuck_limit or "never",
                stack="".join(traceback.format_stack(frame, limit=12)),
            )


def _who(frame: FrameType) -> tuple[str, str]:
    """The plugin and the route that a stack works for; empty where it can't be seen."""
    plugin = route = ""
    seen: FrameType | None = frame
    while seen is not None:
        me = seen.f_locals.get("self")
        if isinstance(me, Strand) and me.work is not None:
            return me.work.name, me.work.route
        if isinstance(me, Plugin) and not plugin:
            plugin = type(me).name
        seen = seen.f_back
    return plugin, route
