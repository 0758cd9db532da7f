"""Questions in mid-call: each has a number, so that many calls can ask over one connection.

A strand waits itself, a task by a future, a thread by one of its kind (see `gatewright.http.Asker`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Sequence
from typing import Any, Final, cast

from gatewright.datastructures import Headers
from gatewright.errors import GatewayClosedError, MustAwaitError, NotAvailableError, OverloadedError
from gatewright.gateways.lean.calls import LeanSource
from gatewright.gateways.lean.session import LeanSession, Told
from gatewright.http import Call, Question, Recipe
from gatewright.runtime.bridge import Bridge
from gatewright.runtime.strands import Strand
from gatewright.server.worker.service import Service

__all__ = ["AskingConnection"]

Waiter = Strand | asyncio.Future["bytes | None"] | concurrent.futures.Future["bytes | None"]
_MOST_OPEN: Final = 1 << 16
"""Questions that are open on one connection, of all its calls."""
_NAMES: Final = {"request_body": "body", "response_body": "rbody"}


def _name_of(question: Question) -> str:
    return _NAMES.get(question.kind) or f"v:{question.name}"


class AskingConnection(asyncio.Protocol):
    """What of a connection's driver asks the gateway."""

    _service: Service
    _bridge: Bridge
    _session: LeanSession
    _transport: asyncio.Transport
    _under_way: dict[int, Strand]
    _waiters: dict[int, Waiter | None]
    _closed: bool
    _numbers: int = 0

    @property
    def is_over(self) -> bool:
        """The gateway is gone."""
        return self._closed

    def find_header(self, headers: Headers, name: str) -> str | None:
        """Nothing is ever cut off."""
        raise NotAvailableError(f"{name!r} is not among the headers")

    def reading(self, call: Call, question: Question) -> Recipe[bytes]:
        """How to get a body."""
        source = cast("LeanSource", call.source)
        name = _name_of(question)
        source.note(name)
        body = source.brought(name)
        if body is None:
            body = yield question
        if body is None:
            raise NotAvailableError(
                "the gateway doesn't hand this body over: it is longer than it may be, or broke off"
            )
        return body

    async def ask(self, call: Call, question: Question) -> bytes | None:
        """Put a question and wait for its answer, in a task."""
        source, name = cast("LeanSource", call.source), _name_of(question)
        source.note(name)
        if source.brings(name) and question.kind == "var":
            return source.brought(name)
        strand = self._bridge.strand_of_task()
        if strand is not None:
            self._put(source, name, strand)
            return cast("bytes | None", await self._bridge.pause(self._forget))
        future: asyncio.Future[bytes | None] = self._service.loop.create_future()
        self._put(source, name, future)
        return await future

    def ask_sync(self, call: Call, question: Question) -> bytes | None:
        """Put a question and wait for its answer, in a strand or in a plugin's thread."""
        source, name = cast("LeanSource", call.source), _name_of(question)
        source.note(name)
        if source.brings(name) and question.kind == "var":
            return source.brought(name)
        if not self._bridge.in_loop_thread:
            return self._ask_from_thread(source, name)
        strand = self._bridge.current()
        self._put(source, name, strand)
        return cast("bytes | None", self._bridge.wait_for_resume(self._forget))

    def ask_here(self, call: Call, questions: Sequence[Question]) -> list[bytes | None]:
        """Put questions together and wait for the answers, wherever the caller is."""
        source = cast("LeanSource", call.source)
        return [self.tell(source, _name_of(question)) for question in questions]

    def tell(self, source: LeanSource, name: str) -> bytes | None:
        """One thing of a call, wherever the caller is (see `gatewright.gateways.lean.calls.Teller`)."""
        if not self._bridge.in_loop_thread:
            return self._ask_from_thread(source, name)
        try:
            self._bridge.check_wait_here()
        except MustAwaitError:
            raise NotAvailableError(
                f"{name!r} was not brought with the call, and a task of one's own can't wait for it here: look at it "
                "in the handler"
            ) from None
        future: asyncio.Future[bytes | None] = self._service.loop.create_future()
        self._put(source, name, future)
        return self._bridge.wait_here(future)

    def _ask_from_thread(self, source: LeanSource, name: str) -> bytes | None:
        waiting: concurrent.futures.Future[bytes | None] = concurrent.futures.Future()
        self._service.loop.call_soon_threadsafe(self._put_for_thread, source, name, waiting)
        return waiting.result()

    def _put(self, source: LeanSource, name: str, waiter: Waiter) -> None:
        if self._closed:
            raise GatewayClosedError("the gateway closed the connection")
        strand = self._under_way.get(source.id)
        if strand is None or strand.call is None or strand.call.source is not source:  # another call may have its id
            raise NotAvailableError("the call has ended: the gateway can't be asked about it any more")
        if len(self._waiters) >= _MOST_OPEN:
            raise OverloadedError(f"{_MOST_OPEN} questions are open on this connection")
        self._numbers = number = (self._numbers + 1) & 0xFFFFFFFF
        kind = name.partition(":")[0]
        questions = self._service.questions
        questions[kind] = questions.get(kind, 0) + 1
        self._waiters[number] = waiter
        self._send(self._session.ask(source.id, number, name))

    def _put_for_thread(self, source: LeanSource, name: str, waiter: concurrent.futures.Future[Any]) -> None:
        try:
            self._put(source, name, waiter)
        except Exception as error:
            waiter.set_exception(error)

    def _forget(self, strand: Strand) -> None:
        for number, waiter in self._waiters.items():
            if waiter is strand:
                self._waiters[number] = None  # its answer will come all the same

    def _on_told(self, told: Told) -> None:
        waiter = self._waiters.pop(told.number)
        if isinstance(waiter, Strand):
            self._bridge.resume(waiter, told.value)
        elif waiter is not None and not waiter.done():
            waiter.set_result(told.value)

    def _give_up_waiting(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            if waiter is not None and not isinstance(waiter, Strand) and not waiter.done():
                waiter.set_exception(GatewayClosedError("the gateway closed the connection"))

    def _send(self, frame: bytes) -> None:
        raise NotImplementedError
