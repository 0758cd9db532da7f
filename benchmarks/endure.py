"""`make endure`: what survives. Full load while workers are reloaded or killed, and a long soak.

    python -m benchmarks.endure reload --seconds 60 --every 5
    python -m benchmarks.endure kill --seconds 60 --every 5
    python -m benchmarks.endure soak --seconds 600

`reload` may lose no call, `kill` at most those that the killed worker was answering, and neither may have one refused.
`soak` drives plugins that read bodies, fail and block, and watches memory and descriptors.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
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
from benchmarks.run import accepts, compile_tools, runner_command
from gatewright.observe.control import ask_json

SOAKED = ("one-header-sync", "one-header-async", "ask-sync", "read-body", "fail", "block")
WARM_UP_SHARE = 0.3


class Endured:
    """A runner, and a load on it."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, loadgen: Path) -> None:
        self.process = process
        self.socket = directory / "runner.sock"
        self.loadgen = loadgen
        self.files = frames.write(directory / "frames", list(SOAKED))

    def status(self) -> dict[str, Any]:
        """What the runner says of itself."""
        return ask_json(f"{self.socket}.control", "/status")[1]

    def workers(self) -> list[int]:
        """The workers that serve, oldest first."""
        return [worker["pid"] for worker in self.status()["workers"] if worker["stage"] == "ready"]

    def load(self, plugin: str, seconds: float, connections: int = 64) -> subprocess.Popen[str]:
        """Start to load the runner."""
        command = [self.loadgen, "-s", self.socket, "-r", self.files["request"], "-p", self.files[plugin], "-k"]
        command += ["-a", self.files["answer"], "-c", connections, "-t", seconds, "-w", 0]
        return subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@contextmanager
def runner(workers: int, *more: str) -> Iterator[Endured]:
    """A runner with so many workers."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatewright-endure-")))
        command = [*runner_command(directory / "runner.sock"), "--workers", str(workers), *more]
        log = stack.enter_context((directory / "log").open("w+"))
        process = subprocess.Popen(command, stderr=log)
        try:
            while not accepts(directory / "runner.sock"):
                if process.poll() is not None:
                    sys.exit(f"the runner did not start: {(directory / 'log').read_text()}")
                time.sleep(0.02)
            yield Endured(process, directory, compile_tools()[1])
        finally:
            process.terminate()
            process.wait(10)


@dataclass
class Outcome:
    """What a load found.

    Attributes:
        result: loadgen's.
        done: how many reloads there were, or kills.
        lost_at_most: calls that may be lost: those under way on killed workers.
    """

    result: dict[str, Any]
    done: int
    lost_at_most: int = 0
    faults: list[str] = field(default_factory=list)


def under_load(kind: str, seconds: float, every: float, connections: int = 64) -> Outcome:
    """Reload the runner, or kill one of its two workers, every so often under full load."""
    with runner(2) as endured:
        load = endured.load("one-header-sync", seconds, connections)
        outcome = Outcome({}, 0)
        end = time.monotonic() + seconds
        while time.monotonic() + every < end:
            time.sleep(every)
            if kind == "reload":
                endured.process.send_signal(signal.SIGHUP)
            else:
                status = [worker for worker in endured.status()["workers"] if worker["stage"] == "ready"]
                killed = max(status, key=lambda worker: worker["connections"])
                outcome.lost_at_most += killed["connections"]
                os.kill(killed["pid"], signal.SIGKILL)
            outcome.done += 1
        output, errors = load.communicate()
        if load.returncode:
            outcome.faults.append(errors.strip())
        if not output:
            return outcome
        outcome.result = json.loads(output)
        if outcome.result["lost"] > outcome.lost_at_most:
            outcome.faults.append(f"{outcome.result['lost']} calls lost, at most {outcome.lost_at_most} may be")
        if kind == "reload" and endured.status()["last_reload"]["result"] != "ok":
            outcome.faults.append("the last reload failed")
        return outcome


def soak(seconds: float) -> list[str]:
    """Load a runner with all kinds of plugins for long; gives what was wrong."""
    with runner(2) as endured:
        loads = [endured.load(plugin, seconds, 8) for plugin in SOAKED]
        began = time.monotonic()
        samples: list[dict[int, tuple[int, int]]] = []
        print(f"{'s':>6}  {'calls':>12}  worker MiB (descriptors)")
        while any(load.poll() is None for load in loads):
            time.sleep(max(seconds / 60, 0.5))
            status = endured.status()
            samples.append({w["number"]: (w["memory"], w["descriptors"]) for w in status["workers"]})
            shown = "  ".join(f"{memory / 2**20:.1f} ({fds})" for memory, fds in samples[-1].values())
            calls = sum(w["calls"] for w in status["workers"])
            print(f"{time.monotonic() - began:>6.0f}  {calls:>12,}  {shown}", flush=True)
        for load in loads:
            load.communicate()
        exits = endured.status()["worker_exits"]
    faults = [f"worker {gone['worker']} ended: {gone['how']}" for gone in exits]
    warm, last = samples[int(len(samples) * WARM_UP_SHARE)], samples[-2]
    for number, (memory, descriptors) in last.items():
        if memory > warm[number][0] * 1.05 + (1 << 20):
            faults.append(f"worker {number}: {warm[number][0]:,} bytes after warm-up, {memory:,} at the end")
        if descriptors > warm[number][1] + 2:
            faults.append(f"worker {number}: {warm[number][1]} descriptors after warm-up, {descriptors} at the end")
    return faults


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.endure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("reload", "kill", "soak"))
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between reloads or kills")
    args = parser.parse_args()
    if args.kind == "soak":
        faults = soak(args.seconds)
    else:
        outcome = under_load(args.kind, args.seconds, args.every)
        faults = outcome.faults
        result = outcome.result
        print(f"{outcome.done} times: {args.kind}")
        slowest = result["max_us"] / 1000
        print(f"{result['calls']:,} calls answered, {result['rps']:,.0f} a second, slowest {slowest:.1f} ms")
        print(f"{result['lost']} lost (at most {outcome.lost_at_most} may be), {result['refused']} refused")
    for fault in faults:
        print(f"FAULT: {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
