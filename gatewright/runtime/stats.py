"""What the hot path counts, in the cheapest way that metrics can be made of.

One `Tally` for each plugin, phase and route; its increments are inlined in `chain`, since a method call would cost more
than they do.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BOUNDS", "OTHER_ROUTES", "Tallies", "Tally"]

BOUNDS: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of the histogram's buckets, seconds; one more bucket has none."""

OTHER_ROUTES: Final = "(other routes)"
"""Stands for routes beyond the limit on their number."""

_MAX_TALLIES = 2048


class Tally:
    """How long one plugin's handler took in one phase on one route, waiting included.

    Attributes:
        counts: runs by bucket of `BOUNDS`, not cumulative.
        seconds: their sum.
    """

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0


class Tallies(dict[tuple[str, str, str], Tally]):
    """All tallies of a process, by plugin, phase and route key. They stay when a chain goes: counters never fall."""

    def of(self, plugin: str, phase: str, route: str) -> Tally:
        """The tally of a plugin, phase and route; beyond some thousands, routes share one."""
        if (plugin, phase, route) not in self and len(self) >= _MAX_TALLIES:
            route = OTHER_ROUTES
        return self.setdefault((plugin, phase, route), Tally())
