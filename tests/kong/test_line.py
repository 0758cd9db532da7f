"""A connection's usual turn is the same in C and in Python, whatever comes, and whatever is under way meanwhile."""

from __future__ import annotations

import asyncio
import gc
import struct
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.built import line as built
from gatewright.gateways.kong.messages import RPC_CALL
from gatewright.runtime.confs import instance_id_of
from gatewright.runtime.kong_modules import adapt
from gatewright.server.drivers import kong
from gatewright.server.drivers.kong import connection as with_c
from gatewright.server.drivers.kong import driver as drivers
from gatewright.server.ipc.guard import Guard
from gatewright.server.worker.service import Service
from gatewright.settings import load_settings
from tests.gateways.pure import again
from tests.growth import growth

_NAMES = [
    f"{kong.__name__}.{name}"
    for name in (
        "_which_line", "noted", "asking", "event", "neighbours", "instances", "native_call", "native", "sending",
        "stand_in", "connection", "driver",
    )
]  # fmt: skip
*_, plain, plain_drivers = again("gatewright.built", *_NAMES)
needs_c = pytest.mark.skipif(built is None, reason="nothing was built in C: no compiler was there")


@needs_c
def test_they_are_two() -> None:
    assert with_c.PluginServerConnection.__mro__[3] is built.Line  # type: ignore[union-attr]
    assert plain.PluginServerConnection.__mro__[3] is not built.Line  # type: ignore[union-attr]
    assert {Path(each.__file__).stem for each in (with_c, plain)} == {"connection"}


class Plugin:
    """Does something else in each phase."""

    def __init__(self, _: Any) -> None: ...

    def rewrite(self, kong: Any) -> None:
        """Nothing."""

    def access(self, kong: Any) -> None:
        """Asks, tells what it was told, and tells more."""
        told = kong.request.get_header("x-first")
        kong.response.set_header("x-told", str(told))
        kong.service.request.set_header("x-first", "1")
        kong.request.get_header("x-first")
        kong.response.set_header("x-more", "1")

    def response(self, kong: Any) -> None:
        """Fails after a call."""
        kong.response.set_header("x-first", "1")
        raise ValueError("as it wants")

    def log(self, kong: Any) -> None:
        """Says something."""
        kong.log.notice("said", 1)

    def certificate(self, kong: Any) -> None:
        """Gives nothing but a line."""
        kong.log("line")

    def preread(self, kong: Any) -> None:
        """Answers itself."""
        kong.response.exit(403, "no")


class Transport:
    """Keeps what is written, and is as full as it is told."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unsent = 0
        self.closing = self.reading = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, _: str) -> None: ...

    def is_reading(self) -> bool:
        return not self.reading

    def pause_reading(self) -> None:
        self.reading = True

    def resume_reading(self) -> None:
        self.reading = False


PHASES = ("rewrite", "access", "response", "log", "certificate", "preread", "unknown")


class Kong:
    """What Kong says on a connection, and what is to be seen of it."""

    def __init__(self, module: Any, protocol: str, *, guarded: bool = True) -> None:
        loop = asyncio.get_running_loop()
        found = load_settings(flags={"hold_limit": 3600.0}, environ={}).settings
        self.service = Service(loop, found, {"it": adapt("it", Plugin)}, hash_token=instance_id_of)
        self.service.failures.report = lambda *_, **said: self.said.append(said.get("kind"))  # type: ignore[method-assign]
        self.service.guard = Guard(2) if guarded else None
        self.said: list[Any] = []
        session = drivers.SESSIONS[protocol]
        make = module.driver(
            self.service, new_session=session, lua_style=True,
            connect=module.PluginServerConnection,
        )  # fmt: skip
        self.line = make()
        self.transport = Transport()
        if self.service.guard is not None:
            self.line.slot = self.service.guard.take_slot()
        self.line.connection_made(self.transport)
        self.line._instances.new_event_number = self._number
        self._numbers = 1000
        self.protocol, self.tickets, self.instance, self.asked = protocol, 0, 0, 0

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def close(self) -> None:
        self.line.connection_lost(None)
        self.service.bridge.close()
        self.service.guard = None

    # --- what Kong says

    def rpc(self, method: str, argument: Any) -> bytes:
        self.tickets += 1
        data: bytes = msgpack.packb([0, self.tickets, method, [argument]])
        return data

    def frame(self, **fields: Any) -> bytes:
        self.tickets += 1
        call = RPC_CALL.encode({"sequence": self.tickets, **fields})
        return struct.pack("=I", len(call)) + call

    def start(self) -> None:
        with patch("secrets.token_hex", return_value="0"):  # the same instance for both
            self._start()

    def _start(self) -> None:
        if self.protocol == "msgpack":
            self.line.data_received(self.rpc("plugin.StartInstance", {"Name": "it", "Config": "{}"}))
            self.instance = msgpack.unpackb(self.transport.written[-1])[3]["Id"]
        else:
            self.line.data_received(self.frame(start_instance={"name": "it", "config": b"{}"}))
            self.instance = next(self.service.confs.items())[0]
        self.transport.written.clear()

    def says(self, what: str, phase: str, value: Any) -> bytes:
        if self.protocol == "msgpack":
            if what == "event":
                return self.rpc("plugin.HandleEvent", {"InstanceId": self.instance, "EventName": phase})
            if what == "strange":
                return self.rpc("plugin.HandleEvent", {"InstanceId": 5, "EventName": phase})
            if what == "answer":
                return self.rpc("plugin.Step", {"EventId": self.last_event(), "Data": value})
            if what == "failed":
                return self.rpc("plugin.StepError", {"EventId": self.last_event(), "Data": "broken"})
            if what == "stale":
                return self.rpc("plugin.Step", {"EventId": 77})
            return self.rpc("plugin.GetPluginNames", None) if what == "names" else b"\xc1"
        if what in ("event", "strange"):
            number = self.instance if what == "event" else 5
            return self.frame(handle_event={"instance_id": number, "event_name": phase})
        if what in ("answer", "failed", "stale"):
            text = str(value or "").encode()
            return struct.pack("=I", len(text) + 2) + b"\x0a" + bytes([len(text)]) + text if text else bytes(4)
        return self.frame(get_plugin_names={}) if what == "names" else struct.pack("=I", 2) + b"\xff\xff"

    def last_event(self) -> int:
        for data in filter(None, reversed(self.transport.written)):
            content = msgpack.unpackb(data, strict_map_key=False)[3]
            if isinstance(content, dict) and "EventId" in content:
                return int(content["EventId"])
        return 3

    # --- what is to be seen

    def state(self) -> Any:
        line, service = self.line, self.service
        return {
            "written": [*self.transport.written],
            "note": None if service.guard is None else service.guard.asked(0),
            "counts": (service.bytes_in, service.bytes_out, service.started, service.ended, service.pdk_calls),
            "refused": dict(service.refused),
            "line": (line.asked, line._owed, line._noted, line._unread, line._ahead, line._head, line._held),
            "under way": (line.last is None, line.event is None, line._discards, line._blocked, len(line._put_off)),
            "events": [
                (each.number, each.ticket, each.over, each.verdict, each.connection is None)
                for each in line._instances.events.values()
            ],
            "transport": (self.transport.closing, self.transport.reading),
            "waiting": service.bridge.waiting,
            "said": [*self.said],
        }


SAID = (
    "event", "event", "event", "answer", "answer", "answer", "failed", "stale", "names", "strange", "wrong", "both",
    "turn", "pause", "resume", "full", "empty", "leave", "closing",
)  # fmt: skip


async def conversed(module: Any, protocol: str, script: Any, *, guarded: bool) -> list[Any]:
    """What is to be seen after each of some things that happen."""
    kong = Kong(module, protocol, guarded=guarded)
    kong.start()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    seen = []
    for what, phase, value, cut in script:
        if what == "turn":
            await asyncio.sleep(0)
        elif what == "pause":
            if not kong.line._blocked:
                kong.line.pause_writing()
        elif what == "resume":
            if kong.line._blocked:
                kong.line.resume_writing()
        elif what in ("full", "empty"):
            kong.transport.unsent = 7 if what == "full" else 0
        elif what == "leave":
            kong.service.leaving = True
        elif what == "closing":
            kong.transport.closing = True
        else:
            both = what == "both"
            data = kong.says("answer" if both else what, phase, value) + (kong.says("event", phase, 0) if both else b"")
            for piece in (data[:cut], data[cut:]) if 0 < cut < len(data) else (data,):
                try:
                    kong.line.data_received(piece)
                except Exception as error:
                    seen.append((type(error), str(error)))
        seen.append(kong.state())
    kong.close()
    await asyncio.sleep(0)
    seen.append((kong.service.started, kong.service.ended, kong.service.bridge.waiting))
    return seen


SCRIPTS = st.lists(
    st.tuples(
        st.sampled_from(SAID), st.sampled_from(PHASES), st.sampled_from((None, "v", 5, ["a"])),
        st.sampled_from((0, 0, 0, 1, 5, 20)),
    ),
    max_size=12,
)  # fmt: skip


@needs_c
@pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])
@given(script=SCRIPTS, guarded=st.booleans())
@settings(max_examples=200, deadline=None)
def test_they_converse_alike(protocol: str, script: Any, guarded: bool) -> None:
    of_c = asyncio.run(conversed(drivers, protocol, script, guarded=guarded))
    of_python = asyncio.run(conversed(plain_drivers, protocol, script, guarded=guarded))
    assert of_c == of_python


@pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])
@pytest.mark.parametrize("phase", PHASES)
def test_an_event_to_its_end_is_the_same(protocol: str, phase: str) -> None:
    script = [("event", phase, None, 0), *[("answer", phase, "v", 0), ("turn", "", None, 0)] * 6]
    of_c = asyncio.run(conversed(drivers, protocol, script, guarded=True))
    assert of_c == asyncio.run(conversed(plain_drivers, protocol, script, guarded=True))
    assert of_c[-1][0] == of_c[-1][1]


class _Broken:
    """A session that fails as it's told."""

    moves = True
    ahead = patient = False
    buffered = 0

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def receive_data(self, _: bytes) -> Any:
        raise self._error

    def last_words(self, *_: Any) -> bytes:
        return b"last"


@pytest.mark.parametrize("module", [drivers, plain_drivers], ids=["c", "python"])
@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_what_the_session_raises_refuses_what_was_asked(module: Any, error: BaseException) -> None:
    async def broken() -> list[bytes]:
        kong = Kong(module, "msgpack")
        kong.line.session = _Broken(error)
        if isinstance(error, Exception):
            kong.line.data_received(b"asked")
        else:
            with pytest.raises(type(error)):
                kong.line.data_received(b"asked")
        kong.close()
        return kong.transport.written

    assert asyncio.run(broken()) == ([b"last"] if isinstance(error, Exception) else [])


@needs_c
@pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])
def test_nothing_is_left_behind(protocol: str) -> None:
    async def served() -> None:
        kong = Kong(drivers, protocol)
        kong.start()
        await asyncio.sleep(0)

        def work(_: str) -> None:
            for phase in ["access", "log", "rewrite"] * 200:
                kong.transport.written.clear()
                kong.line._instances.to_clear = [(kong.line, -1)]  # one to come: the loop does not turn here
                kong.line.data_received(kong.says("event", phase, None))
                while kong.line._instances.events or kong.line.session.buffered:
                    kong.line.data_received(kong.says("answer", phase, "v"))
                assert kong.line.clear_guard()

        assert growth(work, None, with_c.Event, kong.line, kong.service, kong.transport) < 20_000
        kong.close()

    asyncio.run(served())


def test_a_connection_goes_that_its_event_knows() -> None:
    async def served() -> Any:
        kong = Kong(drivers, "msgpack")
        kong.start()
        await asyncio.sleep(0)
        kong.line.data_received(kong.says("event", "rewrite", None))
        kong.line.last = with_c.Event(kong.line._instances, None, "log", kong.line, 1, None)  # type: ignore[arg-type]
        kong.close()
        await asyncio.sleep(0)
        return weakref.ref(kong.line)

    line = asyncio.run(served())
    gc.collect()
    assert line() is None


@needs_c
def test_one_that_has_not_begun_does_no_harm() -> None:
    empty = built.Line.__new__(built.Line)  # type: ignore[union-attr]
    event = built.EventParts.__new__(built.EventParts)  # type: ignore[union-attr]
    uses: list[Callable[[], Any]] = [
        lambda: empty.data_received(b"x"), lambda: empty.write(b"x"), empty.clear_guard, empty._answered,
        lambda: event.chain, event.finish, lambda: event._put("kong.log", (), None), lambda: event._put(1),
        lambda: event.__init__(1), lambda: event.__init__(1, 2, 3, 4, 5, 6),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises((AttributeError, TypeError)):
            use()
