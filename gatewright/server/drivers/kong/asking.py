"""How the code of a handler asks Kong in the middle of an event, wherever it runs.

In a strand or a plugin's thread a call gives its value, in a task it is awaited; and a property that an `async def`
handler looks at waits for it as if the handler awaited. What a call takes more than one question for is told once, in
a recipe, for all of them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import Any, Final

from greenlet import getcurrent

from gatewright.gateways.kong.phases import refused_in
from gatewright.runtime.pdk import PdkError
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.kong._which_line import EventParts
from gatewright.server.drivers.kong.facts import (
    CHANGEABLE,
    IN_FILE,
    KEPT,
    PROTOCOL,
    REMADE,
    UNCHANGING,
    kept_value,
    own_copy,
    protocol_of,
    remade,
)

__all__ = ["Asking", "Waiter"]

_Future = asyncio.Future[Any] | concurrent.futures.Future[Any]
Waiter = Strand | _Future
_Calls = Generator[tuple[str, Sequence[Any]], Any, Any]


_BUFFERS: Final = "kong.service.request.enable_buffering"


@lru_cache
def _with_recipe(phase: str) -> frozenset[str]:
    kept = {PROTOCOL, *KEPT} if phase == "log" else set()
    return frozenset({_BUFFERS, *UNCHANGING, *REMADE, *refused_in(phase), *kept})


class Asking(EventParts, ABC):
    """The part of an event that handlers call."""

    __slots__ = ()

    _waiter: Waiter | None
    _queue: deque[tuple[str, Sequence[Any], Waiter]] | None

    def call(self, method: str, args: Sequence[Any]) -> Any:
        """Call and wait, in a strand or a plugin's thread.

        Raises:
            PdkError: Kong says that it failed.
            PhaseExit: the method ends the request.
        """
        if method not in _with_recipe(self.phase):
            strand: Any = getcurrent()
            if strand is not self.strand or self._bridge.stepping is not None:
                return self._ask(method, args)
            value = self._bridge.wait_for_resume(self._forget) if self._put(method, args, strand) else None
            if isinstance(value, BaseException):  # what Kong sends is none
                raise value
            return value
        recipe, answer = self._recipe(method, args), None
        try:
            while True:
                answer = self._ask(*recipe.send(answer))
        except StopIteration as end:
            return end.value

    async def call_later(self, method: str, args: Sequence[Any]) -> Any:
        """Call and wait, in a task. Raises what `call` does."""
        if method not in _with_recipe(self.phase):
            return await self._ask_later(method, args)
        recipe, answer = self._recipe(method, args), None
        while True:
            try:
                asked = recipe.send(answer)
            except StopIteration as end:
                return end.value
            answer = await self._ask_later(*asked)

    def call_here(self, method: str, args: Sequence[Any]) -> Any:
        """As `call`, but in a property that an `async def` handler looks at, too. Not for methods that end the phase.

        Raises:
            MustAwaitError: the caller is a task of the plugin's own.
        """
        if not self._bridge.in_coroutine:
            return self.call(method, args)
        self._bridge.check_wait_here()
        recipe, answer = self._recipe(method, args), None
        try:
            while True:
                answer = self._ask_here(*recipe.send(answer))
        except StopIteration as end:
            return end.value

    def _recipe(self, method: str, args: Sequence[Any]) -> _Calls:
        """What to ask, one after another, for the value of a call."""
        refused = refused_in(self.phase)
        if method in refused:
            raise PdkError(f"{method} can't be called in the phase {self.phase}; Kong has it in: {refused[method]}")
        if method in KEPT and self.phase == "log":
            kept = yield "kong.nginx.get_ctx", (KEPT[method],)
            host = None if kept is not None else (yield "kong.request.get_header", ("host",))
            return kept_value(method, kept, host)
        if method == PROTOCOL and self.phase == "log":
            return (yield from _protocol(args))
        if method == _BUFFERS and self._is_buffered:
            return None
        known = self._known
        key = (method, *args)
        if method in UNCHANGING and known is not None and key in known:
            return own_copy(known[key])
        value = yield method, args
        if method in REMADE:
            in_file = value is None and method == IN_FILE
            file = (yield "kong.nginx.get_var", ("request_body_file",)) if in_file else None
            value = remade(method, value, file)
        if method in UNCHANGING:
            if self._known is None:
                self._known = {}
            self._known[key] = own_copy(value)
        return value

    # --- one question

    def _ask(self, method: str, args: Sequence[Any]) -> Any:
        bridge = self._bridge
        strand: Any = getcurrent()
        if strand is not self.strand or bridge.stepping is not None:
            strand = bridge.current() if bridge.in_loop_thread or bridge.in_coroutine else None  # or it says why not
        if strand is not None:
            return _value_of(bridge.wait_for_resume(self._forget)) if self._put(method, args, strand) else None
        waiting: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._service.loop.call_soon_threadsafe(self._put_for, method, args, waiting)
        return _value_of(waiting.result())

    async def _ask_later(self, method: str, args: Sequence[Any]) -> Any:
        bridge = self._bridge
        # Only its own strand is let go on if the event ends meanwhile.
        strand = bridge.strand_of_task()
        if strand is self.strand and strand is not None:
            return _value_of(await bridge.pause(self._forget)) if self._put(method, args, strand) else None
        future = self._service.loop.create_future()
        return _value_of(await future) if self._put(method, args, future) else None

    def _ask_here(self, method: str, args: Sequence[Any]) -> Any:
        bridge = self._bridge
        strand = bridge.strand_of_task()
        if strand is self.strand and strand is not None:
            return _value_of(bridge.wait_aside(self._forget)) if self._put(method, args, strand) else None
        future = self._service.loop.create_future()
        return _value_of(bridge.wait_here(future)) if self._put(method, args, future) else None

    def _put_for(self, method: str, args: Sequence[Any], waiting: _Future) -> None:
        """Send a call of somebody who waits elsewhere."""
        try:
            if not self._put(method, args, waiting):
                waiting.set_result(None)
        except BaseException as error:
            waiting.set_exception(error)

    @property
    @abstractmethod
    def _is_buffered(self) -> bool:
        """Kong waits for all of the upstream's answer anyway."""

    def _forget_changed(self, method: str) -> None:
        # `kong.request` gives what the client sent, until that is changed for the service.
        for part in CHANGEABLE:
            if part in method and self._known is not None:
                self._known = {key: value for key, value in self._known.items() if part not in key[0]}

    def _forget(self, strand: Strand) -> None:
        if self._waiter is strand:
            self._waiter = None
        if self._queue:
            self._queue = deque(entry for entry in self._queue if entry[2] is not strand)

    # --- answers

    def _answer(self, value: Any) -> None:
        """Let whoever waits have an answer, after what else is to be asked was sent."""
        waiter, self._waiter = self._waiter, None
        if not self._queue and isinstance(waiter, Strand):
            self._bridge.resume(waiter, value)
            return
        go_on: list[tuple[Strand, Any]] = []
        if isinstance(waiter, Strand):
            go_on.append((waiter, value))
        elif waiter is not None and not waiter.done():
            waiter.set_result(value)
        while self._queue and self._may_ask:  # before the strand asks for the next thing
            method, args, waiter = self._queue.popleft()
            if isinstance(waiter, Strand):
                self._put_for_strand(method, args, waiter, go_on)
            elif not waiter.done():
                self._put_for(method, args, waiter)
        for strand, its_value in go_on:
            self._bridge.resume(strand, its_value)

    @property
    @abstractmethod
    def _may_ask(self) -> bool:
        """Whether Kong waits for what comes next."""

    def _put_for_strand(
        self, method: str, args: Sequence[Any], strand: Strand, go_on: list[tuple[Strand, Any]]
    ) -> None:
        try:
            if not self._put(method, args, strand):
                go_on.append((strand, None))
        except BaseException as error:
            go_on.append((strand, error))


def _protocol(args: Sequence[Any]) -> _Calls:
    scheme = yield "kong.nginx.get_ctx", ("scheme",)
    if not isinstance(scheme, str):  # a stream: there Kong can tell
        return (yield PROTOCOL, args)
    route = yield "kong.router.get_route", ()
    asked = scheme != "https" and bool(args) and args[0]
    forwarded = (yield "kong.request.get_header", ("x-forwarded-proto",)) if asked else None
    return protocol_of(route, scheme, forwarded)


def _value_of(value: Any) -> Any:
    if isinstance(value, BaseException):  # what Kong sends is none
        raise value
    return value
