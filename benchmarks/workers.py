"""How connections spread over workers, and what more workers bring.

    python -m benchmarks.workers --connections 16 32 64

Compares one worker, two that are handed their connections, and two that accept for themselves. Nothing is pinned: the
generator shares the cores with the workers, so on two cores the second worker can't bring twice the throughput.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import frames
from benchmarks.run import accepts, compile_tools, runner_command
from gatewright.observe.control import ask_json

CONTESTANTS = {
    "1 worker": ("gatewright", 1),
    "2 workers, handed over": ("gatewright", 2),
    "2 workers, inherited accept": ("benchmarks.inherited", 2),
}


def spread(socket: Path) -> str:
    """How many connections each worker has."""
    workers = ask_json(f"{socket}.control", "/status")[1]["workers"]
    return "/".join(str(worker["connections"]) for worker in workers)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.workers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    loadgen = compile_tools()[1]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatewright-workers-")))
        files = frames.write(directory / "frames", ["one-header-sync"])
        sockets = {}
        for number, (name, (module, workers)) in enumerate(CONTESTANTS.items()):
            socket = sockets[name] = directory / f"{number}.sock"
            command = [*runner_command(socket, module), "--workers", str(workers)]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            while not accepts(socket):
                if process.poll() is not None:
                    sys.exit(f"{' '.join(command)} did not start")
                time.sleep(0.02)
        for connections in args.connections:
            results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
            spreads: dict[str, list[str]] = {name: [] for name in CONTESTANTS}
            for _ in range(args.rounds):
                for name, socket in sockets.items():
                    command = [loadgen, "-s", socket, "-r", files["request"], "-p", files["one-header-sync"]]
                    command += ["-c", connections, "-t", args.seconds, "-w", 0.2]
                    words = [str(part) for part in command]
                    load = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
                    time.sleep(args.seconds / 2 + 0.2)
                    spreads[name].append(spread(socket))
                    results[name].append(json.loads(load.communicate()[0]))
            print(f"\n{connections} connections\n  {'':<28} {'req/s':>9}  {'of one':>7}  {'p99 us':>7}  connections")
            for name in CONTESTANTS:
                rps = [result["rps"] for result in results[name]]
                of_one = statistics.median(a / b["rps"] for a, b in zip(rps, results["1 worker"], strict=True))
                p99 = statistics.median(result["p99_us"] for result in results[name])
                shown = " ".join(spreads[name])
                print(f"  {name:<28} {statistics.median(rps):>9,.0f}  {of_one:>7.2f}  {p99:>7,.0f}  {shown}")


if __name__ == "__main__":
    main()
