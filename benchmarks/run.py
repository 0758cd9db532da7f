"""`make bench`: the runner against the C floor, interleaved, as ratios.

Server and load generator are pinned to different cores. Contestants take turns in each round, so that a machine's moods
hit all of them; medians are shown.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
import signal
import socket as socketlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import frames
from gatewright.built import IN_C

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
CONTESTANTS = {
    "one-header-sync": "one header set, def",
    "one-header-async": "one header set, async def",
    "everything": "all decoded",
    "ask-sync": "ExtraInfo round trip, def",
    "ask-async": "ExtraInfo round trip, async def",
}

MEASURES = ("rps", "cpu_us", "busy", "p50_us", "p90_us", "p99_us", "p999_us", "max_us")


@dataclass
class Contestant:
    name: str
    text: str
    socket: Path
    pids: tuple[int, ...]
    prepare: Path | None
    before: Contestant | None = None
    """The same of the other checkout."""
    results: dict[int, list[dict[str, Any]]] = field(default_factory=dict)


def compile_tools() -> tuple[Path, Path]:
    """Compile the C programs where they changed."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("a C compiler is needed (Debian: apt-get install gcc libc6-dev)")
    BUILD.mkdir(exist_ok=True)
    tools = []
    for name in ("floor", "loadgen"):
        source, target = HERE / f"{name}.c", BUILD / name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            fresh = BUILD / f"{name}.{os.getpid()}"
            subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", fresh, source], check=True)
            fresh.replace(target)  # whole at once: another run may want it, too
        tools.append(target)
    return tools[0], tools[1]


def on_core(core: int) -> Callable[[], None]:
    """What a child does before it runs: stay on a core, and not outlive this process, however that ends."""
    prctl = ctypes.CDLL(None).prctl
    set_parent_death_signal = 1

    def prepare_child() -> None:
        os.sched_setaffinity(0, {core})
        prctl(set_parent_death_signal, signal.SIGTERM)

    return prepare_child


@contextmanager
def server(command: list[str], socket: Path, core: int, *, tree: Path | None = None) -> Iterator[tuple[int, ...]]:
    """A server on one core, until it is no longer needed; gives the ids of its processes.

    Args:
        command: what starts it.
        socket: where it will listen.
        core: where it has to stay.
        tree: a checkout whose code it runs, if it isn't this one's.
    """
    process = subprocess.Popen(
        command,
        env=None if tree is None else {**os.environ, "PYTHONPATH": str(tree)},
        cwd=tree,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=on_core(core),  # noqa: PLW1509 - there are no threads here
    )
    try:
        deadline = time.monotonic() + 20
        while not accepts(socket):
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
            if time.monotonic() > deadline:
                sys.exit(f"{' '.join(command)} did not listen within 20 seconds")
            time.sleep(0.02)
        yield process.pid, *children(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def accepts(path: Path) -> bool:
    """Whether somebody answers on the unix socket: a runner refuses a frame of no known type, the floor answers it."""
    with socketlib.socket(socketlib.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(str(path))
            client.sendall(b"\x7f\0\0\0")
            return bool(client.recv(1))
        except OSError:
            return False


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def measure(
    loadgen: Path, contestant: Contestant, files: dict[str, Path], connections: int, args: Any, *, pause: float = 0.0
) -> None:
    """One turn of one contestant, with `pause` microseconds between an answer and the next call of a connection."""
    command = [loadgen, "-s", contestant.socket, "-r", files["request"], "-a", files["answer"], "-c", connections]
    command += ["-t", args.seconds, "-w", 0.2, "-i", pause / 1e6]
    if contestant.pids:
        command += ["-P", ",".join(map(str, contestant.pids))]
    command += ["-n"] if contestant.prepare is None else ["-p", contestant.prepare]
    run = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=on_core(args.cores[0]),
    )
    if run.returncode:
        sys.exit(f"{contestant.name}: {run.stderr.strip() or run.stdout.strip()}")
    contestant.results.setdefault(connections, []).append(json.loads(run.stdout))


def report(contestants: list[Contestant], connections: list[int]) -> list[dict[str, Any]]:
    """Medians and ratios, printed and returned. Where calls are paced, the ratio of CPU time says more than theirs."""
    floor = contestants[0]
    rows = []
    width = max(len(contestant.text) for contestant in contestants)
    for count in connections:
        print(f"\n{count} connection{'s' if count > 1 else ''}")
        compared = any(contestant.before for contestant in contestants)
        print(
            f"  {'':<{width}}  {'req/s':>9}  {'of floor':>8}  {'CPU us':>7}  {'of floor':>8}"
            f"  {'p50 us':>8}  {'p99 us':>8}" + "  of before" * compared
        )
        for contestant in contestants:
            results = contestant.results[count]
            ratios = [mine["rps"] / its["rps"] for mine, its in zip(results, floor.results[count], strict=True)]
            row = {
                "contestant": contestant.name,
                "connections": count,
                "ratio": statistics.median(ratios),
                "cpu_ratio": _cpu_ratio(results, floor.results[count]),
                **{key: statistics.median(result[key] for result in results) for key in MEASURES},
            }
            before = contestant.before
            if before is not None:
                pairs = zip(results, before.results[count], strict=True)
                row["of_before"] = statistics.median(mine["rps"] / its["rps"] for mine, its in pairs)
            rows.append(row)
            cpu, times = (f"{row['cpu_us']:.2f}", f"{row['cpu_ratio']:.2f}") if contestant.pids else ("-", "-")
            print(
                f"  {contestant.text:<{width}}  {row['rps']:>9,.0f}  {row['ratio']:>8.3f}  {cpu:>7}  {times:>8}"
                f"  {row['p50_us']:>8.0f}  {row['p99_us']:>8.0f}"
                + (f"  {row['of_before']:>9.3f}" if before is not None else "")
            )
    return rows


def _cpu_ratio(results: list[dict[str, Any]], of: list[dict[str, Any]]) -> float:
    pairs = zip(results, of, strict=True)
    return statistics.median(mine["cpu_us"] / its["cpu_us"] for mine, its in pairs if its["cpu_us"])


def runner_command(socket: Path, module: str = "gatewright") -> list[str]:
    """The command that starts a runner with the plugins that are measured."""
    return [
        *(sys.executable, "-m", module, "run", "--listen", f"unix:{socket}", "--log-level", "critical"),
        *("--plugins", str(HERE / "plugins"), "--no-installed-plugins"),
    ]


_DRAIN = """
import asyncio, sys

class Drain(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"!")

async def main():
    server = await asyncio.get_running_loop().create_unix_server(Drain, sys.argv[1])
    await server.serve_forever()

asyncio.run(main())
"""
"""Takes records and throws them away."""


_NEIGHBOUR = "data = bytearray(1 << 24)\nwhile True: data.count(1)"
"""Computes, and has the caches for itself."""


@contextmanager
def _busy(core: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _NEIGHBOUR], preexec_fn=on_core(core))  # noqa: PLW1509 - no threads
    try:
        yield
    finally:
        process.kill()
        process.wait()


def positive_int(text: str) -> int:
    """A number above 0."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return int(text)


def seconds(text: str) -> float:
    """A time that is long enough to measure."""
    if not 0.01 <= float(text) <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not from 0.01 to 3600")
    return float(text)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--seconds", type=seconds, default=1.0, help="measured time of each turn")
    parser.add_argument("--rounds", type=positive_int, default=5, help="turns of each contestant")
    parser.add_argument("--connections", type=positive_int, nargs="+", default=[1, 16, 64, 128])
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--pause", type=float, default=0.0, metavar="US", help="between an answer and the next call")
    parser.add_argument("--neighbour", action="store_true", help="something else keeps the server's core busy")
    parser.add_argument("--uncounted", action="store_true", help="also a runner without metrics, to see their cost")
    parser.add_argument("--recorded", action="store_true", help="also a runner that records every call")
    parser.add_argument("--before", type=Path, metavar="DIR", help="also another checkout, as the code was before")
    parser.add_argument("--other", metavar="unix:/PATH", help="one more runner, already listening")
    parser.add_argument("--other-pid", type=int, default=0, help="its process, to charge its CPU time")
    parser.add_argument("--other-plugin", default="one-header-sync", help="what its plugin is called")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--quick", action="store_true", help="two short rounds at 64 connections")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.rounds, args.connections = 0.5, 2, [64]
    cores = sorted(os.sched_getaffinity(0))
    args.cores = (cores[0], cores[-1])
    return args


def versions() -> str:
    """What is measured with what."""
    try:
        loop = f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        loop = "stock asyncio loop"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    reader = "C" if IN_C else "Python"
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores usable"
    return f"{python}, {loop}, the hot path's parts in {reader}, {cores}"


def main() -> None:
    """The command."""
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGHUP, lambda number, frame: sys.exit(128 + number))
    try:
        run(args)
    except KeyboardInterrupt:
        sys.exit("\nstopped")


def run(args: argparse.Namespace) -> None:
    """Start the contestants, let them take turns, and print the results."""
    floor_tool, loadgen = compile_tools()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatewright-bench-")))
        names = [*args.only, "one-header-sync", *([args.other_plugin] if args.other else [])]
        files = frames.write(directory / "frames", names)
        floor_socket, runner_socket = directory / "floor.sock", directory / "runner.sock"
        floor = [str(floor_tool), str(floor_socket), str(files["floor"])]
        floor_pids = stack.enter_context(server(floor, floor_socket, args.cores[1]))
        command = runner_command(runner_socket)
        runner_pids = stack.enter_context(server(command, runner_socket, args.cores[1]))
        contestants = [Contestant("floor", "C floor", floor_socket, floor_pids, None)]
        contestants += [Contestant(n, CONTESTANTS[n], runner_socket, runner_pids, files[n]) for n in args.only]
        if args.before:
            socket = directory / "before.sock"
            tree = args.before.resolve()
            pids = stack.enter_context(server(runner_command(socket), socket, args.cores[1], tree=tree))
            for mine in contestants[1:]:
                text = f"{mine.text}, before"
                mine.before = Contestant(f"{mine.name}-before", text, socket, pids, mine.prepare)
            contestants += [mine.before for mine in contestants[1:] if mine.before is not None]
        if args.uncounted:
            socket = directory / "uncounted.sock"
            pids = stack.enter_context(server(runner_command(socket, "benchmarks.uncounted"), socket, args.cores[1]))
            text = "one header set, def, nothing counted"
            contestants.append(Contestant("uncounted", text, socket, pids, files["one-header-sync"]))
        if args.recorded:
            socket, drain = directory / "recorded.sock", directory / "drain.sock"
            stack.enter_context(server([sys.executable, "-c", _DRAIN, str(drain)], drain, args.cores[0]))
            recording = [*runner_command(socket), "--record", f"unix:{drain}"]
            pids = stack.enter_context(server(recording, socket, args.cores[1]))
            contestants += [
                Contestant(f"{n}-recorded", f"{CONTESTANTS[n]}, recorded", socket, pids, files[n]) for n in args.only
            ]
        if args.other:
            socket = Path(args.other.removeprefix("unix:"))
            pids = (args.other_pid, *children(args.other_pid)) if args.other_pid else ()
            contestants.append(Contestant("other", args.other, socket, pids, files[args.other_plugin]))
        if args.neighbour:
            stack.enter_context(_busy(args.cores[1]))
        print(versions())
        if args.cores[0] == args.cores[1]:
            print("only one core: server and generator share it, so the ratios to the floor mean little")
        turns = len(args.connections) * args.rounds * len(contestants)
        done = 0
        for connections in args.connections:
            for _ in range(args.rounds):
                for contestant in contestants:
                    measure(loadgen, contestant, files, connections, args, pause=args.pause)
                    done += 1
                    if sys.stderr.isatty():
                        print(f"\r{done}/{turns}", end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\r", end="", file=sys.stderr)
        rows = report(contestants, args.connections)
    if args.json:
        args.json.write_text(json.dumps({"versions": versions(), "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
