"""What the hot path counts, in the cheapest way that metrics can be made of.

One `Tally` for each plugin, phase and route: how long its handler took, waiting included.
"""

from __future__ import annotations

from typing import Final

from gatewright.parts import Tally

__all__ = ["BOUNDS", "MOST_TALLIES", "OTHER_ROUTES", "Tallies", "Tally", "new_tally"]

BOUNDS: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of the histogram's buckets, seconds; one more bucket has none."""

OTHER_ROUTES: Final = "(other routes)"
"""Stands for routes beyond the limit on their number."""

MOST_TALLIES: Final = 2048


def new_tally() -> Tally:
    """One of nothing yet."""
    return Tally(BOUNDS)


class Tallies(dict[tuple[str, str, str], Tally]):
    """All tallies of a process, by plugin, phase and route key.

    They stay when a chain goes: counters never fall. Once there are too many, those of routes that are gone are added
    to their plugin's `OTHER_ROUTES`; only when all belong to chains in use does a new route share that one.
    """

    def __init__(self, most: int = MOST_TALLIES) -> None:
        """Begin with none.

        Args:
            most: tallies of routes at once, besides those of `OTHER_ROUTES`.
        """
        super().__init__()
        self._most = most
        self._users: dict[tuple[str, str, str], int] = {}

    def of(self, plugin: str, phase: str, route: str) -> Tally:
        """The tally of a plugin, phase and route, which is in use from now on."""
        key = plugin, phase, route
        if key not in self and len(self) >= self._most:
            self._fold()
            if len(self) >= self._most:
                key = plugin, phase, OTHER_ROUTES
        self._users[key] = self._users.get(key, 0) + 1
        return self.setdefault(key, new_tally())

    def release(self, plugin: str, phase: str, route: str) -> None:
        """One that used it is gone."""
        key = plugin, phase, route
        left = self._users.get(key, 0) - 1
        if left > 0:
            self._users[key] = left
        else:
            self._users.pop(key, None)

    def _fold(self) -> None:
        for key in [key for key in self if key not in self._users and key[2] != OTHER_ROUTES]:
            gone = self.pop(key)
            self.setdefault((key[0], key[1], OTHER_ROUTES), new_tally()).add(gone)
