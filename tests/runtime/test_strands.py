"""Strands are used again: nothing of an earlier call is a later one's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from gatewright.runtime.strands import SWEEP_INTERVAL, Strand, Strands


@dataclass
class Work:
    timeout: float = 0.01


def test_a_deadline_that_an_earlier_call_has_left_ends_no_later_wait() -> None:
    outcomes: list[Any] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def begin() -> None:
            strands = Strands(loop, max_idle=1)

            def waits(strand: Strand, seconds: float) -> None:
                moment = loop.create_future()
                loop.call_later(seconds, lambda: moment.done() or moment.set_result("waited"))
                try:
                    outcomes.append((strand, strands.wait_future(moment)))
                except Exception as error:
                    outcomes.append((strand, error))

            def handles(strand: Strand, seconds: float) -> None:
                strand.work = Work()  # type: ignore[assignment]
                strand.deadline = 0.0
                waits(strand, seconds)

            strands.start(handles, 0.0)
            # Before its plugins are known a call may wait for its chain, which has no deadline.
            loop.call_later(0.05, strands.start, waits, 3 * SWEEP_INTERVAL)
            loop.call_later(0.1 + 4 * SWEEP_INTERVAL, done.set_result, None)

        loop.call_soon(begin)
        await done

    asyncio.run(run())
    (first, waited), (second, waited_too) = outcomes
    assert first is second, "the strand was not used again: this tests nothing"
    assert (waited, waited_too) == ("waited", "waited")
