"""What is counted: limits, and what a store says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, Protocol

import msgspec

__all__ = ["ALGORITHMS", "Algorithm", "Limit", "State", "Store", "StoreFailedError", "Verdict"]

Algorithm = Literal["gcra", "fixed-window", "sliding-window", "sliding-log"]
ALGORITHMS: Final[dict[str, str]] = {
    "gcra": "g", "fixed-window": "f", "sliding-window": "s", "sliding-log": "l",
}  # fmt: skip
"""The algorithms, and their letters in keys and for the script."""


class StoreFailedError(Exception):
    """The store could not be asked; the message says why."""


@dataclass(frozen=True)
class Limit:
    """So many in so much time.

    Attributes:
        algorithm: how it is counted.
            `gcra`: a bucket that is refilled evenly: `burst` at once, then one every `period / most`. It is a token
            bucket, kept as one number. In any time `t` no more than `burst + t * most / period`.
            `fixed-window`: windows begin at multiples of `period` since 1970; in each no more than `most`.
            `sliding-window`: of the window before, that share counts which the last `period` still covers. Two numbers;
            taken for evenly spread, so about right.
            `sliding-log`: the time of each; in any `period` no more than `most`, exactly. As many numbers as `most`.
        most: how many, in units of cost.
        period: microseconds.
        burst: how many at once, for `gcra`.
    """

    algorithm: Algorithm
    most: int
    period: int
    burst: int

    @classmethod
    def of(cls, most: int, seconds: float, algorithm: Algorithm = "gcra", burst: int | None = None) -> Limit:
        """A limit with a period in seconds.

        Raises:
            ValueError: the period is less than a microsecond for each.
        """
        period = round(seconds * 1_000_000)
        if period < most:
            raise ValueError(f"{most} in {seconds:g} s is more than one a microsecond, which can't be counted")
        return cls(algorithm, most, period, burst if burst is not None else most)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # of each request's limits it's wanted
        return hash((self.algorithm, self.most, self.period, self.burst))

    @cached_property
    def interval(self) -> int:
        """Microseconds from one to the next, for `gcra`; rounded up, so that never one too many passes."""
        return -(-self.period // self.most)

    @cached_property
    def label(self) -> str:
        """What tells it from others that are counted for the same key."""
        return f"{ALGORITHMS[self.algorithm]}{self.most}.{self.period}.{self.burst}"


class State(msgspec.Struct, frozen=True, gc=False):
    """What is left of a limit.

    Attributes:
        allowed: this limit lets the request pass.
        remaining: how many may still come now.
        reset: microseconds until all may.
        retry: microseconds until what was refused may come.
    """

    allowed: bool
    remaining: int
    reset: int
    retry: int


class Verdict(msgspec.Struct, frozen=True):
    """What a store says: passes only what all limits let pass, and then counts for all of them.

    Attributes:
        allowed: all limits let it pass.
        states: each limit's, in their order.
    """

    allowed: bool
    states: Sequence[State]


class Store(Protocol):
    """Where counts are."""

    async def decide(self, key: str, limits: Sequence[Limit], cost: int = 1, *, force: bool = False) -> Verdict:
        """Ask whether something may pass, and count it if so.

        Args:
            key: whom it is counted for.
            limits: all have to let it pass.
            cost: how much it counts; 0 only looks.
            force: count it in any case: it has happened.

        Raises:
            StoreFailedError: it can't be known.
        """
