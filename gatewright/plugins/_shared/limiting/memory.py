"""Counts in this process's memory: exact for one worker; each other one has its own.

The rules are those of the script that Redis runs (`script`), number for number; a test compares them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from time import time
from typing import Any
from weakref import WeakKeyDictionary

from gatewright.plugins._shared.limiting.rules import Limit, State, Verdict

__all__ = ["MemoryStore", "shared_memory"]


@dataclass(slots=True)
class _Entry:
    value: Any
    expires: int


class MemoryStore:
    """A store for one event loop. What was used longest ago is forgotten once there are too many keys."""

    def __init__(self, most_keys: int = 100_000, *, clock: Callable[[], float] = time) -> None:
        """Begin empty.

        Args:
            most_keys: how many counts at most.
            clock: the time in seconds.
        """
        self.most_keys = most_keys
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def decide(self, key: str, limits: Sequence[Limit], cost: int = 1, *, force: bool = False) -> Verdict:
        """See `Store.decide`."""
        now = int(self._clock() * 1_000_000)
        plans = [_LOOKS[limit.algorithm](self._get(f"{key}:{limit.label}", now), limit, cost, now) for limit in limits]
        allowed = all(plan.before.allowed for plan in plans)
        if not cost or not (allowed or force):
            return Verdict(allowed, [plan.before for plan in plans])
        for limit, plan in zip(limits, plans, strict=True):
            self._put(f"{key}:{limit.label}", plan.value(), now + plan.lasts)
        return Verdict(allowed, [plan.after for plan in plans])

    def _get(self, name: str, now: int) -> Any:
        entry = self._entries.get(name)
        if entry is None or entry.expires <= now:
            return None
        self._entries.move_to_end(name)
        return entry.value

    def _put(self, name: str, value: Any, expires: int) -> None:
        self._entries[name] = _Entry(value, expires)
        self._entries.move_to_end(name)
        if len(self._entries) > self.most_keys:
            self._entries.popitem(last=False)


@dataclass(slots=True)
class _Plan:
    """What a limit says, and what is kept, for so many microseconds, if it is counted."""

    before: State
    after: State
    value: Callable[[], Any]
    lasts: int


def _gcra(known: int | None, limit: Limit, cost: int, now: int) -> _Plan:
    """`known`: when the bucket is full."""
    interval = limit.interval
    tolerance = interval * limit.burst
    full = max(known or 0, now)
    new = full + interval * cost
    wait = max(new - tolerance - now, 0)

    def state(full: int) -> State:
        return State(wait == 0, max(tolerance - (full - now), 0) // interval, full - now, wait)

    return _Plan(state(full), state(new), lambda: new, new - now)


def _fixed(known: tuple[int, int] | None, limit: Limit, cost: int, now: int) -> _Plan:
    """`known`: the window's number, and how many there were in it."""
    window = now // limit.period
    used = known[1] if known is not None and known[0] == window else 0
    reset = (window + 1) * limit.period - now
    allowed = used + cost <= limit.most

    def state(used: int) -> State:
        return State(allowed, max(limit.most - used, 0), reset if used else 0, 0 if allowed else reset)

    return _Plan(state(used), state(used + cost), lambda: (window, used + cost), reset)


def _sliding(known: tuple[int, int, int] | None, limit: Limit, cost: int, now: int) -> _Plan:
    """`known`: the window's number, how many there were in the one before, and in it."""
    period, window = limit.period, now // limit.period
    before, used = 0, 0
    if known is not None and known[0] == window:
        before, used = known[1], known[2]
    elif known is not None and known[0] == window - 1:
        before = known[2]
    left = (window + 1) * period - now
    counted = -(-before * left // period) + used
    allowed = counted + cost <= limit.most
    retry = 0
    if not allowed:
        room = limit.most - used - cost
        if room >= 0:
            retry = left - room * period // before
        else:
            room = max(limit.most - cost, 0)
            retry = left + (max(period - room * period // used, 0) if used else 0)

    def state(more: int) -> State:
        mine = used + more
        reset = left + (period if mine else 0) if before or mine else 0
        return State(allowed, max(limit.most - counted - more, 0), reset, retry)

    return _Plan(state(0), state(cost), lambda: (window, before, used + cost), left + period)


def _log(known: deque[int] | None, limit: Limit, cost: int, now: int) -> _Plan:
    """`known`: when each came."""
    times = known if known is not None else deque()
    while times and times[0] <= now - limit.period:
        times.popleft()
    used = len(times)
    allowed = used + cost <= limit.most
    retry = 0
    if not allowed and used:
        retry = times[min(max(used + cost - limit.most, 1), used) - 1] + limit.period - now
    reset = times[-1] + limit.period - now if times else 0
    before = State(allowed, max(limit.most - used, 0), reset, retry)
    after = State(allowed, max(limit.most - used - cost, 0), limit.period, retry)

    def counted() -> deque[int]:
        times.extend(repeat(now, cost))
        return times

    return _Plan(before, after, counted, limit.period)


_LOOKS: dict[str, Callable[[Any, Limit, int, int], _Plan]] = {
    "gcra": _gcra, "fixed-window": _fixed, "sliding-window": _sliding, "sliding-log": _log,
}  # fmt: skip


_memories: WeakKeyDictionary[asyncio.AbstractEventLoop, MemoryStore] = WeakKeyDictionary()
"""A store for each loop: what was counted is to survive a configuration that is changed, and so made anew."""


def shared_memory(most_keys: int) -> MemoryStore:
    """The running loop's store.

    Args:
        most_keys: how many counts it holds at least before it forgets any.
    """
    loop = asyncio.get_running_loop()
    store = _memories.get(loop)
    if store is None:
        store = _memories[loop] = MemoryStore(most_keys)
    store.most_keys = max(store.most_keys, most_keys)
    return store
