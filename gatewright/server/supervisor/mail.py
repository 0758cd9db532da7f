"""What workers tell their supervisor, and what comes of it."""

from __future__ import annotations

import socket
from time import monotonic
from typing import Final, Protocol

import structlog

from gatewright.server.ipc import messages
from gatewright.server.supervisor.blockers import Blockers
from gatewright.server.supervisor.dispatcher import Dispatcher
from gatewright.server.supervisor.last_words import LastWords
from gatewright.server.supervisor.registry import Registry
from gatewright.server.supervisor.workers import Stage, Worker

__all__ = ["Mail"]

_NO_ROOM_SECONDS: Final = 10.0


class Office(Protocol):
    """Who decides about workers: the supervisor."""

    def on_loaded(self, worker: Worker, plugins: list[messages.PluginInfo], errors: list[str]) -> None:
        """A worker has loaded its plugins."""

    def on_ready(self, worker: Worker) -> None:
        """A worker can serve."""

    def complete(self) -> None:
        """See whether workers are missing, or want a successor."""


class Mail:
    """Takes workers' messages: to the registry, the dispatcher, another worker, or the supervisor."""

    def __init__(
        self,
        office: Office,
        workers: list[Worker],
        registry: Registry,
        dispatcher: Dispatcher,
        last_words: LastWords,
        blockers: Blockers,
    ) -> None:
        """Be ready to take messages.

        Args:
            office: decides about workers.
            workers: the workers of now; the list is looked at anew each time.
            registry: has the conf tokens.
            dispatcher: has the connections.
            last_words: knows which connections are open.
            blockers: knows which plugins block.
        """
        self._office = office
        self._workers = workers
        self._registry = registry
        self._dispatcher = dispatcher
        self._last_words = last_words
        self._blockers = blockers
        self._log = structlog.get_logger("gatewright.server")
        self._told_no_room = -_NO_ROOM_SECONDS

    def take(self, worker: Worker, message: messages.FromWorker, connection: socket.socket | None) -> None:
        """Act on a worker's message, with which it may have handed a connection over."""
        worker.heard = monotonic()
        match message:
            case messages.Alive():
                pass
            case messages.Taken(number, came):
                left = worker.taken(number, came)
                if left is not None:
                    self._no_room(worker, *left)
            case messages.Building(token):
                worker.building.add(token)
            case messages.Built(token):
                worker.building.discard(token)
                self._registry.built(token)
            case messages.Closed(count, slots):
                worker.connections -= count
                self._last_words.closed_by(worker, slots)
            case messages.Return(slot):
                worker.send(messages.Returned(connection is not None))
                if connection is not None:
                    worker.connections -= 1
                    worker.let_go(slot)
                    self._dispatcher.place(connection)
            case messages.Register(digest, conf):
                self._registry.register(worker, digest, conf)
            case messages.Lookup(token):
                self._registry.look_up(worker, token)
            case messages.Used(tokens):
                self._registry.used(tokens)
            case messages.Forget(token):
                self._registry.forget(token)
                for each in self._workers:
                    if each is not worker:
                        each.send(messages.Forgotten(token))
            case messages.Blocks(name):
                self._blockers.learnt(worker, name)
            case messages.Reported(number, report):
                worker.report = report
                if number in worker.asked:
                    worker.asked.pop(number).set_result(report)
            case messages.WantsRetirement(reason):
                worker.wants = reason
                self._office.complete()
            case messages.Loaded(plugins, errors, longest) if worker.stage is Stage.STARTING:
                worker.longest = longest
                self._office.on_loaded(worker, plugins, errors)
            case messages.Ready() if worker.stage is Stage.STARTING:
                self._office.on_ready(worker)

    def _no_room(self, worker: Worker, connection: socket.socket, read: bytes) -> None:
        worker.doubted = now = monotonic()  # until it's heard of again others go first
        if now - self._told_no_room >= _NO_ROOM_SECONDS:
            self._told_no_room = now
            self._log.error("worker has no room for a connection: file descriptors", worker=worker.number)
        self._dispatcher.place_soon(connection, read)
