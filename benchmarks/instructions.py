"""`python -m benchmarks.instructions`: machine instructions a call, counted by valgrind, so the same on a busy machine.

A connection of the real driver is given the frames that `make bench` sends, without sockets: what is counted is all
that the runner does with a call but for the event loop's reading and writing. Counting begins when the runner is warm.
`lean-N` are calls over the lean path, N of them in each piece of input; `kong-pdk-msgpack` and the like are events of
Kong's with one PDK call. `--recorded` counts each once more with every call recorded,
packing included, and shows how many times as much that is.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import frames
from benchmarks.kong_calls import KONG, PLUGINS, player
from benchmarks.plugins import bench, lean
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.apisix.replies import decode_conf_token
from gatewright.gateways.lean.frames import PREFACE, FrameBuffer, Kind, encode_frame
from gatewright.observe.recording import Recorder
from gatewright.plugin import Plugin
from gatewright.runtime.confs import instance_id_of
from gatewright.server.drivers.apisix.connection import Connection
from gatewright.server.drivers.apisix.driver import driver
from gatewright.server.drivers.kong.driver import SESSIONS
from gatewright.server.drivers.kong.driver import driver as kong_driver
from gatewright.server.drivers.lean.connection import LeanConnection
from gatewright.server.drivers.lean.driver import driver as lean_driver
from gatewright.server.ipc.guard import Guard
from gatewright.server.worker.service import Service
from gatewright.settings import load_settings
from tests.gateways import oracle

CONTESTANTS: dict[str, type[Plugin]] = {
    "empty": bench.Empty,
    "one-header-sync": bench.OneHeaderSync,
    "one-header-async": bench.OneHeaderAsync,
    "everything": bench.Everything,
    "ask-sync": bench.AskSync,
    "ask-async": bench.AskAsync,
}
AGENT = b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
LEAN: dict[str, tuple[type[Plugin], Kind, tuple[bytes, ...], int]] = {
    "lean-1": (lean.OneHeader, Kind.REQUEST, (b"h:user-agent", AGENT), 1),
    "lean-20": (lean.OneHeader, Kind.REQUEST, (b"h:user-agent", AGENT), 20),
    "lean-early-20": (lean.Early, Kind.RESPONSE, (b"early", b""), 20),
}
CALLS = 2000
AT_ONCE = 8
"""Events of Kong's in a turn of the loop."""
TOGETHER = 100
"""Records that are packed at once: as many calls as are served in a recorder's hundredth of a second."""


class Wire:
    """A transport that keeps the last frame. What is called with each is nobody's Python, as with a real one."""

    get_write_buffer_size = staticmethod(int)
    is_closing = staticmethod(bool)

    def __init__(self) -> None:
        self._written: deque[bytes] = deque([b""], maxlen=1)
        self.write = self._written.append

    @property
    def last(self) -> bytes:
        return self._written[0]

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


async def serve(name: str, calls: int, *, recorded: bool) -> None:
    """Serve so many calls."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    wire = Wire()
    answer = oracle.extra_info_result(b"192.0.2.7")

    def begin() -> None:  # in a callback, as the worker does it: calls come in callbacks, too
        settings = load_settings(flags={"hold_limit": 3600.0}, environ={}).settings  # valgrind takes its time
        service = Service(loop, settings, {name: CONTESTANTS[name]}, recorder=recorder(loop) if recorded else None)
        connection = driver(service)()
        connection.connection_made(wire)  # type: ignore[arg-type]
        connection.data_received(oracle.prepare_conf("route#1#ext-plugin-pre-req#1", [(name, "{}")]))
        loop.call_later(0.2, send, connection, service)

    def send(connection: Connection, service: Service) -> None:
        frame = frames.request(decode_conf_token(wire.last))
        for count in (calls // 10, calls):
            if count == calls:
                instrument("on")
            for index in range(count):
                connection.data_received(frame)
                if wire.last[0] == FrameType.EXTRA_INFO:
                    connection.data_received(answer)
                if service.recorder is not None and not index % TOGETHER:
                    service.recorder.flush()
        instrument("off")
        assert wire.last[0] == FrameType.HTTP_REQ_CALL, wire.last
        done.set_result(None)

    loop.call_soon(begin)
    await done


async def serve_lean(name: str, calls: int, *, recorded: bool) -> None:
    """Serve so many calls over the lean path."""
    plugin, kind, fields, batch = LEAN[name]
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    wire = Wire()

    def begin() -> None:
        settings = load_settings(flags={"hold_limit": 3600.0}, environ={}).settings
        service = Service(loop, settings, {"it": plugin}, recorder=recorder(loop) if recorded else None)
        connection = lean_driver(service)()
        connection.connection_made(wire)  # type: ignore[arg-type]
        prepare = encode_frame(Kind.PREPARE, 1, (b"route", b"it", b"{}"), argument=3)
        connection.data_received(PREFACE + prepare)
        loop.call_later(0.2, send, connection, service)

    def send(connection: LeanConnection, service: Service) -> None:
        token = FrameBuffer().feed(wire.last)[0][3]
        data = b"".join(encode_frame(kind, id, fields, argument=token) for id in range(1, batch + 1))
        for count in (calls // 10, calls):
            if count == calls:
                instrument("on")
            for index in range(count // batch):
                connection.data_received(data)
                if service.recorder is not None and not index % (TOGETHER // batch):
                    service.recorder.flush()
        instrument("off")
        answers = FrameBuffer().feed(wire.last)
        assert len(answers) == batch, answers
        assert answers[-1][4][-1] == b"python", answers
        done.set_result(None)

    loop.call_soon(begin)
    await done


async def serve_kong(name: str, calls: int, *, recorded: bool) -> None:
    """Serve so many of Kong's events."""
    kind, _, protocol = name.rpartition("-")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    wire = Wire()

    def begin() -> None:
        settings = load_settings(flags={"hold_limit": 3600.0}, environ={}).settings
        service = Service(
            loop, settings, {"it": PLUGINS[kind]()}, hash_token=instance_id_of,
            recorder=recorder(loop) if recorded else None,
        )  # fmt: skip
        service.guard = Guard(1)
        connection = kong_driver(service, new_session=SESSIONS[protocol], lua_style=True)()
        connection.slot = service.guard.take_slot() or 0
        connection.connection_made(wire)  # type: ignore[arg-type]
        kong = player(protocol)(connection, wire)
        kong.start()
        loop.call_later(0.2, send, kong, service)

    def send(kong: Any, service: Service) -> None:
        kong.check()
        kong.events(calls // 10)
        loop.call_soon(send_more, kong, service, calls, service.pdk_calls)

    def send_more(kong: Any, service: Service, left: int, before: int) -> None:
        """Some at once: a busy loop finds as many, and what is done after their answers is done once for all."""
        if left == calls:
            instrument("on")
        if left:
            kong.events(AT_ONCE)
            loop.call_soon(send_more, kong, service, left - AT_ONCE, before)
            return
        instrument("off")
        kong.check()
        assert service.pdk_calls == before + calls + 1, service.pdk_calls
        done.set_result(None)

    loop.call_soon(begin)
    await done


def recorder(loop: asyncio.AbstractEventLoop) -> Recorder:
    """One that has nobody to tell: what it would send is made all the same."""
    return Recorder(Wire(), loop)  # type: ignore[arg-type]


def instrument(whether: str) -> None:
    """Let valgrind, which this runs in, begin or end to count."""
    gc.collect()
    gc.freeze()  # as workers are forked: else a look at all there is falls into what is counted, or doesn't
    subprocess.run(["callgrind_control", "-i", whether, str(os.getpid())], check=True, capture_output=True)


def count(name: str, *, recorded: bool = False) -> float:
    """Instructions of a call."""
    with tempfile.TemporaryDirectory() as directory:
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={directory}/out",
             sys.executable, "-m", "benchmarks.instructions", "--serve", name,
             *(["--recorded"] if recorded else [])],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        if run.returncode:
            raise SystemExit(run.stderr)
        summary = re.search(r"^totals: (\d+)", Path(directory, "out").read_text(), re.MULTILINE)
        assert summary is not None, run.stderr
        return int(summary[1]) / CALLS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *CONTESTANTS, *LEAN, *KONG], metavar="NAME",
                        help=", ".join((*CONTESTANTS, *LEAN, *KONG)))  # fmt: skip
    parser.add_argument("--serve", metavar="NAME", help="what is counted: serve, and end")
    parser.add_argument("--recorded", action="store_true", help="also with every call recorded")
    arguments = parser.parse_args()
    if arguments.serve:
        name = arguments.serve
        kind = serve_lean if name in LEAN else serve_kong if name in KONG else serve
        uvloop.run(kind(name, CALLS, recorded=arguments.recorded))
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is needed (Debian: apt install valgrind)")
    for name in arguments.names or (*CONTESTANTS, *LEAN, *KONG):
        plain = count(name)
        print(f"{name:18} {plain:>9,.0f} instructions a call", end="" if arguments.recorded else "\n", flush=True)
        if arguments.recorded:
            recorded = count(name, recorded=True)
            print(f", recorded {recorded:>9,.0f}, {recorded / plain:.3f} times as many", flush=True)


if __name__ == "__main__":
    main()
