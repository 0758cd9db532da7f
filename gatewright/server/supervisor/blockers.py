"""Which plugins were seen blocking, so that what one worker has learnt, even by its end, all others know.

What holds for one generation's code need not hold for the next one's: a reload begins anew.
"""

from __future__ import annotations

import structlog

from gatewright.server.ipc import messages
from gatewright.server.supervisor.workers import Worker

__all__ = ["Blockers"]


class Blockers:
    """The names of plugins that block, by generation."""

    def __init__(self, workers: list[Worker]) -> None:
        """Begin with none.

        Args:
            workers: the workers of now; the list is looked at anew each time.
        """
        self._workers = workers
        self._names: dict[int, set[str]] = {}
        self._log = structlog.get_logger("gatewright.server")

    def tell(self, worker: Worker) -> None:
        """Tell a new worker what is known."""
        names = self._names.get(worker.generation)
        if names:
            worker.send(messages.Apart(sorted(names)))

    def learnt(self, worker: Worker, name: str) -> None:
        """A worker has seen a plugin blocking: the others of its generation are to know."""
        names = self._names.setdefault(worker.generation, set())
        if name in names or not any(plugin.name == name for plugin in worker.plugins):
            return
        names.add(name)
        for other in self._workers:
            if other is not worker and other.generation == worker.generation:
                other.send(messages.Apart([name]))

    def worker_ended(self, worker: Worker) -> None:
        """A worker is gone, maybe for what it was seen doing last."""
        if worker.last_seen is not None:
            name = worker.last_seen.name
            worker.last_seen.close()
            worker.last_seen = None
            if name:
                self._log.warning(
                    "a worker ended while this plugin blocked it: its set-up and `def` handlers run in threads now",
                    plugin=name,
                    worker=worker.number,
                    pid=worker.pid,
                    cure="declare `blocking = True`",
                )
                self.learnt(worker, name)
        present = {other.generation for other in (*self._workers, worker)}
        for generation in [generation for generation in self._names if generation not in present]:
            del self._names[generation]
