"""`make bench`: the runner against the C floor, interleaved, as ratios.

Server and load generator are pinned to different cores. Contestants take turns in each round, so that a machine's moods
hit all of them; medians are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import frames

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
CONTESTANTS = {
    "one-header-sync": "one header set, def",
    "one-header-async": "one header set, async def",
    "everything": "all decoded",
    "ask-sync": "ExtraInfo round trip, def",
    "ask-async": "ExtraInfo round trip, async def",
}


@dataclass
class Contestant:
    name: str
    text: str
    socket: Path
    pid: int
    prepare: Path | None
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
            subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", target, source], check=True)
        tools.append(target)
    return tools[0], tools[1]


@contextmanager
def server(command: list[str], socket: Path, core: int) -> Iterator[int]:
    """A server process on one core, until it is no longer needed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        os.sched_setaffinity(process.pid, {core})
        deadline = time.monotonic() + 20
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{' '.join(command)} did not start")
            time.sleep(0.02)
        time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def measure(loadgen: Path, contestant: Contestant, files: dict[str, Path], connections: int, args: Any) -> None:
    """One turn of one contestant."""
    command = [loadgen, "-s", contestant.socket, "-r", files["request"], "-a", files["answer"], "-c", connections]
    command += ["-t", args.seconds, "-w", 0.2]
    if contestant.pid:
        command += ["-P", contestant.pid]
    command += ["-n"] if contestant.prepare is None else ["-p", contestant.prepare]
    run = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {args.cores[0]}),
    )
    if run.returncode:
        sys.exit(f"{contestant.name}: {run.stderr.strip() or run.stdout.strip()}")
    contestant.results.setdefault(connections, []).append(json.loads(run.stdout))


def report(contestants: list[Contestant], connections: list[int]) -> list[dict[str, Any]]:
    """Medians and ratios, printed and returned."""
    floor = contestants[0]
    rows = []
    width = max(len(contestant.text) for contestant in contestants)
    for count in connections:
        print(f"\n{count} connection{'s' if count > 1 else ''}")
        print(f"  {'':<{width}}  {'req/s':>9}  {'of floor':>8}  {'CPU us':>7}  {'p50 us':>8}  {'p99 us':>8}")
        for contestant in contestants:
            results = contestant.results[count]
            ratios = [mine["rps"] / its["rps"] for mine, its in zip(results, floor.results[count], strict=True)]
            row = {
                "contestant": contestant.name,
                "connections": count,
                "ratio": statistics.median(ratios),
                **{key: statistics.median(r[key] for r in results) for key in ("rps", "cpu_us", "p50_us", "p99_us")},
            }
            rows.append(row)
            print(
                f"  {contestant.text:<{width}}  {row['rps']:>9,.0f}  {row['ratio']:>8.3f}  {row['cpu_us']:>7.2f}"
                f"  {row['p50_us']:>8.0f}  {row['p99_us']:>8.0f}"
            )
    return rows


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time of each turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 128])
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME")
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
        import uvloop

        loop = f"uvloop {uvloop.__version__}"
    except ImportError:
        loop = "stock asyncio loop"
    return f"{platform.python_implementation()} {platform.python_version()}, {loop}, {os.cpu_count()} cores"


def main() -> None:
    """Run all turns and print the results."""
    args = parse_arguments()
    floor_tool, loadgen = compile_tools()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatewright-bench-")))
        names = [*args.only, *([args.other_plugin] if args.other else [])]
        files = frames.write(directory / "frames", names)
        floor_socket, runner_socket = directory / "floor.sock", directory / "runner.sock"
        floor_pid = stack.enter_context(server([str(floor_tool), str(floor_socket)], floor_socket, args.cores[1]))
        command = [
            sys.executable,
            "-m",
            "gatewright",
            "run",
            "--listen",
            f"unix:{runner_socket}",
            "--log-level",
            "error",
        ]
        command += ["--plugins", str(HERE / "plugins"), "--no-installed-plugins"]
        runner_pid = stack.enter_context(server(command, runner_socket, args.cores[1]))
        contestants = [Contestant("floor", "C floor", floor_socket, floor_pid, None)]
        contestants += [Contestant(n, CONTESTANTS[n], runner_socket, runner_pid, files[n]) for n in args.only]
        if args.other:
            socket = Path(args.other.removeprefix("unix:"))
            contestants.append(Contestant("other", args.other, socket, args.other_pid, files[args.other_plugin]))
        print(versions())
        turns = len(args.connections) * args.rounds * len(contestants)
        done = 0
        for connections in args.connections:
            for _ in range(args.rounds):
                for contestant in contestants:
                    measure(loadgen, contestant, files, connections, args)
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
