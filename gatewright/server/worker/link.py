"""A worker's side of the channel to its supervisor."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from gatewright.errors import words_of
from gatewright.observe import logs
from gatewright.runtime.chain import Chain
from gatewright.runtime.confs import Conf
from gatewright.runtime.spare_tasks import hide
from gatewright.runtime.strands import Strand
from gatewright.server.ipc import messages
from gatewright.server.ipc.channel import Channel
from gatewright.server.ipc.handover import Handover
from gatewright.server.worker.between import Driver
from gatewright.server.worker.plugins_processes import beyond_standard_descriptors, identity_of
from gatewright.server.worker.reporting import make_report
from gatewright.server.worker.service import Service
from gatewright.server.worker.tokens import Tokens

__all__ = ["Ending", "Link"]

ALIVE_SECONDS = 0.5
REPORT_SECONDS = 5.0
NEWLY_USED_SECONDS = 1.0
_TRIES = 10
_MOST_UNSENT = 16
_PAUSE_SECONDS = 0.05

Ending = str
"""Why a worker ends: "stop", "retire", or "orphaned" where the supervisor is gone."""


class Link:
    """Gets connections and configurations, gives connections back, asks for tokens, tells how the worker is."""

    def __init__(
        self,
        service: Service,
        sock: socket.socket,
        handover: Handover,
        new_connection: Callable[[], asyncio.Protocol],
    ) -> None:
        """Join a service and a supervisor; to be called in the loop.

        Args:
            service: the worker's service.
            sock: the worker's end of the socket pair.
            handover: what connections come by.
            new_connection: makes the driver of a connection.
        """
        self._service = service
        self._loop = service.loop
        self._adopting: set[asyncio.Task[Any]] = set()
        self._own_end = sock
        self._ends = [(end.fileno(), identity_of(end.fileno())) for end in (sock, handover.arrives)]
        self._handover = handover
        self._new_connection = new_connection
        self._ended = 0
        self._slots: dict[object, int] = {}
        self._ended_slots: list[int] = []
        service.builder.on_building = self._building
        service.builder.apart.on_learnt = lambda name: self.send(messages.Blocks(name))
        self._returning: deque[tuple[int, socket.socket]] = deque()
        self._to_return: deque[tuple[int, socket.socket]] = deque()
        self._wants_retirement = False
        self._closing = False  # what nobody has come for is the supervisor's from now on
        self.stopped = False
        self.preloaded: asyncio.Future[bool] = self._loop.create_future()
        """Done when all configurations of before have come; whether nobody serves meanwhile."""
        self.ending: asyncio.Future[Ending] = self._loop.create_future()
        self._channel: Channel[messages.FromSupervisor] = Channel(
            self._loop, sock, messages.FromSupervisor, self._on_message, self._on_close
        )
        self._tokens = Tokens(service, self._channel)

    def start(self) -> None:
        """Say that connections can come, and start to tell how things are."""
        service = self._service
        self._loop.add_reader(self._handover.arrives, self._take_connections)
        self.send(messages.Ready())
        service.every(ALIVE_SECONDS, self._alive)
        service.every(REPORT_SECONDS, self._tell_how_it_is)
        service.every(service.confs.tick_seconds, self._tell_used)
        service.every(NEWLY_USED_SECONDS, self._tell_newly_used)

    def send(self, message: messages.FromWorker) -> None:
        """Tell the supervisor something."""
        self._channel.send(message)

    def sockets(self) -> list[socket.socket]:
        """What this process is connected with; closed ones may be among them."""
        waiting = (connection for _, connection in (*self._returning, *self._to_return))
        return [self._own_end, self._handover.arrives, *self._service.sockets, *waiting]

    @property
    def descriptor(self) -> int:
        """One that is open as long as this is."""
        return self._own_end.fileno()

    @property
    def is_whole(self) -> bool:
        """Whether its descriptors are what they were: a plugin may close any."""
        return self._channel.closed or all(identity_of(fd) == was for fd, was in self._ends)

    @property
    def unsettled(self) -> bool:
        """Connections are on their way in or out; those that nobody has come for yet are the supervisor's."""
        return bool(self._adopting) or (
            not self._channel.closed and bool(self._returning or self._to_return or self._channel.unsent)
        )

    async def close(self, seconds: float) -> None:
        """Send the last report, and close the channel once all has been read, or after `seconds`."""
        try:
            self._report(0)
        except Exception as error:
            self._service.failures.report("the last report is lost", kind="internal", error=error, traceback=True)
        deadline = self._loop.time() + seconds
        self._tell_ended()  # else the supervisor would give what the keeper has by now to it once more
        while self.unsettled and self._loop.time() < deadline:
            await asyncio.sleep(0.005)
            self._tell_ended()
        self._closing = True
        self._channel.close()

    # --- what the service wants

    def prepare(self, key: str, conf: Conf, answer: Callable[[int | None], None]) -> None:
        """Get a token for a configuration. The supervisor gives it out, so it's valid in all workers at once."""
        self._tokens.prepare(key, conf, answer)

    def forget(self, token: int) -> None:
        """Drop a configuration, here and in all other workers."""
        self._service.confs.forget(token)
        self.send(messages.Forget(token))

    def lookup(self, token: int, strand: Strand) -> Chain | None:
        """The chain of a token that isn't known here, or `None` if nobody knows it. To be called in a strand."""
        return self._tokens.lookup(token, strand)

    @property
    def lookups(self) -> int:
        """How often a token was asked for that another worker may have given out."""
        return self._tokens.lookups

    @property
    def misses(self) -> int:
        """How often there was none."""
        return self._tokens.misses

    def give_back(self, driver: Driver, connection: socket.socket) -> None:
        """Hand a connection over; kept until the supervisor has it, which may be short of descriptors."""
        self._return(self._slots.pop(driver, -1), connection)

    def _return(self, slot: int, connection: socket.socket) -> None:
        self._returning.append((slot, connection))
        self._channel.send(messages.Return(slot), connection, keep=True)

    def _give_back_again(self) -> None:
        if self._to_return:
            self._return(*self._to_return.popleft())

    def _building(self, chain: Chain, begins: bool) -> None:
        """Say that a chain is about to be built, or was: if that kills us, the others know which."""
        if chain.token is not None:
            self.send(messages.Building(chain.token) if begins else messages.Built(chain.token))

    def connection_succeeds(self, driver: Driver, successor: Driver) -> None:
        """A connection has another driver."""
        slot = self._slots.pop(driver, -1)
        if slot >= 0:
            self._slots[successor] = slot
            cast("Any", successor).slot = slot

    def connection_ended(self, driver: Driver) -> None:
        """A connection has gone; the supervisor is told soon, of all at once."""
        slot = self._slots.pop(driver, -1)
        if slot >= 0:
            self._ended_slots.append(slot)
        if not self._ended:
            self._loop.call_soon(self._tell_ended)
        self._ended += 1

    def retire(self, reason: str) -> None:
        """Ask for a successor."""
        if not self._wants_retirement:
            self._wants_retirement = True
            self.send(messages.WantsRetirement(reason))

    # --- what the supervisor says

    def _take_connections(self) -> None:
        while not self._closing:
            try:
                arrival = self._handover.receive()
            except Exception as error:  # of what a plugin has put into the standard library
                self._loop.remove_reader(self._handover.arrives)
                self._service.failures.report(
                    "connections can't be taken: another worker takes over",
                    kind="internal",
                    error=error,
                    traceback=True,
                )
                self.retire(f"connections can't be taken: {words_of(error)}")
                return
            if arrival is None:
                return
            number, slot, read, connection = arrival
            self.send(messages.Taken(number, connection is not None))  # before anything is read: see `in_transit`
            if connection is not None:
                self._adopt(beyond_standard_descriptors(connection), slot, read)

    def _on_message(self, message: messages.FromSupervisor, _: socket.socket | None) -> None:
        service = self._service
        match message:
            case messages.Known() | messages.Unknown() | messages.Assigned():
                self._tokens.hear(message, build=self.preloaded.done())
            case messages.Preloaded(urgent):
                self.preloaded.set_result(urgent)
            case messages.Returned(came):
                slot, returned = self._returning.popleft()
                if came:
                    service.spare.close(returned, instead=self.descriptor)
                else:
                    self._to_return.append((slot, returned))
                    self._loop.call_later(_PAUSE_SECONDS, self._give_back_again)
            case messages.Forgotten(token):
                service.confs.forget(token)
                service.on_forgotten(token)
            case messages.Rebalance(count):
                service.give_back(count, _TRIES)
            case messages.Retire():
                self._take_connections()
                self._end("retire")
            case messages.Stop(seconds=seconds):
                self._take_connections()
                self._service.drain_seconds = seconds
                self.stopped = True  # also where it retires already
                self._end("stop")
            case messages.Report(number):
                self._report(number)
            case messages.Level(level):
                logs.set_level(level)
            case messages.Reopen():
                logs.reopen()
            case messages.Apart(names):
                service.builder.apart.hear(names)

    def _adopt(self, connection: socket.socket, slot: int, read: bytes) -> None:
        made: list[object] = []

        def new_driver() -> asyncio.Protocol:
            driver: Any = self._new_connection()
            made.append(driver)
            if slot >= 0:
                self._slots[driver] = driver.slot = slot
            if read:
                driver.read = read
            return cast("asyncio.Protocol", driver)

        connection.setblocking(False)
        self._service.sockets.add(connection)
        # Not by the loop, whose factory for tasks may be a plugin's.
        task = asyncio.Task(self._loop.connect_accepted_socket(new_driver, connection), loop=self._loop)
        hide(task)
        self._adopting.add(task)
        task.add_done_callback(lambda done: self._adopted_or_not(done, connection, slot, made))

    def _adopted_or_not(
        self, task: asyncio.Task[Any], connection: socket.socket, slot: int, made: list[object]
    ) -> None:
        """See that a gateway learns at once that the loop can't take its connection (a plugin has closed something)."""
        self._adopting.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._service.failures.report("a connection can't be served; closed", kind="internal", error=error)
        for driver in made:
            self._slots.pop(driver, None)
        if slot >= 0:
            self._ended_slots.append(slot)
        if not self._ended:
            self._loop.call_soon(self._tell_ended)
        self._ended += 1
        connection.close()

    def _end(self, ending: Ending) -> None:
        if not self.ending.done():
            self.ending.set_result(ending)

    def _on_close(self) -> None:
        self._loop.remove_reader(self._handover.arrives)
        self._tokens.give_up()
        if not self.preloaded.done():
            self.preloaded.set_result(False)
        if self._handover.is_left:  # nobody else can have them; else they are the supervisor's
            self._take_connections()
        for _, connection in (*self._returning, *self._to_return):
            connection.close()
        self.stopped = True
        self._end("orphaned")

    # --- telling

    def _alive(self) -> None:
        if self._is_heard:
            self.send(messages.Alive())

    def _tell_how_it_is(self) -> None:
        if self._is_heard:
            self._report(0)

    @property
    def _is_heard(self) -> bool:
        """The supervisor reads what it's sent; one that was stopped would find days of news."""
        return self._channel.unsent < _MOST_UNSENT

    def _report(self, number: int) -> None:
        self.send(messages.Reported(number, make_report(self._service, detailed=number > 0)))

    def _tell_newly_used(self) -> None:
        """So that configurations that somebody only prepares don't drive those out that are in use."""
        tokens = self._service.confs.newly_used() if self._is_heard else ()
        if tokens:
            self.send(messages.Used(list(tokens)))

    def _tell_used(self) -> None:
        confs = self._service.confs
        self.send(messages.Used(confs.used_since(confs.now - 1)))

    def _tell_ended(self) -> None:
        if not self._ended:
            return
        ended, self._ended = self._ended, 0
        slots, self._ended_slots = self._ended_slots, []
        self.send(messages.Closed(ended, slots))
