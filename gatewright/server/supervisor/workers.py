"""A worker as its supervisor sees it, and the choice of one for a connection."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from time import monotonic
from typing import NamedTuple

import structlog

from gatewright.observe.report import WorkerReport
from gatewright.server.ipc import messages
from gatewright.server.ipc.channel import Channel
from gatewright.server.ipc.guard import Guard
from gatewright.server.ipc.handover import Handover
from gatewright.server.ipc.last_seen import LastSeen
from gatewright.server.ipc.plan import Plan

__all__ = ["SILENT_SECONDS", "Stage", "Worker", "describe_exit", "least_loaded", "to_give_back"]

SILENT_SECONDS = 2.0
"""A worker that was not heard of for so long gets no new connections if another one can have them."""
_UNEVEN = 0.1
"""Share of the mean by which a worker may have more connections than it should."""


class Stage(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    STANDBY = "standby"
    """Ready, and waiting for the others of a reload."""
    READY = "ready"
    RETIRING = "retiring"
    ENDED = "ended"


class OnTheWay(NamedTuple):
    """A connection that was sent to a worker, and what was read of it before."""

    slot: int
    connection: socket.socket
    read: bytes
    since: float


@dataclass(eq=False)
class Worker:
    """One worker process.

    Attributes:
        number: its place, from 1 up; a successor has the same one.
        generation: counts reloads.
        plan: what it runs.
        instead_of: the worker that retires when this one is ready.
        guard: what the gateway waits for on its connections, for plans that have last words.
        last_seen: which plugin blocks it.
        keeper: takes its connections when it ends with the supervisor.
        region: its region of what phases keep for later ones; -1 for none.
        connections: how many it has, those on their way included.
        heard: when it was last heard of (`monotonic`).
        retired: when it was told to retire.
        doubted: when connections were taken back that it didn't come for.
    """

    number: int
    generation: int
    plan: Plan
    instead_of: Worker | None = None
    pid: int = 0
    stage: Stage = Stage.STARTING
    channel: Channel[messages.FromWorker] | None = None
    connections: int = 0
    began: float = field(default_factory=monotonic)
    heard: float = field(default_factory=monotonic)
    doubted: float = 0.0
    retired: float = 0.0
    retire_by: float = 0.0
    told_to_stop: bool = False
    wants: str = ""
    """Why it wants to be replaced, if it does."""
    building: set[int] = field(default_factory=set)
    """Tokens of the configurations that it builds just now."""
    plugins: list[messages.PluginInfo] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    longest: float = 0.0
    """The longest deadline of its plugins, seconds."""
    report: WorkerReport = field(default_factory=WorkerReport)
    in_transit: dict[int, OnTheWay] = field(default_factory=dict)
    """Connections sent to it that it has not said to have taken, by the numbers that `handover` gave them; if it dies,
    another one gets them.
    """
    handover: Handover | None = None
    guard: Guard | None = None
    region: int = -1
    last_seen: LastSeen | None = None
    keeper: socket.socket | None = None
    held: dict[int, socket.socket] = field(default_factory=dict)
    """Connections that it has, by slot, if there is a guard."""
    asked: dict[int, asyncio.Future[WorkerReport]] = field(default_factory=dict)

    def hand_over(self, connection: socket.socket, read: bytes = b"", *, roomy: bool = True) -> None:
        """Give it a connection.

        Args:
            connection: which.
            read: what another worker, which is dead, has read of it and not begun.
            roomy: there are descriptors enough to keep one for last words where these are not all that counts.
        """
        slot = -1
        is_vital = self.plan.begins_anew is None
        if self.guard is not None and (is_vital or roomy):
            free = self.guard.take_slot()
            if free is None and is_vital:
                structlog.get_logger("gatewright.server").error(
                    "worker has no room for a connection; closed", worker=self.number, cure="max_connections"
                )
                connection.close()
                return
            slot = free if free is not None else -1
        assert self.handover is not None  # noqa: S101 - it serves
        self.connections += 1
        number = self.handover.give(slot, read, connection)
        self.in_transit[number] = OnTheWay(slot, connection, read, monotonic())

    def taken(self, number: int, came: bool) -> tuple[socket.socket, bytes] | None:
        """It has a connection that was on its way, or couldn't: then here it is, as for `hand_over`."""
        slot, connection, read, _ = self.in_transit.pop(number)
        if came:
            if slot >= 0:
                self.held[slot] = connection
            else:
                connection.close()
            return None
        return self._not_given(slot, connection, read)

    @property
    def oldest_in_transit(self) -> float:
        """When that connection was sent to it for which it has not come for longest; `inf` if there is none."""
        return next((each.since for each in self.in_transit.values()), inf)

    def take_back(self, now: float) -> list[tuple[socket.socket, bytes]]:
        """Take back the connections that it has not come for, as for `hand_over`; it gets none until it's heard of."""
        assert self.handover is not None  # noqa: S101 - there is something on its way
        self.doubted = now
        slots = [self.in_transit.pop(number) for number in sorted(self.handover.take_back())]
        return [self._not_given(slot, connection, read) for slot, connection, read, _ in slots]

    def not_taken(self) -> list[tuple[socket.socket, bytes]]:
        """It's dead: what it has not said to have taken."""
        left, self.in_transit = list(self.in_transit.values()), {}
        return [(each.connection, each.read) for each in left]

    def _not_given(self, slot: int, connection: socket.socket, read: bytes) -> tuple[socket.socket, bytes]:
        self.connections -= 1
        if slot >= 0 and self.guard is not None:
            self.guard.free(slot)
        return connection, read

    def let_go(self, slot: int) -> None:
        """It no longer has the connection of a slot."""
        held = self.held.pop(slot, None)
        if held is not None:
            held.close()
        if slot >= 0 and self.guard is not None:
            self.guard.free(slot)

    def is_lively(self, now: float) -> bool:
        """Whether it serves, and was heard of lately: what it's given is likely to be answered."""
        return self.stage is Stage.READY and now - self.heard < SILENT_SECONDS and self.heard > self.doubted

    def is_expected(self) -> bool:
        """Whether it should be heard of: it serves, or has yet to hear that it's to retire."""
        return self.stage is Stage.READY or (self.stage is Stage.RETIRING and self.heard < self.retired)

    def send(self, message: messages.FromSupervisor) -> None:
        """Tell it something."""
        if self.channel is not None:
            self.channel.send(message)


def least_loaded(workers: Iterable[Worker], now: float) -> Worker | None:
    """The worker to give the next connection to: of those that answer, the one with the fewest."""
    ready = [worker for worker in workers if worker.stage is Stage.READY]
    lively = [worker for worker in ready if worker.is_lively(now)]
    return min(lively or ready, key=lambda worker: worker.connections, default=None)


def to_give_back(workers: Iterable[Worker]) -> list[tuple[Worker, int]]:
    """How many connections each worker should give back, so that all have about the same."""
    ready = [worker for worker in workers if worker.stage is Stage.READY]
    if len(ready) < 2:
        return []
    mean = sum(worker.connections for worker in ready) / len(ready)
    allowed = mean + max(mean * _UNEVEN, 1.0)
    return [(worker, int(worker.connections - mean)) for worker in ready if worker.connections > allowed]


def describe_exit(status: int) -> str:
    """What `waitpid` said, in words."""
    code = -status
    if code > 0:
        try:
            return f"killed by {signal.Signals(code).name}"
        except ValueError:
            return f"killed by signal {code}"
    return f"exit code {status}"
