"""When calls start: at once, or together with those that come in the same turn of the loop.

Reading a call, running Python for it and writing its answer, over and over, has each of the three find the processor's
caches full of the other two. With 64 connections a call costs a third less when all that has come is read first, then
run in one go, then written. With few connections waiting for the others only costs a turn of the loop. So from time to
time it's counted how many calls come in one turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from operator import length_hint
from time import perf_counter
from typing import Any, Final

from gatewright.runtime.strands import Strand, Strands

__all__ = ["Gathering"]

_MANY: Final = 24
"""Calls of a turn from which on it's better to gather them."""
_FEW: Final = 10.0
"""Calls and answers of a turn, in the mean of some turns, from which down it's no longer better."""
_LATEST: Final = 0.25
"""What the latest turn counts for in that mean."""
_COUNT_EVERY: Final = 32

Job = Callable[[Strand, Any], None]


class Gathering(Strands):
    """Starts jobs now or soon. All methods belong to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, max_idle: int) -> None:
        """To be called in the loop's thread."""
        super().__init__(loop, max_idle=max_idle)
        self.gathers = False
        """So many come in a turn that it's better to `start_soon` than to `start_counted`."""
        self._gathered: list[tuple[Job, Any]] = []
        self._to_resume: list[tuple[Strand, int, object]] = []
        self._left: Iterator[tuple[Job, Any]] = iter(())
        self._idle_above: list[Strand] = []  # of those begun by `call_soon`; see `start_apart` why they are apart
        self._begun = 0
        self._mean = 0.0

    def close(self) -> None:
        """Stop the sweep, and end the idle strands."""
        super().close()
        self.end_strands(self._idle_above)

    @property
    def gathered(self) -> int:
        """How many jobs have not been started yet."""
        return len(self._gathered) + length_hint(self._left)

    def start_counted(self, job: Job, argument: object) -> None:
        """As `start`, for jobs that might as well wait for the loop's next turn."""
        self._begun += 1
        if not self._begun % _COUNT_EVERY:
            self.loop.call_soon(self._look_at_turn, self._begun)
        strand = self.idle.pop() if self.idle else Strand(self, self.idle)
        strand.began = perf_counter()
        strand.switch(job, argument)

    def start_soon(self, job: Job, argument: object) -> None:
        """As `start`, in the loop's next turn, with all that are to be started then."""
        if not self._gathered and not self._to_resume:
            self.loop.call_soon(self._start_gathered)
        self._gathered.append((job, argument))

    def resume_soon(self, strand: Strand, value: object) -> None:
        """As `resume`, in the loop's next turn, before all that is to be started then."""
        if not self._gathered and not self._to_resume:
            self.loop.call_soon(self._start_gathered)
        self._to_resume.append((strand, strand.waited, value))

    def start_each(self, job: Job, arguments: Sequence[object]) -> None:
        """As `start` for each argument in turn; those after one that waits don't wait for it."""
        self._start_in_turn([(job, argument) for argument in arguments], self.idle)

    def _look_at_turn(self, begun: int) -> None:
        if self._begun - begun >= _MANY - 1:  # after the one that was noted
            self.gathers = True
            self._mean = _MANY

    def _start_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        to_resume, self._to_resume = self._to_resume, []
        self._mean += _LATEST * (len(gathered) + len(to_resume) - self._mean)
        if self._mean < _FEW:
            self.gathers = False
        for strand, waited, value in to_resume:
            if strand in self._waiting and strand.waited == waited:  # else it has had to go on without
                self.resume(strand, value)
        self._start_in_turn(gathered, self._idle_above)

    def _start_in_turn(self, jobs: Sequence[tuple[Job, Any]], idle: list[Strand]) -> None:
        left = self._left = iter(jobs)
        for first in left:
            strand = idle.pop() if idle else Strand(self, idle)
            strand.began = perf_counter()
            try:
                strand.switch(_in_turn, (first, left))
            except BaseException:  # a job must not raise: if one does, the others don't pay for it
                for job, argument in left:
                    self.start_soon(job, argument)
                raise


def _in_turn(strand: Strand, jobs: tuple[tuple[Job, Any], Iterator[tuple[Job, Any]]]) -> None:
    """Run a job, and what is left of those that came with it: nothing, if it has had to wait meanwhile."""
    (job, argument), left = jobs
    job(strand, argument)
    for job, argument in left:
        strand.work = strand.call = None
        strand.gr_context = None  # context variables that a handler set are not for the next call to see
        strand.began = perf_counter()
        job(strand, argument)
