"""**circuit-breaker**: an upstream that fails again and again is left alone for a while."""

from __future__ import annotations

import asyncio
import math
from typing import Annotated, Any, Final
from weakref import WeakKeyDictionary

import msgspec

from gatewright import Plugin, Request, Response
from gatewright.plugins._shared.breaker import CircuitBreaker as Breaker
from gatewright.plugins._shared.breaker import CircuitState
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.expiring import ExpiringCache
from gatewright.plugins._shared.model import field

__all__ = ["CircuitBreaker"]

_MOST: Final = 10_000
_FOR_EVER: Final = math.inf


class CircuitBreakerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """When an upstream is left alone, and for how long."""

    failures: Annotated[int, field("So many failing answers in a row open the circuit.", unit="answers", ge=1)] = 5
    statuses: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=100, le=599)], ...],
        field("Statuses of answers that are failures.", min_length=1),
    ] = (500, 502, 503, 504)
    pause: Annotated[
        float, field("How long nobody asks the upstream, at first; then one request tries.", unit="seconds", gt=0)
    ] = 2.0
    longest_pause: Annotated[
        float, field("Each try that fails doubles the pause, up to this.", unit="seconds", gt=0)
    ] = 60.0
    trial: Annotated[
        float, field("After so long a try of which nothing was heard is taken for failed.", unit="seconds", gt=0)
    ] = 30.0
    namespace: Annotated[
        str,
        field("Routes that say the same here, and have the same upstream, have one circuit. Without it, each its own."),
    ] = ""
    status: Annotated[int, field("Status of an answer while the circuit is open.", ge=400, le=599)] = 503
    body: Annotated[str, field("Body of that answer.")] = "The service is not available just now.\n"
    content_type: Annotated[str, field("Content type of that body.")] = "text/plain; charset=utf-8"

    def __post_init__(self) -> None:
        if self.longest_pause < self.pause:
            raise ValueError("longest_pause must not be less than pause")


class CircuitBreaker(Plugin[CircuitBreakerConfig]):
    """Leaves an upstream alone that fails again and again."""

    name = "circuit-breaker"
    version = "1.0.0"
    priority = 905

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self._failing = frozenset(self.config.statuses)
        self._place = ""
        self._decisions = counter("circuit_breaker_decisions", "Requests, by decision.", ["route", "decision"])
        self._changes = counter("circuit_breaker_changes", "Changes of circuits, by new state.", ["route", "state"])

    @classmethod
    def kong_phases(cls) -> tuple[str, ...]:
        """On Kong, the log phase tells of all answers, and need not have them buffered."""
        return "access", "log"

    async def on_request(self, request: Request) -> Response | None:
        """Let a request pass while the circuit is closed."""
        own = self.config
        self._place = request.route
        breaker = self._breaker()
        if breaker.allows():
            self._decisions.add(self._place, "passed")
            return None
        self._decisions.add(self._place, "refused")
        headers = {"content-type": own.content_type, "retry-after": str(max(math.ceil(breaker.retry_after), 1))}
        return Response(own.status, headers, own.body)

    async def on_response(self, request: Request, response: Response) -> None:
        """Note how the upstream does (APISIX)."""
        self._place = request.route
        self._note(response.status)

    async def on_log(self, kong: Any) -> None:
        """Note how the upstream does (Kong). What plugins answered says nothing of it."""
        if self._place and await kong.response.get_source() != "exit":
            self._note(await kong.response.get_status())

    def _note(self, status: int) -> None:
        breaker = self._breaker()
        if status in self._failing:
            breaker.failed()
        else:
            breaker.succeeded()

    def _breaker(self) -> Breaker:
        own, place = self.config, self._place
        key = own.namespace or place
        loop = asyncio.get_running_loop()
        circuits = _circuits.get(loop)
        if circuits is None:
            circuits = _circuits[loop] = ExpiringCache(_MOST)
        breaker = circuits.get((key, own))
        if breaker is None:
            breaker = Breaker(
                failures=own.failures, pause=own.pause, longest_pause=own.longest_pause, trial_seconds=own.trial,
                on_change=lambda state: self._changed(place, state),
            )  # fmt: skip
            circuits.put((key, own), breaker, _FOR_EVER)
        return breaker

    def _changed(self, place: str, state: CircuitState) -> None:
        self._changes.add(place, state.value.replace(" ", "_"))
        if state is CircuitState.OPEN:
            self.log.error("the upstream of %s fails again and again and is left alone for a while", place)
        elif state is CircuitState.CLOSED:
            self.log.warning("the upstream of %s answers again", place)


_circuits: WeakKeyDictionary[asyncio.AbstractEventLoop, ExpiringCache[tuple[str, CircuitBreakerConfig], Breaker]] = (
    WeakKeyDictionary()
)
"""Of each loop: the phases of one route have configurations of their own, and so instances, but one circuit."""
