"""Threads for plugins' blocking code.

All bookkeeping is done in the loop's thread; a plugin's thread only runs what it's handed. Two rules keep plugins
apart:

- A thread that goes on past its job's deadline is *lost*: it no longer counts, another one takes its place, and when
  its job does end, so does it. A plugin that has lost half as many threads as there are gets no more until some come
  back.
- An instance has a *home*: the thread that made it, which it gets again if that is idle. One that is *bound* to it,
  since it holds what belongs to that thread, waits for it rather than having another one; and if it's lost, so is the
  instance.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any
from weakref import WeakSet

from gatewright.errors import OverloadedError

__all__ = ["Home", "Job", "PluginThreads"]

Outcome = tuple[Any, BaseException | None]


class Home:
    """The thread of one plugin instance.

    Attributes:
        thread: the one that its code ran in first; `None` if there is none yet, or if it's lost.
        bound: its code can run in no other.
        fresh: each time its code runs, it's in a thread that has run nothing before.
        on_lost: told when the thread of a bound one is lost.
    """

    __slots__ = ("__weakref__", "bound", "fresh", "on_lost", "thread")

    def __init__(self, on_lost: Callable[[], None] = lambda: None) -> None:
        self.thread: _Thread | None = None
        self.bound = self.fresh = False
        self.on_lost = on_lost


class Job:
    """A function that runs, or will run, in a thread.

    Attributes:
        outcome: result and error, for whoever waits.
        name: the plugin.
        abroad: it runs in another thread than its instance's own.
    """

    __slots__ = ("abroad", "ended", "function", "home", "lost", "name", "outcome", "thread")

    def __init__(self, function: Callable[[], Any], name: str, home: Home, outcome: asyncio.Future[Outcome]) -> None:
        self.function = function
        self.name = name
        self.home = home
        self.outcome = outcome
        self.thread: _Thread | None = None
        self.lost = self.abroad = False
        self.ended: asyncio.Future[None] | None = None


class _Thread(threading.Thread):
    def __init__(self, number: int, loop: asyncio.AbstractEventLoop, done: Callable[[Job, Outcome], None]) -> None:
        super().__init__(name=f"gatewright-plugin_{number}", daemon=True)
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.homes: WeakSet[Home] = WeakSet()
        self._loop = loop
        self._done = done

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            outcome = _outcome(job.function)
            try:
                self._loop.call_soon_threadsafe(self._done, job, outcome)
            except RuntimeError:  # the loop is closed
                return
            del job, outcome  # not to be kept until the next one comes


class PluginThreads:
    """The threads of a bridge. All methods belong to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most: int, queue: int) -> None:
        """Begin with none.

        Args:
            loop: the loop that jobs come from.
            most: how many run at once, lost ones aside.
            queue: how many jobs more may wait for one.
        """
        self.most = most
        self.lost: dict[Job, str] = {}
        """Jobs that go on past their deadline, with the plugin's name."""
        self._loop = loop
        self._room = most + queue
        self._size = self._room
        self._threads: set[_Thread] = set()
        self._idle: dict[_Thread, None] = {}  # the one used last is last
        self._waiting: deque[Job] = deque()
        self._made = 0

    @property
    def in_use(self) -> int:
        """How many jobs run or wait; lost ones don't count."""
        return self._size - self._room

    def submit(self, function: Callable[[], Any], name: str, home: Home) -> Job:
        """Run a function in a thread as soon as one is free.

        Raises:
            OverloadedError: none is, and the queue is full, or this plugin has lost too many.
        """
        if self._room <= 0:
            raise OverloadedError("all plugin threads are busy and their queue is full (settings: threads)")
        if self.lost and Counter(self.lost.values())[name] >= max(1, self.most // 2):
            raise OverloadedError(
                "half of the plugin threads' number go on past their deadlines in this plugin: "
                "give what it calls a timeout of its own"
            )
        self._room -= 1
        job = Job(function, name, home, self._loop.create_future())
        thread = self._free_thread(home)
        if thread is None:
            self._waiting.append(job)
        else:
            self._hand(thread, job)
        return job

    def give_up(self, job: Job, *, after: float = 0.0) -> asyncio.Future[None] | None:
        """Nobody waits for a job any more. Gives what tells when it has ended, if it runs.

        Args:
            job: the job.
            after: seconds that it may still take before its thread counts as lost.
        """
        if job.thread is None:
            if job in self._waiting:
                self._waiting.remove(job)
                self._room += 1
            return None
        job.ended = self._loop.create_future()
        if after > 0:
            self._loop.call_later(after, self._lose, job)
        else:
            self._lose(job)
        return job.ended

    def close(self) -> None:
        """End the idle threads; those that run are not waited for."""
        self._waiting.clear()
        for thread in self._threads:
            thread.jobs.put(None)

    def _free_thread(self, home: Home) -> _Thread | None:
        if home.thread is not None and home.thread in self._idle:
            del self._idle[home.thread]
            return home.thread
        if home.bound and home.thread is not None:
            return None
        if self._idle and home.fresh:
            if len(self._threads) >= self.most:
                self._end(self._idle.popitem()[0])
        elif self._idle:
            # The one that has rested longest: it's least likely to be an instance's home that is about to be needed.
            thread = next(iter(self._idle))
            del self._idle[thread]
            return thread
        if len(self._threads) >= self.most:
            return None
        self._made += 1
        thread = _Thread(self._made, self._loop, self._done)
        self._threads.add(thread)
        thread.start()
        return thread

    def _end(self, thread: _Thread) -> None:
        self._threads.discard(thread)
        thread.jobs.put(None)

    @staticmethod
    def _hand(thread: _Thread, job: Job) -> None:
        job.thread = thread
        if job.home.thread is None and not job.home.fresh:
            job.home.thread = thread
            thread.homes.add(job.home)
        job.abroad = job.home.thread is not thread and not job.home.fresh
        thread.jobs.put(job)

    def _lose(self, job: Job) -> None:
        thread = job.thread
        if thread is None or thread not in self._threads:
            return  # it has ended meanwhile
        job.lost = True
        self.lost[job] = job.name
        self._threads.discard(thread)
        self._room += 1
        for home in thread.homes:
            home.thread = None
            if home.bound:
                home.on_lost()
        if self._waiting:
            self._next(None)

    def _done(self, job: Job, outcome: Outcome) -> None:
        thread, job.thread = job.thread, None
        if job.ended is not None and not job.ended.done():
            job.ended.set_result(None)
        if not job.outcome.done():
            job.outcome.set_result(outcome)
        assert thread is not None  # noqa: S101 - it ran
        if job.lost:
            del self.lost[job]
            thread.jobs.put(None)
            return
        self._room += 1
        if job.home.fresh or (self._waiting and any(waiting.home.fresh for waiting in self._waiting)):
            self._end(thread)
            self._next(None)
        else:
            self._next(thread)

    def _next(self, thread: _Thread | None) -> None:
        """Let the job that has waited longest have a thread, this one or any."""
        if not self._waiting:
            if thread is not None:
                self._idle[thread] = None
            return
        for job in self._waiting:
            if thread is None:
                free = self._free_thread(job.home)
            else:
                free = thread if not job.home.bound or job.home.thread in (None, thread) else None
            if free is not None:
                self._waiting.remove(job)
                self._hand(free, job)
                return
        if thread is not None:  # those that wait are bound to others
            self._idle[thread] = None


def _outcome(function: Callable[[], Any]) -> Outcome:
    # Not as a future's own exception: a CancelledError, say, would be taken for the future's.
    try:
        return function(), None
    except BaseException as error:
        return None, error
