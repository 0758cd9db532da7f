"""Events per second and CPU time per event of plugin servers for Kong, ours and Kong's own, interleaved.

    python -m benchmarks.kong --original .venv-kong

An event is one phase of one request with 0, 1 or 4 PDK calls. Several processes play Kong; they share the cores with
the server, so the CPU time is what counts: it is the server's own, kernel included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.run import children
from tests.kong.messages import messages
from tests.kong.peer import MsgPackKong, ProtoBufKong

CALLS = (0, 1, 4)
KINDS = ("def", "async def", "threads", "-g")
"""`def` handlers that run in the loop, coroutines, `def` handlers that say `blocking = True`, and gevent."""
PLUGIN = """
class Plugin(object):
    blocking = {blocking}
    def __init__(self, config):
        pass
    {async_}def access(self, kong):
        for n in range({calls}):
            {await_}kong.response.set_header("x-runner", "python")
"""


@dataclass
class Contestant:
    name: str
    command: list[str]
    protocol: str
    kind: str = "def"
    socket: Path = Path()
    pids: list[int] = field(default_factory=list)
    results: dict[int, list[tuple[float, float]]] = field(default_factory=dict)


def play(socket: Path, protocol: str, plugin: str, seconds: float, done: Any) -> None:
    """Play Kong with one connection."""
    kong: Any = MsgPackKong(socket, 1) if protocol == "msgpack" else ProtoBufKong(socket, messages())
    instance, events, end = kong.start(plugin, {}), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        kong.event(instance, "access", {})
        kong.calls.clear()
        events += 1
    done.put(events)


def cpu_seconds(pids: list[int]) -> float:
    """CPU time of some processes."""
    ticks = 0
    for pid in pids:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(values[11]) + int(values[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def await_server(contestant: Contestant, pid: int) -> None:
    """Wait until a contestant serves: the processes that it then is are those that are measured."""
    is_ours = "-m" in contestant.command  # which serves in a process of its own
    for _ in range(300):
        time.sleep(0.2)
        contestant.pids = [pid, *children(pid)]
        if contestant.socket.exists() and (len(contestant.pids) > 1 or not is_ours):
            time.sleep(1)
            return
    raise SystemExit(f"{contestant.name} doesn't serve")


def measure(contestant: Contestant, calls: int, seconds: float, players: int) -> None:
    """One turn of one contestant."""
    done: Any = multiprocessing.Queue()
    before = cpu_seconds(contestant.pids)
    arguments = (contestant.socket, contestant.protocol, f"calls{calls}", seconds, done)
    processes = [multiprocessing.Process(target=play, args=arguments) for _ in range(players)]
    for process in processes:
        process.start()
    events = sum(done.get(timeout=seconds + 30) for _ in processes)
    for process in processes:
        process.join()
    spent = cpu_seconds(contestant.pids) - before
    contestant.results.setdefault(calls, []).append((events / seconds, spent / events * 1e6))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.kong", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--original", type=Path, help="a virtual environment with kong-pdk in it")
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--players", type=int, default=8, help="connections at work")
    parser.add_argument("--only", action="append", help="one contestant of ours, e.g. 'Protobuf, def'; may be repeated")
    args = parser.parse_args()
    messages()
    ours = [sys.executable, "-m", "kong_pdk.cli"]
    contestants = [
        Contestant(
            f"{name}, {kind}", [*ours, *(["-g"] if kind == "-g" else []), "--protocol", protocol], protocol, kind
        )
        for name, protocol in (("MessagePack", "msgpack"), ("Protobuf", "protobuf"))
        for kind in KINDS
        if not args.only or f"{name}, {kind}" in args.only
    ]
    if args.original:
        command = [str(args.original / "bin" / "kong-python-pluginserver")]
        contestants.insert(0, Contestant("kong-pdk, threads", command, "msgpack"))
        contestants.insert(1, Contestant("kong-pdk, gevent", [*command, "-g"], "msgpack"))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatewright-kong-")))
        for number, contestant in enumerate(contestants):
            plugins = directory / str(number)
            plugins.mkdir()
            is_async = contestant.kind == "async def"
            words = {"async_": "async ", "await_": "await "} if is_async else {"async_": "", "await_": ""}
            for calls in CALLS:
                source = PLUGIN.format(calls=calls, blocking=contestant.kind == "threads", **words)
                (plugins / f"calls{calls}.py").write_text(source)
            contestant.socket = directory / f"{number}.sock"
            command = [*contestant.command, "-d", str(plugins), "-p", str(directory), "--socket-name", f"{number}.sock"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            await_server(contestant, process.pid)
        for _ in range(args.rounds):
            for calls in CALLS:
                for contestant in contestants:
                    measure(contestant, calls, args.seconds, args.players)
        for calls in CALLS:
            print(f"\n{calls} PDK calls an event\n  {'':<24} {'events/s':>9}  {'CPU us':>7}  times kong-pdk per core")
            first = statistics.median(cpu for _, cpu in contestants[0].results[calls])
            for contestant in contestants:
                rate = statistics.median(rate for rate, _ in contestant.results[calls])
                cpu = statistics.median(cpu for _, cpu in contestant.results[calls])
                print(
                    f"  {contestant.name:<24} {rate:>9,.0f}  {cpu:>7.1f}  {first / cpu if args.original else 0:>6.1f}"
                )


if __name__ == "__main__":
    main()
