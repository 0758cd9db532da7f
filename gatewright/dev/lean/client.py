"""A development gateway's way to its runner over the lean protocol: one connection, many calls on it.

A call answers the runner's questions itself, since only it sees its request. A connection that is lost fails the calls
on it; one that the runner wants to be left takes no further ones, and is closed after the last.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

from gatewright.dev.trail import current_phase
from gatewright.errors import GatewrightError, ProtocolError
from gatewright.gateways.lean.frames import Kind
from gatewright.gateways.lean.gateway_side import Answered, Asked, Event, GatewaySession, Greeted, Left, Refused, Token
from gatewright.gateways.lean.needs import EARLY, fields_of
from gatewright.gateways.lean.replies import Op
from gatewright.settings import Address

__all__ = ["Chain", "Host", "LeanClient", "LeanError"]

Dial = Callable[[], Awaitable[socket.socket]]
_PHASES: Final = {"request": 1, "response": 2, "log": 4}
_KINDS: Final = {"request": Kind.REQUEST, "response": Kind.RESPONSE}
_UNKNOWN_TOKEN: Final = 3
_MARGIN_SECONDS: Final = 1.0
_PREPARE_SECONDS: Final = 10.0
_MOST_CHAINS: Final = 1000
_FIRST_ID: Final = 1 << 24
"""Ids of external plugins' calls are below: an inspector knows a call by its number alone."""


class LeanError(GatewrightError):
    """A call failed: the request has to be refused."""


class Host(Protocol):
    """A request, as calls are told of it; names are those of `gatewright.gateways.lean.needs`."""

    async def bring(self, name: str) -> bytes | None:
        """What a call brings; nothing where that is much, and is told only if it's asked for."""

    async def tell(self, name: str) -> bytes | None:
        """What was asked for, however much it is."""


@dataclass(slots=True)
class Chain:
    """A chain of plugins at a runner.

    Attributes:
        key: what the runner calls it.
        conf: names and configurations.
        phases: names of those that will be called.
        token: the runner's number for it, once it has one.
        plans: what calls bring, by phase; none where there is nothing to do.
        seconds: how long a call may take.
    """

    key: str
    conf: Sequence[tuple[str, str]]
    phases: Sequence[str]
    token: int | None = None
    plans: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 60.0
    preparing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_early(self) -> bool:
        """Its response phase is called before the upstream is asked."""
        return EARLY in fields_of(self.plans.get("response", b""))


class _Connection(asyncio.Protocol):
    def __init__(self, on_doubt: Callable[[], None]) -> None:
        self.on_doubt = on_doubt
        self._session = GatewaySession()
        self.calls: dict[int, asyncio.Queue[Event | LeanError]] = {}
        self.is_left = False
        self.transport = cast("asyncio.Transport", None)
        self.lost = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._session.hello("gatewright dev"))

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._session.receive_data(data):
                self._take(event)
        except ProtocolError as error:
            self._fail(f"the runner broke the protocol: {error}")

    def _take(self, event: Event) -> None:
        if isinstance(event, Left):
            self.is_left = True
            self._end_if_left()
        elif isinstance(event, Refused) and not event.id:
            self._fail(f"refused: {event.text}")
        elif not isinstance(event, Greeted):
            waiting = self.calls.get(event.id)
            if waiting is not None:
                waiting.put_nowait(event)
            elif isinstance(event, Refused) and event.code == _UNKNOWN_TOKEN:  # of a log phase; others are late
                self.on_doubt()

    def _fail(self, why: str) -> None:
        self.lost = self.lost or why
        self.transport.close()
        for waiting in self.calls.values():
            waiting.put_nowait(LeanError(self.lost))

    def connection_lost(self, _: Exception | None) -> None:
        self._fail("the connection to the runner is lost")

    def begin(self, id: int, frame: bytes) -> asyncio.Queue[Event | LeanError]:
        waiting = self.calls[id] = asyncio.Queue()
        self.transport.write(frame)
        return waiting

    def end(self, id: int) -> None:
        self.calls.pop(id, None)
        self._end_if_left()

    def _end_if_left(self) -> None:
        if self.is_left and not self.calls:
            self.lost = self.lost or "closed"
            self.transport.close()


class LeanClient:
    """What a gateway has of its runner."""

    def __init__(self, address: Address | Dial, *, connect_timeout: float = 1.0, patient: bool = False) -> None:
        """Connect when the first call comes.

        Args:
            address: the runner's, or what gives a socket that leads to it.
            connect_timeout: seconds.
            patient: calls may take as long as they like, since somebody looks at them in a debugger.
        """
        self._address = address
        self._connect_timeout = connect_timeout
        self._patient = patient
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._chains: dict[str, Chain] = {}
        self._ids = itertools.count(_FIRST_ID)

    def chain(self, name: str, key: str, conf: Sequence[tuple[str, str]], phases: Sequence[str]) -> Chain:
        """A chain of plugins.

        Args:
            name: what tells it from all others, versions of its configuration included.
            key: what the runner calls it.
            conf: names and configurations.
            phases: those that will be called.
        """
        known = self._chains.get(name)
        if known is None:
            if len(self._chains) >= _MOST_CHAINS:
                self._chains.clear()  # of routes that are no more
            known = self._chains[name] = Chain(key, conf, phases)
        return known

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.transport.close()

    async def wants(self, chain: Chain, phase: str) -> bool:
        """Whether there is something to do in a phase.

        Raises:
            LeanError: the runner can't be asked, or doesn't take the configuration.
        """
        async with chain.preparing:
            if chain.token is None:
                await self._prepare(chain)
        return phase in chain.plans

    async def call(self, chain: Chain, phase: str, host: Host) -> Answered | None:
        """Call a phase; `None` if there is nothing to do in it.

        Raises:
            LeanError: the request has to be refused.
        """
        for again in (True, False):
            if not await self.wants(chain, phase):
                return None
            token, plan = chain.token, chain.plans[phase]
            brought = [await host.bring(name) for name in fields_of(plan)]
            id = self._next_id()
            looked_at = current_phase()
            if looked_at is not None:
                looked_at.token = token
                looked_at.expect("", id)
            event = await self._ask(
                id, GatewaySession.call(_KINDS[phase], id, token or 0, plan, brought), chain.seconds, host
            )
            if isinstance(event, Answered):
                for op, values in event.operations:
                    if op is Op.PLAN:
                        chain.plans[phase] = values[0]
                return event
            if not isinstance(event, Refused) or event.code != _UNKNOWN_TOKEN or not again:
                raise LeanError(event.text if isinstance(event, Refused) else "an answer of another kind")
            if chain.token == token:
                chain.token = None
        raise AssertionError("unreachable")

    async def log(self, chain: Chain, host: Host) -> None:
        """Tell the runner of a request that has its answer; nobody is told whether that came through."""
        plan = chain.plans.get("log")
        if chain.token is None or plan is None:
            return
        brought = [await host.bring(name) for name in fields_of(plan)]
        connection = await self._connected()
        connection.transport.write(GatewaySession.call(Kind.LOG, self._next_id(), chain.token, plan, brought))

    async def _prepare(self, chain: Chain) -> None:
        phases = sum(_PHASES[phase] for phase in chain.phases)
        id = self._next_id()
        event = await self._ask(id, GatewaySession.prepare(id, chain.key, chain.conf, phases), _PREPARE_SECONDS, None)
        if not isinstance(event, Token):
            raise LeanError(event.text if isinstance(event, Refused) else "the configuration was not taken")
        chain.plans = {phase: plan for phase, plan in zip(_PHASES, event.plans, strict=True) if plan is not None}
        chain.seconds = event.seconds + _MARGIN_SECONDS
        chain.token = event.token

    async def _ask(self, id: int, frame: bytes, seconds: float, host: Host | None) -> Event:
        connection = await self._connected()
        waiting = connection.begin(id, frame)
        try:
            async with asyncio.timeout(None if self._patient else seconds):
                while True:
                    event = await waiting.get()
                    if isinstance(event, LeanError):
                        raise event
                    if not isinstance(event, Asked):
                        return event
                    if host is None:
                        raise LeanError("a question out of place")
                    told = await host.tell(event.name)
                    connection.transport.write(GatewaySession.told(id, event.number, told))
        except TimeoutError:
            raise LeanError("no answer in time") from None
        finally:
            connection.end(id)

    def _next_id(self) -> int:
        return (next(self._ids) - _FIRST_ID) % (1 << 31) + _FIRST_ID

    async def _connected(self) -> _Connection:
        async with self._connecting:
            connection = self._connection
            if connection is None or connection.is_left or connection.lost or connection.transport.is_closing():
                connection = self._connection = await self._connect()
            return connection

    def _forget_tokens(self) -> None:
        for chain in self._chains.values():
            chain.token = None

    async def _connect(self) -> _Connection:
        loop, address = asyncio.get_running_loop(), self._address

        def new() -> _Connection:
            return _Connection(self._forget_tokens)

        try:
            async with asyncio.timeout(self._connect_timeout):
                if not isinstance(address, Address):
                    _, protocol = await loop.create_connection(new, sock=await address())
                elif address.path:
                    _, protocol = await loop.create_unix_connection(new, address.path)
                else:
                    _, protocol = await loop.create_connection(new, address.host, address.port)
        except (OSError, TimeoutError) as error:
            raise LeanError(f"can't connect to the runner at {address}: {str(error) or 'no answer'}") from None
        return protocol
