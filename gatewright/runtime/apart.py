"""Which plugins are kept off the loop, and the moving of those that turn out to block.

That a plugin blocks is learnt from one call, or one `setup()`, of one of its instances; it holds for all of them, for
those of other workers, and for the workers that come later. What an instance holds may belong to the thread that made
it (a connection of sqlite3, a loop, a `threading.local`), so one that was made on the loop is not taken elsewhere: it
is torn down there, and another one is made and set up in a thread, when it is next called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gatewright.runtime.steps import State, Step

__all__ = ["Apart", "renew"]


class Apart:
    """The names of plugins whose code runs in threads, and the steps that may have to be moved there.

    Attributes:
        names: plugins that were seen blocking.
        on_learnt: told the name of each that is new.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.on_learnt: Callable[[str], None] = lambda _name: None
        self._steps: dict[str, set[Step]] = {}

    def joined(self, step: Step) -> None:
        """A step may be moved from now on."""
        self._steps.setdefault(step.name, set()).add(step)

    def left(self, step: Step) -> None:
        """A step is gone."""
        steps = self._steps.get(step.name, set())
        steps.discard(step)
        if not steps:
            self._steps.pop(step.name, None)

    def learn(self, name: str) -> None:
        """A plugin has blocked here: it is moved, and the others are to know."""
        if name not in self.names:
            self.hear((name,))
            self.on_learnt(name)

    def hear(self, names: Iterable[str]) -> None:
        """These plugins block, here or elsewhere: what there is of them is moved."""
        for name in names:
            self.names.add(name)
            for step in self._steps.get(name, ()):
                if not step.apart:
                    step.apart = True
                    renew(step)


def renew(step: Step) -> None:
    """Have a step's plugin made anew, and set up, before its next call."""
    if step.plugin is None or step.setup_running is not None:
        return  # nothing was made, or whoever makes it sees to it
    if step.state is State.READY:
        step.old, step.state = step.plugin, State.NEW
    step.make = step.remake
    step.on_renewal()
