"""A connection's questions to the gateway in mid-call: put, waited for, and given up (see `gatewright.http.Asker`).

The gateway answers in order, so a queue of who waits is all that has to be known.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

from gatewright.datastructures import Headers
from gatewright.errors import GatewayClosedError, NotAvailableError, OverloadedError
from gatewright.gateways.events import Session
from gatewright.http import Call, Question, Recipe, find_header
from gatewright.runtime.bridge import Bridge
from gatewright.runtime.strands import Strand
from gatewright.server.worker.inflow import Inflow
from gatewright.server.worker.service import Service

__all__ = ["AskingConnection", "Waiter"]

_MOST_OPEN: Final = 1000
"""Questions of one call that are open at once."""

Waiter = Strand | asyncio.Future["bytes | None"] | concurrent.futures.Future["bytes | None"]
"""Who waits for an answer: a strand, a task or a thread."""


class AskingConnection(asyncio.Protocol):
    """What of a connection's driver asks the gateway."""

    _service: Service
    _bridge: Bridge
    _session: Session
    _transport: asyncio.Transport
    _call: Call | None
    _waiters: deque[Waiter | None]
    _inflow: Inflow
    _half_closed: bool
    _closed: bool

    @property
    def is_over(self) -> bool:
        """The gateway is gone."""
        return self._closed or self._half_closed

    def reading(self, call: Call, question: Question) -> Recipe[bytes]:
        """How to get a body."""
        return self._session.reading(call, question)

    def find_header(self, headers: Headers, name: str) -> str | None:
        """Ask for a header that may have been cut off."""
        call = self._call
        if call is None or call.seen_headers is not headers:
            raise NotAvailableError("the call has ended: its headers can't be asked for any more")
        return find_header(self, call, name)

    async def ask(self, call: Call, question: Question) -> bytes | None:
        """Put a question and wait for its answer, in a task."""
        strand = self._bridge.strand_of_task()
        if strand is not None:
            self._put(call, question, strand)
            return cast("bytes | None", await self._bridge.pause(self._forget))
        future: asyncio.Future[bytes | None] = self._service.loop.create_future()
        self._put(call, question, future)
        return await future

    def ask_sync(self, call: Call, question: Question) -> bytes | None:
        """Put a question and wait for its answer, in a strand or in a plugin's thread."""
        if not self._bridge.in_loop_thread:
            waiting: concurrent.futures.Future[bytes | None] = concurrent.futures.Future()
            self._service.loop.call_soon_threadsafe(self._put_for_thread, call, question, waiting)
            return waiting.result()
        strand = self._bridge.current()
        self._put(call, question, strand)
        return cast("bytes | None", self._bridge.wait_for_resume(self._forget))

    def ask_here(self, call: Call, questions: Sequence[Question]) -> list[bytes | None]:
        """Put questions together and wait for the answers, wherever the caller is."""
        if not self._bridge.in_loop_thread:
            waiting: list[concurrent.futures.Future[bytes | None]] = [concurrent.futures.Future() for _ in questions]
            for question, waiter in zip(questions, waiting, strict=True):
                self._service.loop.call_soon_threadsafe(self._put_for_thread, call, question, waiter)
            return [waiter.result() for waiter in waiting]
        self._bridge.check_wait_here()
        futures: list[asyncio.Future[bytes | None]] = []
        for question in questions:
            future: asyncio.Future[bytes | None] = self._service.loop.create_future()
            self._put(call, question, future)
            future.add_done_callback(_look_at)
            futures.append(future)
        self._bridge.wait_here(futures[-1])  # answers come in order
        return [future.result() for future in futures]

    def _put(self, call: Call, question: Question, waiter: Waiter) -> None:
        if self._closed or self._half_closed:
            raise GatewayClosedError("the gateway closed the connection")
        if call is not self._call:
            raise NotAvailableError("the call has ended: the gateway can't be asked about it any more")
        if len(self._waiters) >= _MOST_OPEN:
            raise OverloadedError(f"{_MOST_OPEN} questions of this call are open")
        frame = self._session.ask(question)
        questions = self._service.questions
        questions[question.kind] = questions.get(question.kind, 0) + 1
        self._service.bytes_out += len(frame)
        self._waiters.append(waiter)
        self._transport.write(frame)
        if self._inflow.blocked:
            self._note_untaken()

    def _note_untaken(self) -> None:
        raise NotImplementedError

    def _put_for_thread(self, call: Call, question: Question, waiter: concurrent.futures.Future[Any]) -> None:
        try:
            self._put(call, question, waiter)
        except Exception as error:
            waiter.set_exception(error)

    def _forget(self, strand: Strand) -> None:
        # Its answer will come all the same, and must not be taken for another's.
        self._waiters = deque(None if waiter is strand else waiter for waiter in self._waiters)


def _look_at(future: asyncio.Future[Any]) -> None:
    # Of several only the last is waited for: asyncio need not complain about the others' exceptions.
    if not future.cancelled():
        future.exception()
